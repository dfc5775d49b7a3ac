"""What can be done with exchange rates, as a finance person would say it."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date

from eventing import outbox
from kit.db import ReadSession, WriteSession
from services.entities import domain, events, store
from services.entities.domain.rates import DerivedRate, RateDraft
from services.entities.errors.rates import RatesOutOfScope


@dataclass(frozen=True, slots=True)
class RatesSet:
    """How many of the rates that were to be recorded are new, were replaced, and were there already."""

    created: int
    replaced: int
    unchanged: int


@dataclass(frozen=True, slots=True)
class Conversion:
    """Money of one currency that is to become another's on a day."""

    source: str
    target: str
    day: date


async def record(tx: WriteSession, drafts: Collection[RateDraft]) -> RatesSet:
    """Record rates, each pair and day at most once, in place of what was there; say so if that changed anything."""
    if tx.scope is not None:
        raise RatesOutOfScope
    changed = await store.rates.upsert(tx, drafts)
    if changed:
        outbox.append(tx, events.published.exchange_rates_changed(changed))
    created = sum(row.version == 1 for row in changed)
    return RatesSet(created, len(changed) - created, len(drafts) - len(changed))


async def find(tx: ReadSession, conversions: Sequence[Conversion]) -> Sequence[DerivedRate | None]:
    """The rate for each conversion, in their order; None where there is none."""
    quotes = await store.rates.find_quotes(tx, {(wanted.source, wanted.target, wanted.day) for wanted in conversions})
    return [
        domain.rates.derive(wanted.source, wanted.target, wanted.day, quotes.get(wanted.day, {}))
        for wanted in conversions
    ]
