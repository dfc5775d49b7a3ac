"""What the budgets service says, and what it does about what others say."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING
from uuid import UUID

from billing.budgets.v1.alert_pb2 import AlertEvent
from billing.budgets.v1.events_pb2 import (
    BudgetAlertRaised,
    BudgetClosed,
    BudgetExhausted,
    BudgetHoldExpired,
    BudgetRolledOver,
    UnbudgetedSpendRecorded,
)
from billing.entities.v1.events_pb2 import AllocationReversed, CostAllocated, EntityDeactivated
from google.protobuf import json_format

from contract.values import money_to_proto
from eventing.bus import Bus
from eventing.consumer import Handler, on, on_outside
from kit import ids
from kit.db import WriteSession
from kit.origin import Origin
from kit.telemetry import log
from services.budgets.convert import alerts, holds
from services.budgets.convert.usage import cost_from_proto, reversal_from_proto, unbudgeted_to_proto
from services.budgets.domain.balances import Balance, Terms
from services.budgets.domain.marks import Mark
from services.budgets.models import UnbudgetedRow
from services.budgets.service import definitions
from services.budgets.store.group import StoredHold

if TYPE_CHECKING:  # it says events itself
    from services.budgets.service.usage import Usage


def budget_alert_raised(
    balance: Balance,
    mark: Mark,
    alert_id: UUID,
    entry_id: UUID | None,
    at: datetime,
    *,
    expected: Decimal | None = None,
) -> BudgetAlertRaised:
    """A budget passed a mark, or is `expected` to."""
    return BudgetAlertRaised(
        alert=alerts.raised_alert_to_proto(balance, mark, alert_id, entry_id, at, expected=expected),
        entity_id=ids.ENTITY.format(balance.terms.entity_id),
        department_id=ids.DEPARTMENT.format_optional(balance.terms.department_id),
    )


def budget_exhausted(terms: Terms) -> BudgetExhausted:
    """A budget has nothing left."""
    return BudgetExhausted(
        budget_id=ids.BUDGET.format(terms.id),
        entity_id=ids.ENTITY.format(terms.entity_id),
        department_id=ids.DEPARTMENT.format_optional(terms.department_id),
    )


def budget_closed(terms: Terms) -> BudgetClosed:
    """A budget takes no charge any more."""
    return BudgetClosed(
        budget_id=ids.BUDGET.format(terms.id),
        entity_id=ids.ENTITY.format(terms.entity_id),
        department_id=ids.DEPARTMENT.format_optional(terms.department_id),
    )


def budget_hold_expired(stored: StoredHold, terms: Terms) -> BudgetHoldExpired:
    """A hold was given back by the clock."""
    return BudgetHoldExpired(
        hold=holds.hold_to_proto(stored),
        entity_id=ids.ENTITY.format(terms.entity_id),
        department_id=ids.DEPARTMENT.format_optional(terms.department_id),
    )


def budget_rolled_over(closed: Terms, opened: Balance) -> BudgetRolledOver:
    """The next period of a budget was opened."""
    return BudgetRolledOver(
        closed_budget_id=ids.BUDGET.format(closed.id),
        opened_budget_id=ids.BUDGET.format(opened.terms.id),
        entity_id=ids.ENTITY.format(closed.entity_id),
        department_id=ids.DEPARTMENT.format_optional(closed.department_id),
        carried=money_to_proto(opened.money(opened.carried)),
    )


def unbudgeted_spend_recorded(row: UnbudgetedRow) -> UnbudgetedSpendRecorded:
    """No budget took a cost, or such a cost was taken back."""
    return UnbudgetedSpendRecorded(spend=unbudgeted_to_proto(row))


async def raised_alerts(bus: Bus, tenant_id: UUID, watch: alerts.Watch) -> AsyncGenerator[AlertEvent, None]:
    """The alerts of a tenant that somebody watches, as they are raised, each once, without end.

    Where they are to begin with the next one, an event without alert comes first: who loses the stream before there is
    an alert comes back with that, and misses none. Raises Unavailable where it can't be found out where that is.
    """
    after = watch.after
    if after is None:
        after = await bus.newest()
        yield AlertEvent(event_id=str(after))
    subject = f"{BudgetAlertRaised.DESCRIPTOR.full_name}.{tenant_id.hex}"
    async with aclosing(bus.follow(subject, after)) as followed:
        async for sequence, message in followed:
            try:
                said = json_format.Parse(message.data, BudgetAlertRaised(), ignore_unknown_fields=True)
            except json_format.ParseError as error:
                log.warning("this is no alert", sequence=sequence, error=str(error)[:300])
                continue
            if watch.wants(said):
                yield alerts.alert_event(sequence, said)


@on(EntityDeactivated)
async def close_budgets_of_entity(tx: WriteSession, event: EntityDeactivated) -> None:
    """An entity that is out of business spends nothing more."""
    await definitions.close_budgets_of_entity(tx, ids.ENTITY.parse(event.entity_id, "entity_id"))


def handlers(usage: "Usage") -> Sequence[Handler]:
    """What this service does about all events that it hears."""

    @on_outside(CostAllocated)
    async def charge_allocated_cost(origin: Origin, event: CostAllocated) -> None:
        """A cost counts against the budget that fits it best."""
        await usage.charge(origin, cost_from_proto(event))

    @on_outside(AllocationReversed)
    async def give_back_reversed_cost(origin: Origin, event: AllocationReversed) -> None:
        """A cost that was taken back counts no more."""
        await usage.give_back(origin, reversal_from_proto(event))

    return close_budgets_of_entity, charge_allocated_cost, give_back_reversed_cost
