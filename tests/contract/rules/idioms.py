"""Code that belongs in a shared layer: its copies in the services are counted."""

import re
from dataclasses import dataclass
from typing import Final

from tests.contract.source import Source, Violation


@dataclass(frozen=True, slots=True)
class Idiom:
    """Code that belongs in a shared layer: a pattern that finds copies of it in the services."""

    name: str
    pattern: str
    home: str
    """What to use instead."""
    allowed: int = 0
    reason: str = ""
    """Why some copies are right."""
    layers: frozenset[str] = frozenset()
    """Only in these layers; everywhere if empty."""


IDIOMS: Final = (
    Idiom("the unit of a currency", r"Decimal\(1\)\.scaleb|Decimal\(10\) \*\* -", "kit.money.unit, round_to"),
    Idiom("an advisory lock", r"pg_(try_)?advisory", "tx.lock(name, shared=…)"),
    Idiom("an insert into the outbox", r"(?i)insert into (\w+\.)?outbox", "eventing.outbox"),
    Idiom("SQL of idempotency keys", r"(?i)\b(into|from|update|join) (\w+\.)?idempotency_keys", "kit.idempotency"),
    Idiom("SQL of timers", r"(?i)\b(into|from|update|join) (\w+\.)?timers\b(?! import)", "eventing.timers"),
    Idiom("the column type of amounts", r"Numeric\(20, ?6\)", "kit.db.AMOUNT"),
    Idiom("a dry run", r"_OnlyTried|class _?DryRun|\.rollback\(", "db.write(call, dry_run=…)"),
    Idiom("a date or nothing as text", r"\.isoformat\(\) if ", "contract.values.date_text"),
    Idiom(
        "the time of the database",
        r"def \w*database_now|clock_timestamp\(|select\(func\.now\(\)\)",
        "tx.now()",
        allowed=4,
        reason="the ledger and moves of entities wait for a lock first, so the begin of the transaction is too early",
    ),
    Idiom("a time or None", r"time_from_proto\([\w.]+\) if ", "contract.values.time_or_none"),
    Idiom("money or None", r"money_from_proto\([\w.]+\) if ", "contract.values.money_or_none"),
    Idiom("an enum or None", r"\w+\(\w[\w.]*\.Name\([\w.]+\)\) if ", "contract.values.enum_or_none"),
    Idiom("None becomes NotFound", r"is None:\n\s+raise \w*NotFound", "kit.db.found", layers=frozenset({"store"})),
    Idiom("a bounded cache", r"OrderedDict|\.popitem\(|next\(iter\(self\._", "kit.cache.TtlCache"),
    Idiom("a micro-batcher", r"\.create_future\(\)|asyncio\.Queue\(", "kit.batching.Batcher"),
    Idiom("the first id of a time", r"def _?id_at\b|CLOCKS_DIFFER", "kit.ids.lower_bound, upper_bound"),
    Idiom("arithmetic of months and days", r"def _?(months_later|day_start|day_text)\b", "kit.dates"),
    Idiom("exchange rates and people", r"class (RateMissing|Rate|Person)\b", "kit.rates, kit.users"),
    Idiom(
        "a page of a list",
        r"\.(encode_token|decode_token)\(",
        "page.fetch(tx, query, id), pages.read_ordered(request, call)",
    ),
    Idiom("an object without its constructor", r"\.__new__\(", "a constructor"),
)


def idioms_exist_once(source: Source) -> list[Violation]:
    """What several services need is in a shared layer, not copied."""
    violations = []
    for idiom in IDIOMS:
        copies = [
            module.violation(_line_of(module.text, match.start()), f"{idiom.name}: use {idiom.home}")
            for module in source.of("services")
            if not idiom.layers or module.layer in idiom.layers
            for match in re.finditer(idiom.pattern, module.text)
        ]
        violations += copies if len(copies) > idiom.allowed else []
    return violations


def _line_of(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1
