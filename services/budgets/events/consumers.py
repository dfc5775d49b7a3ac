"""Handlers of events that other services publish."""

from contextlib import suppress
from typing import Final, TypeAlias

from billing.approvals.v1.events_pb2 import (
    ApprovalApproved,
    ApprovalCancelled,
    ApprovalChangesRequested,
    ApprovalExpired,
    ApprovalFacts,
    ApprovalRejected,
)
from billing.entities.v1.events_pb2 import AllocationCredited, AllocationReversed, CostAllocated, EntityDeactivated

from eventing.consumer import on
from kit import ids
from kit.db import WriteSession
from kit.errors import InvalidFields
from kit.origin import Origin
from services.budgets import convert, service
from services.budgets.service.dependencies import Dependencies


@on(EntityDeactivated)
async def close_budgets_of_entity(tx: WriteSession, event: EntityDeactivated) -> None:
    """Close the budgets of a deactivated entity."""
    await service.budgets.close_of_entity(tx, ids.ENTITY.parse(event.entity_id, "entity_id"))


async def _record_failed_cost(tx: WriteSession, event: CostAllocated) -> None:
    """Record the cost of a dead letter, if its event can be read."""
    with suppress(InvalidFields, ValueError):
        await service.allocated_costs.record_failed(tx, convert.allocated_costs.cost_from_proto(event))


@on(CostAllocated, own_transaction=True, dead_lettered=_record_failed_cost)
async def charge_allocated_cost(dependencies: Dependencies, origin: Origin, event: CostAllocated) -> None:
    """Charge an allocated cost to the best matching budget."""
    await dependencies.allocated_costs.charge(origin, convert.allocated_costs.cost_from_proto(event))


@on(AllocationReversed, own_transaction=True)
async def refund_reversed_cost(dependencies: Dependencies, origin: Origin, event: AllocationReversed) -> None:
    """Refund the charge of a reversed allocation."""
    await dependencies.allocated_costs.reverse(origin, convert.allocated_costs.reversal_from_proto(event))


@on(AllocationCredited, own_transaction=True)
async def refund_credited_cost(dependencies: Dependencies, origin: Origin, event: AllocationCredited) -> None:
    """Refund a part of the charge of an allocation."""
    await dependencies.allocated_costs.credit(origin, convert.allocated_costs.credit_from_proto(event))


Outcome: TypeAlias = (
    ApprovalApproved | ApprovalRejected | ApprovalCancelled | ApprovalExpired | ApprovalChangesRequested
)


async def _report_failure(tx: WriteSession, event: Outcome) -> None:
    """Publish that the outcome of a dead-lettered event was not applied to its budget, unless the event is invalid."""
    facts = event.approval
    changes_budget = facts.budget_id if isinstance(event, ApprovalApproved) else facts.hold_id
    if changes_budget:
        with suppress(InvalidFields, ValueError):
            service.approval_holds.report_failure(tx, convert.approvals.outcome_from_proto(facts))


@on(ApprovalApproved, own_transaction=True, dead_lettered=_report_failure)
async def apply_approval(dependencies: Dependencies, origin: Origin, event: ApprovalApproved) -> None:
    """Commit the hold of an approved request, or raise the budget by the approved amount."""
    if event.approval.budget_id:
        await dependencies.approval_holds.apply(origin, convert.approvals.outcome_from_proto(event.approval))


@on(ApprovalRejected, own_transaction=True, dead_lettered=_report_failure)
async def release_hold_of_rejected(dependencies: Dependencies, origin: Origin, event: ApprovalRejected) -> None:
    """Release the hold of a rejected request."""
    await _release(dependencies, origin, event.approval)


@on(ApprovalCancelled, own_transaction=True, dead_lettered=_report_failure)
async def release_hold_of_cancelled(dependencies: Dependencies, origin: Origin, event: ApprovalCancelled) -> None:
    """Release the hold of a cancelled request."""
    await _release(dependencies, origin, event.approval)


@on(ApprovalExpired, own_transaction=True, dead_lettered=_report_failure)
async def release_hold_of_expired(dependencies: Dependencies, origin: Origin, event: ApprovalExpired) -> None:
    """Release the hold of an expired request."""
    await _release(dependencies, origin, event.approval)


@on(ApprovalChangesRequested, own_transaction=True, dead_lettered=_report_failure)
async def release_hold_of_returned(dependencies: Dependencies, origin: Origin, event: ApprovalChangesRequested) -> None:
    """Release the hold of a request that was returned for changes; it is held again when it is resubmitted."""
    await _release(dependencies, origin, event.approval)


async def _release(dependencies: Dependencies, origin: Origin, facts: ApprovalFacts) -> None:
    if facts.hold_id:
        await dependencies.approval_holds.release(origin, convert.approvals.outcome_from_proto(facts))


HANDLERS: Final = (
    close_budgets_of_entity,
    charge_allocated_cost,
    refund_reversed_cost,
    refund_credited_cost,
    apply_approval,
    release_hold_of_rejected,
    release_hold_of_cancelled,
    release_hold_of_expired,
    release_hold_of_returned,
)
