"""How old undecided requests are, in all tenants.

Each has a timer, and timers are what the service sees of all tenants. The id of a request begins with the moment at
which it was made (UUIDv7, RFC 9562).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from kit import clock, ids

_AGES = text(
    "select width_bucket(resource_id, cast(:since as uuid[])) as place, count(*), min(resource_id::text) from timers"
    " where kind = :kind group by place"
)


@dataclass(frozen=True, slots=True)
class Ages:
    """How many requests are undecided."""

    oldest: timedelta
    counts: Sequence[int]
    """As many as are at most as old as each bound and older than the one before; last, those above all bounds."""


async def find_ages(session: AsyncSession, kind: str, bounds: Sequence[timedelta]) -> Ages:
    """The ages of requests that have a timer, by bounds that rise; in a transaction over all tenants."""
    now = clock.now()
    since: list[Any] = [ids.first_of(now - bound) for bound in reversed(bounds)]  # the oldest first, as ids rise
    seen = (await session.execute(_AGES, {"kind": kind, "since": since})).all()
    counts = {place: count for place, count, _ in seen}
    oldest = min((UUID(first) for _, _, first in seen), default=None)
    return Ages(
        now - ids.time_of(oldest) if oldest else timedelta(0),
        [counts.get(place, 0) for place in range(len(bounds), -1, -1)],
    )
