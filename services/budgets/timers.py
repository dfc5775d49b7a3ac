"""Handlers of timers: what the budgets service does when a point in time is reached."""

from typing import Final
from uuid import UUID

from eventing.timers import due
from kit.db import WriteSession
from kit.origin import Origin
from services.budgets import service
from services.budgets.domain.budgets import FORECAST_TIMER, LATE_POSTING_END_TIMER, PERIOD_END_TIMER
from services.budgets.domain.entries import EntryType
from services.budgets.domain.holds import HOLD_EXPIRY_TIMER
from services.budgets.domain.postings import PostingRequest
from services.budgets.errors.holds import HoldNotFound, HoldStateForbids
from services.budgets.service.dependencies import Dependencies


@due(PERIOD_END_TIMER)
async def end_period(tx: WriteSession, budget_id: UUID) -> None:
    """Open the next period of a recurring budget; another one accepts only late postings from now on."""
    await service.rollovers.end_period(tx, budget_id)


@due(LATE_POSTING_END_TIMER)
async def end_late_postings(tx: WriteSession, budget_id: UUID) -> None:
    """Close a budget whose days for late postings are over."""
    await service.budgets.close_after_late_postings(tx, budget_id)


@due(FORECAST_TIMER)
async def check_forecast(tx: WriteSession, budget_id: UUID) -> None:
    """Raise or resolve the forecast alert of a budget."""
    await service.forecasts.check_forecast(tx, budget_id)


@due(HOLD_EXPIRY_TIMER, own_transaction=True)
async def expire_hold(dependencies: Dependencies, origin: Origin, hold_id: UUID) -> None:
    """Release an expired hold. A hold that was committed or has ended is left as it is."""
    expiry = PostingRequest(entry_type=EntryType.EXPIRE, budget_id=None, hold_id=hold_id)
    try:
        await dependencies.ledger.post(origin, expiry)
    except (HoldNotFound, HoldStateForbids):
        return


HANDLERS: Final = (end_period, end_late_postings, check_forecast, expire_hold)
