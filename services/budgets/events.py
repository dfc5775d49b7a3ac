"""What the budgets service says, and what it does about what others say."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING
from uuid import UUID

from billing.approvals.v1.approval_pb2 import Approval
from billing.approvals.v1.events_pb2 import (
    ApprovalApproved,
    ApprovalCancelled,
    ApprovalChangesRequested,
    ApprovalExpired,
    ApprovalFacts,
    ApprovalRejected,
)
from billing.budgets.v1.alert_pb2 import AlertEvent
from billing.budgets.v1.events_pb2 import (
    ApprovalFundsSettled,
    BudgetAlertRaised,
    BudgetClosed,
    BudgetExhausted,
    BudgetHoldExpired,
    BudgetRolledOver,
    UnbudgetedSpendRecorded,
)
from billing.entities.v1.events_pb2 import AllocationReversed, CostAllocated, EntityDeactivated
from google.protobuf import json_format

from contract.values import money_from_proto, money_to_proto
from eventing.bus import EventBus
from eventing.consumer import Handler, on
from kit import ids
from kit.db import WriteSession
from kit.origin import Origin
from kit.telemetry import log
from services.budgets.convert import alerts, holds
from services.budgets.convert.usage import cost_from_proto, reversal_from_proto, unbudgeted_to_proto
from services.budgets.domain.balances import Balance, Terms
from services.budgets.domain.funds import SETTLEMENTS, Ended
from services.budgets.domain.lives import EntryType
from services.budgets.domain.marks import Mark
from services.budgets.models import UnbudgetedRow
from services.budgets.service import definitions
from services.budgets.store.group import StoredHold

if TYPE_CHECKING:  # they say events themselves
    from services.budgets.service.funds import Funds
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


def approval_hold_settled(stored: StoredHold, entry_type: EntryType) -> ApprovalFundsSettled:
    """The hold of an approval request was committed or given back, as that ended."""
    return ApprovalFundsSettled(
        approval_id=ids.APPROVAL.format_optional(stored.approval_id),
        round=int(stored.request_id.rpartition(":")[2]),
        budget_id=ids.BUDGET.format(stored.hold.budget_id),
        hold_id=ids.HOLD.format(stored.hold.id),
        funds=ApprovalFundsSettled.Funds.Value(SETTLEMENTS[entry_type]),
    )


def approval_funds_settled(ended: Ended, *, raised: bool, problem: str = "") -> ApprovalFundsSettled:
    """A budget was raised for an approval request, or could not follow it."""
    return ApprovalFundsSettled(
        approval_id=ids.APPROVAL.format(ended.approval_id),
        round=ended.round,
        budget_id=ids.BUDGET.format(ended.budget_id),
        funds=ApprovalFundsSettled.RAISED if raised else ApprovalFundsSettled.FAILED,
        problem=problem,
    )


async def raised_alerts(bus: EventBus, tenant_id: UUID, watch: alerts.Watch) -> AsyncGenerator[AlertEvent, None]:
    """The alerts of a tenant that somebody watches, as they are raised, each once, without end.

    Where they are to begin with the next one, an event without alert comes first: who loses the stream before there is
    an alert comes back with that, and misses none. Raises Unavailable where it can't be found out where that is.
    """
    after = watch.after
    if after is None:
        after = await bus.last_sequence()
        yield AlertEvent(event_id=str(after))
    subject = f"{BudgetAlertRaised.DESCRIPTOR.full_name}.{tenant_id.hex}"
    async with aclosing(bus.subscribe_after(subject, after)) as followed:
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


def handlers(usage: "Usage", funds: "Funds") -> Sequence[Handler]:
    """What this service does about all events that it hears."""

    @on(CostAllocated, own_transaction=True)
    async def charge_allocated_cost(_: object, origin: Origin, event: CostAllocated) -> None:
        """A cost counts against the budget that fits it best."""
        await usage.charge(origin, cost_from_proto(event))

    @on(AllocationReversed, own_transaction=True)
    async def give_back_reversed_cost(_: object, origin: Origin, event: AllocationReversed) -> None:
        """A cost that was taken back counts no more."""
        await usage.give_back(origin, reversal_from_proto(event))

    return close_budgets_of_entity, charge_allocated_cost, give_back_reversed_cost, *_handlers_of_approvals(funds)


def _handlers_of_approvals(funds: "Funds") -> Sequence[Handler]:
    @on(ApprovalApproved, own_transaction=True)
    async def follow_approval(_: object, origin: Origin, event: ApprovalApproved) -> None:
        """What was approved is committed, or the budget is raised."""
        if event.approval.budget_id:
            await funds.follow(origin, ended_from_proto(event.approval))

    async def give_back(origin: Origin, facts: ApprovalFacts) -> None:
        if facts.hold_id:
            await funds.release(origin, ended_from_proto(facts))

    @on(ApprovalRejected, own_transaction=True)
    async def release_rejected(_: object, origin: Origin, event: ApprovalRejected) -> None:
        """What was refused is not held any more."""
        await give_back(origin, event.approval)

    @on(ApprovalCancelled, own_transaction=True)
    async def release_cancelled(_: object, origin: Origin, event: ApprovalCancelled) -> None:
        """What was taken back is not held any more."""
        await give_back(origin, event.approval)

    @on(ApprovalExpired, own_transaction=True)
    async def release_expired(_: object, origin: Origin, event: ApprovalExpired) -> None:
        """What nobody decided is not held any more."""
        await give_back(origin, event.approval)

    @on(ApprovalChangesRequested, own_transaction=True)
    async def release_sent_back(_: object, origin: Origin, event: ApprovalChangesRequested) -> None:
        """What has to be changed is not held until it is asked for again."""
        await give_back(origin, event.approval)

    return follow_approval, release_rejected, release_cancelled, release_expired, release_sent_back


def ended_from_proto(facts: ApprovalFacts) -> Ended:
    """An approval request that ended, as far as it is about a budget."""
    return Ended(
        approval_id=ids.APPROVAL.parse(facts.approval_id, "approval_id"),
        round=facts.round,
        budget_id=ids.BUDGET.parse(facts.budget_id, "budget_id"),
        hold_id=ids.HOLD.parse_optional(facts.hold_id, "hold_id"),
        amount=money_from_proto(facts.amount) if facts.HasField("amount") else None,
        raises=facts.request_type == Approval.BUDGET_INCREASE,
        title=facts.title,
    )
