"""Fixtures of the approvals tests: a company, its budgets and its users."""

from collections.abc import Callable, Sequence
from typing import Any, Final
from uuid import UUID, uuid4

import asyncpg
import pytest
from billing.approvals.v1 import approval_rule_service_pb2 as rules_pb
from billing.approvals.v1 import approval_service_pb2 as pb
from billing.approvals.v1 import delegation_service_pb2 as delegations_pb
from billing.approvals.v1.approval_pb2 import Approval, ApprovalAction
from billing.approvals.v1.approval_rule_pb2 import ApprovalRule, ApprovalRuleStep, Approver
from billing.approvals.v1.delegation_pb2 import Delegation
from billing.budgets.v1 import budget_service_pb2 as budgets_pb
from billing.budgets.v1 import ledger_service_pb2 as ledger_pb
from billing.budgets.v1.budget_pb2 import Budget
from billing.budgets.v1.hold_pb2 import Hold
from google.protobuf.timestamp_pb2 import Timestamp

from kit import clock, ids
from services.approvals.service.opening import OpeningSaga
from tests.budgets.budgets_api import BudgetsApi, eur, money, numbers
from tests.harness.callers import Caller, refusal
from tests.harness.observe import eventually
from tests.harness.services import Approvals, Budgets, Entities

MEMBER: Final = ("approver", "procurement")
"""Roles of a user who requests and decides."""
APPROVE, REJECT = ApprovalAction.APPROVE, ApprovalAction.REJECT


def step(name: str, *approvers: str, **fields: Any) -> ApprovalRuleStep:
    """A step of a rule; its approvers as `approver` reads them."""
    return ApprovalRuleStep(name=name, approvers=map(approver, approvers), **fields)


def approver(text: str) -> Approver:
    """ "carla" is a user, "@finance" a role, and "+department_manager" a position relative to the request."""
    if text.startswith("+"):
        return Approver(**{text[1:]: True})  # type: ignore[arg-type]  # one of the three bool fields
    return Approver(role=text[1:]) if text.startswith("@") else Approver(user_id=text)


def in_hours(hours: float) -> Timestamp:
    """The time this many hours from now."""
    stamp = Timestamp()
    stamp.FromSeconds(int(clock.now().timestamp() + hours * 3600))
    return stamp


class ApprovalsApi:
    """The approvals API with short calls: users by name, requests with defaults."""

    def __init__(self, caller: Callable[..., Caller], approvals: Approvals, budgets: BudgetsApi) -> None:
        self.caller, self.stubs, self.budgets = caller, approvals, budgets
        self.admin = caller("billing_admin", subject="root")

    def user(self, user_id: str, role: str | Sequence[str] = MEMBER, **claims: Any) -> Caller:
        """A caller with a token of this user and role."""
        return self.caller(role, subject=user_id, **claims)

    async def create_rule(self, *steps: ApprovalRuleStep, **fields: Any) -> ApprovalRule:
        request = rules_pb.CreateApprovalRuleRequest(name=fields.pop("name", "rule"), steps=steps, **fields)
        return await self.admin.call(self.stubs.rules.CreateApprovalRule, request)

    def new_request(self, amount: str | None = "100.00", **fields: Any) -> pb.CreateApprovalRequest:
        """A purchase of an amount in EUR, for the company unless it has a budget."""
        values = {
            "request_type": Approval.PURCHASE,
            "title": "Laptops",
            "amount": money(amount) if amount else None,
            "request_id": uuid4().hex,
            **fields,
        }
        if not values.get("budget_id"):
            values.setdefault("entity_id", self.budgets.entity_id)
        return pb.CreateApprovalRequest(**values)

    async def submit(self, requester: str = "alice", amount: str | None = "100.00", **fields: Any) -> Approval:
        """Create the request of `new_request`."""
        request = self.new_request(amount, **fields)
        return await self.user(requester, "procurement").call(self.stubs.approvals.CreateApproval, request)

    async def start_opening(
        self, requester: str, request: pb.CreateApprovalRequest, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Create a request; the process fails after the amount is held, and before the workflow starts."""

        async def crash(*_: Any) -> None:
            raise RuntimeError("crash")

        monkeypatch.setattr(OpeningSaga, "open", crash)
        call = self.user(requester, "procurement").call(self.stubs.approvals.CreateApproval, request)
        assert (await refusal(call)).reason == "INTERNAL"
        monkeypatch.undo()

    async def act(
        self, user: str | Caller, approval: Approval, action: ApprovalAction.Type.ValueType = APPROVE, **fields: Any
    ) -> Approval:
        """Act on a request; by default, approve it."""
        request = pb.ActOnApprovalRequest(id=approval.id, action=action, **fields)
        caller = user if isinstance(user, Caller) else self.user(user)
        return await caller.call(self.stubs.approvals.ActOnApproval, request)

    async def get(self, approval: Approval, user: str = "root", role: str = "billing_admin") -> Approval:
        request = pb.GetApprovalRequest(id=approval.id)
        return await self.user(user, role).call(self.stubs.approvals.GetApproval, request)

    async def wait_for_funds(self, approval: Approval, funds: "Approval.Funds.ValueType") -> Approval:
        """Wait until the budget has settled the amount of a request, and return the request."""

        async def settled() -> bool:
            return (await self.get(approval)).funds == funds

        await eventually(settled)
        return await self.get(approval)

    async def to_decide(self, user: str | Caller, **filters: Any) -> list[str]:
        """The ids of the requests that wait for a decision of the user."""
        request = pb.ListApprovalsRequest(mine=pb.ListApprovalsRequest.TO_DECIDE, **filters)
        caller = user if isinstance(user, Caller) else self.user(user)
        return [one.id for one in (await caller.call(self.stubs.approvals.ListApprovals, request)).approvals]

    async def history(self, approval: Approval) -> list[ApprovalAction]:
        request = pb.ListApprovalActionsRequest(id=approval.id)
        return list((await self.admin.call(self.stubs.approvals.ListApprovalActions, request)).actions)

    async def delegate(self, user: str, to: str, hours: float = 24, **fields: Any) -> Delegation:
        """Delegate the decisions of a user from now on."""
        request = delegations_pb.CreateDelegationRequest(delegate=to, end_time=in_hours(hours), **fields)
        return await self.user(user).call(self.stubs.delegations.CreateDelegation, request)

    async def get_hold(self, approval: Approval) -> Hold:
        request = ledger_pb.GetHoldRequest(id=approval.budget_id, hold_id=approval.hold_id)
        return await self.budgets.who.call(self.budgets.stubs.ledger.GetHold, request)

    async def amounts(self, budget: Budget) -> tuple[str, str, str, str, str]:
        """The spent, held, committed, captured and available amounts of a budget."""
        request = budgets_pb.GetBudgetRequest(id=budget.id)
        return numbers(await self.budgets.who.call(self.budgets.stubs.budgets.GetBudget, request))


async def expire(api: ApprovalsApi, admin: "asyncpg.Pool[asyncpg.Record]", approval: Approval) -> Approval:
    """Move the deadlines of a pending request into the past until its timers have ended it; return the request."""
    approval_id = ids.APPROVAL.parse(approval.id)

    async def ended() -> bool:
        await admin.execute(_MOVE_DEADLINES, approval_id)
        await admin.execute("update approvals.timers set due_time = now() where resource_id = $1", approval_id)
        return (await api.get(approval)).state != Approval.PENDING

    await eventually(ended)
    return await api.get(approval)


_MOVE_DEADLINES = """
    update approvals.approval_requests set panel = jsonb_set(panel, '{steps}', (
        select jsonb_agg(case when step ? 'due_time'
            then step || jsonb_build_object('remind_time', now() - interval '2 s', 'due_time', now() - interval '1 s')
            else step end order by number)
        from jsonb_array_elements(panel -> 'steps') with ordinality as of_panel (step, number)))
    where id = $1 and state = 'PENDING'"""


@pytest.fixture
async def api(
    caller: Callable[..., Caller],
    finance: Caller,
    approvals: Approvals,
    budgets: Budgets,
    entities: Entities,
    tenant: UUID,
) -> ApprovalsApi:
    budget_api = BudgetsApi(finance, budgets, entities)
    budget_api.entity_id = await budget_api.company()
    return ApprovalsApi(caller, approvals, budget_api)


__all__ = ["ApprovalsApi", "api", "eur", "expire", "step"]
