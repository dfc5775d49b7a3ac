"""What is said of the purchase orders of contracts, as a finance person would say it."""

from collections.abc import Mapping, Sequence
from typing import Final
from uuid import UUID

from eventing import outbox
from eventing.timers import cancel_timer, set_timer
from kit import dates
from kit.db import ReadSession, WriteSession
from services.entities import domain, events, store
from services.entities.domain.contracts import IN_FORCE
from services.entities.domain.purchase_orders import PurchaseOrderUse
from services.entities.models.contracts import ContractRow

PURCHASE_ORDER: Final = "purchase-order"
"""The timers of contracts with a purchase order: on the day on which their fees come near its limit, or beyond it."""


async def find_uses(tx: ReadSession, found: Sequence[ContractRow]) -> Mapping[UUID, PurchaseOrderUse]:
    """How the purchase orders stand of those contracts that were ever active and have one with a limit."""
    limited = [row for row in found if row.purchase_order_limit is not None and row.activate_time]
    days = await store.purchase_orders.find_days(tx, {row.entity_id for row in limited}) if limited else {}
    uses = {}
    for row in limited:
        limit = row.terms.purchase_order_limit
        if limit:
            uses[row.id] = domain.purchase_orders.use_of(
                domain.fees.plan_of(row.terms, row.termination_date), limit, days[row.entity_id]
            )
    return uses


async def look_at_purchase_order(tx: WriteSession, contract_id: UUID) -> None:
    """Say that the fees of a contract have come near the limit of its purchase order, or beyond it."""
    contract = await store.contracts.lock_contract(tx, contract_id)
    await watch_purchase_order(tx, contract, await store.contracts.get_time_zone(tx, contract))


async def watch_purchase_order(tx: WriteSession, contract: ContractRow, time_zone: str) -> None:
    """Say what the fees of a contract have come to, once for each threshold, and look again when they come to the next.

    To be called wherever its state, its fees or its purchase order have changed. Another order, or another limit, is
    said anew.
    """
    terms, later = contract.terms, []
    if contract.state in IN_FORCE and terms.purchase_order_limit:
        today = dates.date_in(time_zone, await store.contracts.database_now(tx))
        plan, limit = domain.fees.plan_of(terms, contract.termination_date), terms.purchase_order_limit
        for threshold_bp, day in domain.purchase_orders.days_of_thresholds(plan, limit).items():
            if day > today:
                later.append(day)
            elif await store.purchase_orders.record_warning(tx, contract, threshold_bp):
                use = domain.purchase_orders.use_of(plan, limit, today)
                outbox.append(tx, events.published.purchase_order_limit_reached(contract, use, threshold_bp))
    if later:
        set_timer(tx, PURCHASE_ORDER, contract.id, dates.day_start(min(later), time_zone))
    else:
        cancel_timer(tx, PURCHASE_ORDER, contract.id)
