"""What the clock does to budgets."""

from collections.abc import Sequence
from uuid import UUID

from eventing.timers import TimerHandler, due
from kit.db import WriteSession
from kit.origin import Origin
from services.budgets.convert import movements
from services.budgets.errors import HoldNotFound, HoldStateForbids
from services.budgets.ledger import Ledger
from services.budgets.service import forecasts, rollovers
from services.budgets.service.definitions import FORECAST, PERIOD_END
from services.budgets.service.moves import HOLD_EXPIRY


@due(PERIOD_END)
async def open_next_period(tx: WriteSession, budget_id: UUID) -> None:
    """Open the next period of a budget that recurs."""
    await rollovers.roll_over_by_itself(tx, budget_id)


@due(FORECAST)
async def look_ahead(tx: WriteSession, budget_id: UUID) -> None:
    """Look whether a budget is expected to be overspent."""
    await forecasts.look_ahead(tx, budget_id)


def timers(ledger: Ledger) -> Sequence[TimerHandler]:
    """The handlers of all timers of this service."""

    @due(HOLD_EXPIRY, own_transaction=True)
    async def expire_hold(_: object, origin: Origin, hold_id: UUID) -> None:
        """Give back what is held and was not wanted in time; what has ended or was committed stays as it is."""
        try:
            await ledger.move(movements.expiry_line(hold_id, origin))
        except (HoldNotFound, HoldStateForbids):
            return

    return expire_hold, open_next_period, look_ahead
