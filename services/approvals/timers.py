"""Timers of requests, and the job that measures their ages."""

import asyncio
from typing import Final
from uuid import UUID

from eventing.timers import TimerHandler, due, measure_ages
from kit.db import Database, WriteSession
from kit.origin import Origin
from kit.telemetry import log
from services.approvals import metrics, service
from services.approvals.domain.approvals import DEADLINE_TIMER, OPENING_TIMER
from services.approvals.service.opening import OpeningSaga

_MEASURE_EVERY_S: Final = 15.0


@due(DEADLINE_TIMER)
async def apply_deadlines(tx: WriteSession, approval_id: UUID) -> None:
    """Remind the approvers of a request, escalate it, or let it expire."""
    await service.approvals.apply_deadlines(tx, approval_id)


@due(OPENING_TIMER, own_transaction=True)
async def resume_opening(opening: OpeningSaga, origin: Origin, approval_id: UUID) -> None:
    """Continue an opening that another replica or call left incomplete."""
    await opening.resume(origin, approval_id)


HANDLERS: Final[tuple[TimerHandler, ...]] = (apply_deadlines, resume_opening)


async def measure_periodically(db: Database) -> None:
    """Measure the ages of undecided requests of all tenants until cancelled. Every replica reports the same values."""
    while True:
        try:
            await measure(db)
        except Exception as error:  # noqa: BLE001 - for example PostgreSQL is unavailable: the next round measures again
            log.warning("ages of pending approvals not measured", error=error)
        await asyncio.sleep(_MEASURE_EVERY_S)


async def measure(db: Database) -> None:
    """Measure the ages of undecided requests once."""
    ages = await measure_ages(db, DEADLINE_TIMER, list(metrics.AGES.values()))
    metrics.set_pending_ages(ages.oldest, ages.counts)
