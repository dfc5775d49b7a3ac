"""Handlers of the events of other services."""

from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from billing.budgets.v1.events_pb2 import ApprovalFundsSettled, ApprovalHoldsMoved, BudgetRolledOver
from billing.entities.v1.events_pb2 import AmendmentSubmitted, ContractSubmitted, ContractWithdrawn
from outside.users.v1.events_pb2 import UserDeactivated

from contract import validation
from eventing.consumer import Handler, on
from kit import ids
from kit.db import Database, WriteSession
from kit.errors import InvalidFields
from kit.origin import Origin
from services.approvals import convert, service
from services.approvals.clients import Clients
from services.approvals.domain.approvals import ReservationState
from services.approvals.service.opening import OpeningSaga


@dataclass(frozen=True, slots=True)
class Dependencies:
    """Dependencies of the handlers that open their own transactions."""

    db: Database
    clients: Clients
    opening: OpeningSaga


async def _report_lost_reservation(tx: WriteSession, event: ApprovalFundsSettled) -> None:
    """Show a dead letter on its request, if the event can be read."""
    with suppress(InvalidFields):
        approval_id = ids.APPROVAL.parse(event.approval_id, "approval_id")
        await service.approvals.report_lost_reservation(tx, approval_id, of_round=event.round)


@on(ApprovalFundsSettled, dead_lettered=_report_lost_reservation)
async def record_reservation(tx: WriteSession, event: ApprovalFundsSettled) -> None:
    """Store the outcome of a request's reservation, published by the budgets service."""
    await service.approvals.record_reservation(
        tx,
        ids.APPROVAL.parse(event.approval_id, "approval_id"),
        of_round=event.round,
        state=ReservationState(ApprovalFundsSettled.Funds.Name(event.funds)),
        hold_id=ids.HOLD.parse_optional(event.hold_id, "hold_id"),
        problem=event.problem,
    )


@on(BudgetRolledOver)
async def follow_rolled_over_budget(tx: WriteSession, event: BudgetRolledOver) -> None:
    """Move the open requests of a budget to the budget of its next period."""
    await service.rollovers.record(
        tx,
        ids.BUDGET.parse(event.closed_budget_id, "closed_budget_id"),
        ids.BUDGET.parse(event.opened_budget_id, "opened_budget_id"),
    )


@on(ApprovalHoldsMoved)
async def follow_moved_holds(tx: WriteSession, event: ApprovalHoldsMoved) -> None:
    """Move requests to the budget that their hold or commitment was moved to."""
    approval_ids = [ids.APPROVAL.parse(approval_id, "approval_ids") for approval_id in event.approval_ids]
    await service.rollovers.follow_holds(tx, approval_ids, ids.BUDGET.parse(event.opened_budget_id, "opened_budget_id"))


@on(UserDeactivated, own_transaction=True)
async def replace_departed_approver(dependencies: Dependencies, origin: Origin, event: UserDeactivated) -> None:
    """Replace a deactivated user in all pending requests."""
    validation.check(event)
    if await dependencies.clients.directory.is_active(origin, event.user_id):
        return  # active again
    await service.approvers.replace_departed(dependencies.db, dependencies.clients, origin, event.user_id)


async def _refuse_contract(tx: WriteSession, event: ContractSubmitted) -> None:
    await service.opening.refuse_submission(tx, convert.submissions.draft_from_contract(event))


@on(ContractSubmitted, own_transaction=True, dead_lettered=_refuse_contract)
async def open_approval_of_contract(dependencies: Dependencies, origin: Origin, event: ContractSubmitted) -> None:
    """Create the request for the approval of a submitted contract."""
    await dependencies.opening.open_submitted(origin, convert.submissions.draft_from_contract(event))


async def _refuse_amendment(tx: WriteSession, event: AmendmentSubmitted) -> None:
    await service.opening.refuse_submission(tx, convert.submissions.draft_from_amendment(event))


@on(AmendmentSubmitted, own_transaction=True, dead_lettered=_refuse_amendment)
async def open_approval_of_amendment(dependencies: Dependencies, origin: Origin, event: AmendmentSubmitted) -> None:
    """Create the request for the approval of a submitted amendment."""
    await dependencies.opening.open_submitted(origin, convert.submissions.draft_from_amendment(event))


@on(ContractWithdrawn, own_transaction=True)
async def cancel_approval_of_contract(dependencies: Dependencies, origin: Origin, event: ContractWithdrawn) -> None:
    """Cancel the open request about a withdrawn contract."""
    subject_type = convert.submissions.CONTRACT_SUBJECT
    await dependencies.opening.withdraw_submission(origin, subject_type, event.contract_id)


HANDLERS: Final[tuple[Handler, ...]] = (
    record_reservation,
    follow_rolled_over_budget,
    follow_moved_holds,
    replace_departed_approver,
    open_approval_of_contract,
    open_approval_of_amendment,
    cancel_approval_of_contract,
)
