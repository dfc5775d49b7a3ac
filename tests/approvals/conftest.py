"""The api of a company whose people ask for approvals and decide on them."""

from collections.abc import Callable
from typing import Any
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
from tests.budgets.conftest import BudgetsApi, eur, money, numbers
from tests.harness.callers import Caller
from tests.harness.observe import eventually
from tests.harness.services import Approvals, Budgets, Entities

APPROVE, REJECT = ApprovalAction.APPROVE, ApprovalAction.REJECT


def step(name: str, *who: str, **given: Any) -> ApprovalRuleStep:
    """A step that asks users, or roles where they begin with "@"; "+manager" asks the manager of the requester."""
    return ApprovalRuleStep(name=name, approvers=map(approver, who), **given)


def approver(who: str) -> Approver:
    if who.startswith("+"):
        return Approver(**{who[1:]: True})  # type: ignore[arg-type]  # one of the three that are so
    return Approver(role=who[1:]) if who.startswith("@") else Approver(user_id=who)


def in_hours(hours: float) -> Timestamp:
    """A moment so many hours from now."""
    stamp = Timestamp()
    stamp.FromSeconds(int(clock.now().timestamp() + hours * 3600))
    return stamp


class ApprovalsApi:
    """What people do with approvals, in few words."""

    def __init__(self, caller: Callable[..., Caller], approvals: Approvals, budgets: BudgetsApi) -> None:
        self.caller, self.stubs, self.budgets = caller, approvals, budgets
        self.admin = caller("billing_admin", subject="root")

    def of(self, subject: str, role: str = "department_manager", **given: Any) -> Caller:
        return self.caller(role, subject=subject, **given)

    async def rule(self, *steps: ApprovalRuleStep, **given: Any) -> ApprovalRule:
        request = rules_pb.CreateApprovalRuleRequest(name=given.pop("name", "rule"), steps=steps, **given)
        return await self.admin.call(self.stubs.rules.CreateApprovalRule, request)

    def request(self, amount: str | None = "100.00", **given: Any) -> pb.CreateApprovalRequest:
        asked = {
            "request_type": Approval.PURCHASE,
            "title": "Laptops",
            "amount": money(amount) if amount else None,
            "request_id": uuid4().hex,
            **given,
        }
        if not asked.get("budget_id"):
            asked.setdefault("entity_id", self.budgets.entity_id)
        return pb.CreateApprovalRequest(**asked)

    async def ask(self, who: str = "alice", amount: str | None = "100.00", **given: Any) -> Approval:
        return await self.of(who, "procurement").call(
            self.stubs.approvals.CreateApproval, self.request(amount, **given)
        )

    async def act(
        self, who: str | Caller, approval: Approval, action: ApprovalAction.Type.ValueType = APPROVE, **given: Any
    ) -> Approval:
        request = pb.ActOnApprovalRequest(id=approval.id, action=action, **given)
        caller = who if isinstance(who, Caller) else self.of(who)
        return await caller.call(self.stubs.approvals.ActOnApproval, request)

    async def get(self, approval: Approval, who: str = "root", role: str = "billing_admin") -> Approval:
        return await self.of(who, role).call(self.stubs.approvals.GetApproval, pb.GetApprovalRequest(id=approval.id))

    async def settled(self, approval: Approval, funds: "Approval.Funds.ValueType") -> Approval:
        """The request, as soon as its budget followed."""

        async def followed() -> bool:
            return (await self.get(approval)).funds == funds

        await eventually(followed)
        return await self.get(approval)

    async def inbox(self, who: str | Caller, **filters: Any) -> list[str]:
        """The ids of what waits for somebody."""
        request = pb.ListApprovalsRequest(mine=pb.ListApprovalsRequest.TO_DECIDE, **filters)
        caller = who if isinstance(who, Caller) else self.of(who)
        return [one.id for one in (await caller.call(self.stubs.approvals.ListApprovals, request)).approvals]

    async def history(self, approval: Approval) -> list[ApprovalAction]:
        request = pb.ListApprovalActionsRequest(id=approval.id)
        return list((await self.admin.call(self.stubs.approvals.ListApprovalActions, request)).actions)

    async def delegate(self, who: str, to: str, hours: float = 24, **given: Any) -> Delegation:
        request = delegations_pb.CreateDelegationRequest(delegate=to, end_time=in_hours(hours), **given)
        return await self.of(who).call(self.stubs.delegations.CreateDelegation, request)

    async def hold(self, approval: Approval) -> Hold:
        request = ledger_pb.GetHoldRequest(id=approval.budget_id, hold_id=approval.hold_id)
        return await self.budgets.who.call(self.budgets.stubs.ledger.GetHold, request)

    async def numbers(self, budget: Budget) -> tuple[str, str, str, str, str]:
        """What is spent, held, committed, captured and available."""
        return numbers(
            await self.budgets.who.call(self.budgets.stubs.budgets.GetBudget, budgets_pb.GetBudgetRequest(id=budget.id))
        )


async def expire(api: ApprovalsApi, admin: "asyncpg.Pool[asyncpg.Record]", approval: Approval) -> Approval:
    """Let the time of a request pass, until nobody is asked any more; the clock of the service does the rest."""
    approval_id = ids.APPROVAL.parse(approval.id)

    async def over() -> bool:
        await admin.execute(_TIME_PASSES, approval_id)
        await admin.execute("update approvals.timers set due_time = now() where resource_id = $1", approval_id)
        return (await api.get(approval)).state != Approval.PENDING

    await eventually(over)
    return await api.get(approval)


_TIME_PASSES = """
    update approvals.approval_requests set panel = jsonb_set(panel, '{steps}', (
        select jsonb_agg(case when step ? 'due_time'
            then step || jsonb_build_object('remind_time', now() - interval '2 s', 'due_time', now() - interval '1 s')
            else step end order by number)
        from jsonb_array_elements(panel -> 'steps') with ordinality as of_panel (step, number)))
    where id = $1 and state = 'PENDING'"""
"""The steps that are under way have been for as long as they may."""


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
