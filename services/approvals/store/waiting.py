"""How old undecided requests are, in all tenants.

Each has a timer, and timers are what the service sees of all tenants. The id of a request begins with the moment at
which it was made (UUIDv7, RFC 9562).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from kit import clock, ids

_OLDEST = text("select resource_id from timers where kind = :kind order by resource_id limit 1")
_YOUNGER = text(
    "select place, count(t.resource_id)"
    " from unnest(cast(:since as uuid[])) with ordinality as of_bounds (since, place)"
    " left join timers t on t.kind = :kind and t.resource_id >= since"
    " group by place order by place"
)
_ALL = text("select count(*) from timers where kind = :kind")


@dataclass(frozen=True, slots=True)
class Ages:
    """How many requests are undecided."""

    oldest: timedelta
    counts: Sequence[int]
    """As many as are at most as old as each bound and older than the one before; last, those above all bounds."""


async def find_ages(session: AsyncSession, kind: str, bounds: Sequence[timedelta]) -> Ages:
    """The ages of requests that have a timer, by bounds that rise; in a transaction over all tenants."""
    now = clock.now()
    oldest = (await session.execute(_OLDEST, {"kind": kind})).scalar()
    since: list[Any] = [ids.first_of(now - bound) for bound in bounds]
    younger = [count for _, count in await session.execute(_YOUNGER, {"kind": kind, "since": since})]
    everything = (await session.execute(_ALL, {"kind": kind})).scalar_one()
    counts = [count - before for before, count in zip([0, *younger], [*younger, everything], strict=True)]
    return Ages(now - ids.time_of(oldest) if oldest else timedelta(0), counts)
