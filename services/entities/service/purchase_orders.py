"""Use cases of purchase orders: how much of them is used, and warnings when thresholds are reached."""

from collections.abc import Mapping, Sequence
from uuid import UUID

from eventing import outbox
from eventing.timers import cancel_timer, set_timer
from kit import dates
from kit.db import ReadSession, WriteSession
from services.entities import domain, events, store
from services.entities.domain.contracts import IN_FORCE
from services.entities.domain.purchase_orders import THRESHOLD_TIMER, PurchaseOrderUse
from services.entities.models.contracts import ContractRow


async def list_uses(tx: ReadSession, contracts: Sequence[ContractRow]) -> Mapping[UUID, PurchaseOrderUse]:
    """Return the use of the purchase order by contract id, for contracts with a limit that have been activated."""
    limited = [row for row in contracts if row.purchase_order_limit is not None and row.activate_time]
    if not limited:
        return {}
    today = await store.purchase_orders.today_by_entity(tx, {row.entity_id for row in limited})
    uses = {}
    for row in limited:
        limit = row.terms.purchase_order_limit
        if limit:
            plan = domain.fees.build_plan(row.terms, row.termination_date)
            uses[row.id] = domain.purchase_orders.compute_use(plan, limit, today[row.entity_id])
    return uses


async def check(tx: WriteSession, contract_id: UUID) -> None:
    """Publish due warnings of the contract's purchase order and set the timer of the next one."""
    contract = await store.contracts.lock(tx, contract_id)
    await publish_warnings(tx, contract, await store.contracts.get_time_zone(tx, contract))


async def publish_warnings(tx: WriteSession, contract: ContractRow, time_zone: str) -> None:
    """Publish a warning for each threshold that the fees have reached, once, and set the timer of the next threshold.

    Must be called after each change of the contract's state, fees or purchase order. Another order number or limit
    counts as another order.
    """
    terms, next_dates = contract.terms, []
    if contract.state in IN_FORCE and terms.purchase_order_limit:
        today = dates.date_in(time_zone, await tx.now())
        plan, limit = domain.fees.build_plan(terms, contract.termination_date), terms.purchase_order_limit
        for threshold_bp, day in domain.purchase_orders.threshold_dates(plan, limit).items():
            if day > today:
                next_dates.append(day)
            elif await store.purchase_orders.insert_warning(tx, contract, threshold_bp):
                use = domain.purchase_orders.compute_use(plan, limit, today)
                outbox.append(tx, events.published.purchase_order_limit_reached(contract, use, threshold_bp))
    if next_dates:
        set_timer(tx, THRESHOLD_TIMER, contract.id, dates.day_start(min(next_dates), time_zone))
    else:
        cancel_timer(tx, THRESHOLD_TIMER, contract.id)
