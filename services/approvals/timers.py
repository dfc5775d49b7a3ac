"""What the clock does to requests."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final
from uuid import UUID

from eventing.timers import TimerHandler, Timers, due
from kit.db import Database, WriteSession
from kit.origin import Origin
from kit.telemetry import log
from services.approvals import measures
from services.approvals.service import requests
from services.approvals.service.opening import Opening
from services.approvals.service.requests import CLOCK, OPENING
from services.approvals.store import waiting

_LOOK_EVERY_S: Final = 15.0


@due(CLOCK)
async def look_at_request(tx: WriteSession, approval_id: UUID) -> None:
    """Remind those who are asked, escalate, or end a request."""
    await requests.tick(tx, approval_id)


def timers(opening: Opening) -> Sequence[TimerHandler]:
    """The handlers of all timers of this service."""

    @due(OPENING, own_transaction=True)
    async def finish_opening(_: object, origin: Origin, approval_id: UUID) -> None:
        """Finish or undo what a replica left undone."""
        await opening.recover(origin, approval_id)

    return look_at_request, finish_opening


def jobs(db: Database, service: str, opening: Opening) -> Sequence[Callable[[], Awaitable[None]]]:
    """What runs as long as the service does."""
    return Timers(db, service, timers(opening)).run, partial(watch_waiting, db)


async def watch_waiting(db: Database) -> None:
    """Measure how old undecided requests are, of all tenants, until cancelled; every replica says the same."""
    while True:
        try:
            await look_at_waiting(db)
        except Exception as error:  # noqa: BLE001 - PostgreSQL is away: the next look tells
            log.warning("the age of approvals is not measured", error=repr(error)[:300])
        await asyncio.sleep(_LOOK_EVERY_S)


async def look_at_waiting(db: Database) -> None:
    """Measure it once."""
    async with db.all_tenants() as session:
        ages = await waiting.find_ages(session, CLOCK, list(measures.AGES.values()))
    measures.waiting(ages.oldest, ages.counts)
