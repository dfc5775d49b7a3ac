"""Ids: UUIDv7 in the database, `<prefix>_<32 hex digits>` in the API.

The hex digits are the UUID without dashes, so PostgreSQL accepts them as a uuid.
"""

import os
import re
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, cast
from uuid import UUID

from asyncpg.pgproto import pgproto

from kit.errors import InvalidFields, Violation

_last = 0
_random: list[int] = []
"""Unused random numbers. They are read in blocks, because a call to the kernel takes longer than the rest of `new`."""
_RANDOM_BLOCK = struct.Struct("512Q")
os.register_at_fork(after_in_child=_random.clear)

_DIGITS = re.compile("[0-9a-f]{32}")
# The UUID class of asyncpg: ten times as fast to create, hash and compare.
uuid_of = cast("Callable[[str | bytes], UUID]", pgproto.UUID)


def new() -> UUID:
    """Return a UUIDv7 (RFC 9562, method 3): the time to a quarter of a microsecond, unique in the process, then random.

    The 62 random bits are those of the operating system, so that ids can't be guessed.
    """
    global _last  # noqa: PLW0603 - the next id must be greater
    milliseconds, nanoseconds = divmod(time.time_ns(), 1_000_000)
    _last = max(milliseconds << 12 | (nanoseconds << 12) // 1_000_000, _last + 1)
    if not _random:
        _random.extend(_RANDOM_BLOCK.unpack(os.urandom(_RANDOM_BLOCK.size)))
    random = _random.pop() >> 2
    return uuid_of(((_last >> 12) << 80 | 0x7 << 76 | (_last & 0xFFF) << 64 | 0x2 << 62 | random).to_bytes(16, "big"))


def first_of(moment: datetime) -> UUID:
    """Return the smallest id that `new` can return at this moment or later."""
    return uuid_of((int(moment.timestamp() * 1000) << 80 | 0x7 << 76 | 0x2 << 62).to_bytes(16, "big"))


CLOCK_SKEW_MAX: Final = timedelta(minutes=5)
"""Upper bound on the difference between the clock behind an id and the one behind the row's `create_time`.

Hosts whose clocks differ by more can't work together in any case: the tokens that services send one another are valid
for five minutes.
"""


def lower_bound(moment: datetime) -> UUID:
    """Return an id that is at most the id of every row with a `create_time` at or after `moment`.

    Narrows a query by `create_time` to a range of the primary key; the query still compares `create_time` itself.
    """
    return first_of(moment - CLOCK_SKEW_MAX)


def upper_bound(moment: datetime) -> UUID:
    """Return an id that is greater than the id of every row with a `create_time` before `moment`."""
    return first_of(moment + CLOCK_SKEW_MAX)


def time_of(id: UUID) -> datetime:
    """Return the time at which `new` made the id, in milliseconds."""
    return datetime.fromtimestamp((id.int >> 80) / 1000, UTC)


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of id, such as budget ids."""

    prefix: str
    noun: str
    """With its article: "a budget"."""

    @property
    def name(self) -> str:
        """The noun without its article: "budget"."""
        return self.noun.partition(" ")[2]

    @property
    def field(self) -> str:
        """Name of a field with such an id: "budget_id"."""
        return f"{self.name.replace(' ', '_')}_id"

    def format(self, id: UUID) -> str:
        """Format as in the API."""
        return f"{self.prefix}_{id.hex}"

    def format_optional(self, id: UUID | None) -> str:
        """Format as in the API; empty text for None."""
        return "" if id is None else self.format(id)

    def parse(self, text: str, field: str = "id") -> UUID:
        """Parse an id of the API. Raises InvalidFields for `field` if it is not an id of this kind."""
        prefix, _, digits = text.partition("_")
        if prefix != self.prefix or not _DIGITS.fullmatch(digits):
            raise InvalidFields([Violation(field, self.describe(text), "id.kind")])
        return uuid_of(digits)

    def parse_optional(self, text: str, field: str = "id") -> UUID | None:
        """Parse like `parse`; None for empty text."""
        return self.parse(text, field) if text else None

    def find_all(self, text: str) -> set[UUID]:
        """Return the ids of this kind that occur in a text."""
        return {uuid_of(digits) for digits in re.findall(rf"\b{self.prefix}_([0-9a-f]{{32}})\b", text)}

    def describe(self, text: str) -> str:
        """Return why `text` is not an id of this kind."""
        expected = f"must be the id of {self.noun}: {self.prefix}_ and 32 hexadecimal digits"
        other = KINDS.get(text.partition("_")[0])
        return f"{expected}; this is the id of {other.noun}" if other and other is not self else expected


ENTITY = Kind("ent", "an entity")
DEPARTMENT = Kind("dep", "a department")
ALLOCATION = Kind("alc", "a cost allocation")
ALLOCATION_RULE = Kind("arl", "an allocation rule")
COST_SPLIT = Kind("spl", "a cost split")
CONTRACT = Kind("con", "a contract")
AMENDMENT = Kind("amd", "an amendment")
INVOICE = Kind("inv", "an invoice")
BILLING_PROFILE = Kind("bpr", "a billing profile")
INVOICE_LINE = Kind("iln", "an invoice line")
INVOICE_SCHEDULE = Kind("isc", "an invoice schedule")
INVOICE_RUN = Kind("irn", "an invoice run")
INVOICE_PAYMENT = Kind("ipy", "an invoice payment")
CREDIT_NOTE = Kind("crn", "a credit note")
REFUND = Kind("rfd", "a refund")
BUDGET = Kind("bud", "a budget")
ENTRY = Kind("ety", "a ledger entry")
HOLD = Kind("hld", "a hold")
ALERT = Kind("alr", "an alert")
APPROVAL = Kind("apr", "an approval request")
RULE = Kind("rul", "a rule")
DELEGATION = Kind("dlg", "a delegation")
DISPUTE = Kind("dsp", "a dispute")
INTEGRATION = Kind("int", "an integration")
SYNC = Kind("syn", "a sync")
MAPPING = Kind("map", "a mapping")
REPORT = Kind("rpt", "a report")
WEBHOOK = Kind("whk", "a webhook endpoint")

KINDS = {kind.prefix: kind for kind in list(globals().values()) if isinstance(kind, Kind)}
