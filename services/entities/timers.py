"""Timer handlers of the entities service: department moves, notices and ends of contracts, amendments, invoice runs."""

from typing import Final
from uuid import UUID

from eventing.timers import TimerHandler, Timers, due
from kit.db import Database, WriteSession
from kit.origin import Origin
from services.entities import service, store
from services.entities.domain.amendments import EFFECTIVE_TIMER
from services.entities.domain.contracts import END_TIMER, NOTICE_TIMER
from services.entities.domain.invoice_schedules import RUN_TIMER
from services.entities.domain.placements import MOVES_TIMER
from services.entities.domain.purchase_orders import THRESHOLD_TIMER
from services.entities.service.invoice_runs import InvoiceRuns


@due(MOVES_TIMER)
async def move_departments(tx: WriteSession, entity_id: UUID) -> None:
    """Apply the planned moves of an entity's departments that are effective from today on."""
    await service.placements.apply_due(tx, await store.entities.lock_unscoped(tx, entity_id))


@due(NOTICE_TIMER)
async def send_renewal_notice(tx: WriteSession, contract_id: UUID) -> None:
    """Announce the end of a contract."""
    await service.renewals.send_notice(tx, contract_id)


@due(END_TIMER)
async def end_contract_term(tx: WriteSession, contract_id: UUID) -> None:
    """End, renew or expire a contract whose term is over."""
    await service.renewals.end_term(tx, contract_id)


@due(EFFECTIVE_TIMER)
async def apply_amendment(tx: WriteSession, amendment_id: UUID) -> None:
    """Apply an approved amendment on its effective date, or reject it if that is no longer possible."""
    await service.amendments.apply_due(tx, amendment_id)


@due(THRESHOLD_TIMER)
async def check_purchase_order(tx: WriteSession, contract_id: UUID) -> None:
    """Publish warnings about the purchase order of a contract."""
    await service.purchase_orders.check(tx, contract_id)


@due(RUN_TIMER, own_transaction=True)
async def run_invoice_schedule(runs: InvoiceRuns, origin: Origin, schedule_id: UUID) -> None:
    """Make the invoice of the next period of a schedule."""
    await runs.run(origin, schedule_id)


HANDLERS: Final[tuple[TimerHandler, ...]] = (
    move_departments,
    send_renewal_notice,
    end_contract_term,
    apply_amendment,
    check_purchase_order,
)
INVOICE_RUNS: Final[tuple[TimerHandler, ...]] = (run_invoice_schedule,)
_INVOICE_RUN_S: Final = 60.0
"""Time limit of a run, which may collect 100,000 allocations."""


def invoice_runs(db: Database, service_name: str) -> Timers:
    """Return the timers of runs of invoice schedules, which may take longer than other timers."""
    return Timers(
        db,
        service_name,
        INVOICE_RUNS,
        InvoiceRuns(db),
        queue="invoice-runs",
        poll_s=2.0,
        lease_s=2 * _INVOICE_RUN_S,
        handler_s=_INVOICE_RUN_S,
    )
