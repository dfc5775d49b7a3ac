"""Group approvals: create and approve requests with fifty rules, compared with charges."""

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Final
from uuid import uuid4

from billing.approvals.v1 import approval_rule_service_pb2 as rules_pb
from billing.approvals.v1 import approval_service_pb2 as pb
from billing.approvals.v1.approval_pb2 import Approval, ApprovalAction
from billing.approvals.v1.approval_rule_pb2 import ApprovalRuleStep, Approver
from billing.approvals.v1.approval_rule_service_pb2_grpc import ApprovalRuleServiceStub
from billing.approvals.v1.approval_service_pb2_grpc import ApprovalServiceStub
from billing.budgets.v1.ledger_service_pb2_grpc import LedgerServiceStub
from billing.type.v1.money_pb2 import Money
from grpc import aio

from tests.bench.budgets import charge_call
from tests.bench.data import ChargeTarget, Factory, new_key
from tests.bench.figures import rate_goal
from tests.bench.load import CALLERS, TIMEOUT_S, Call, Runner, WrongReply, slices
from tests.bench.plan import Bench, Part
from tests.bench.stack import Metadata

_RULES: Final = 50
_WARM: Final = 4
"""Number of warm-up slices."""
_AMOUNT: Final = Money(currency_code="EUR", amount="100.00")
_FLOORS_OF: Final[Mapping[str, Sequence[str]]] = {"approvals": ("charge_beside_approvals",)}
_GOALS: Final = (rate_goal("approvals", "charge_beside_approvals", 0.4),)


def approve_call(stub: ApprovalServiceStub, entity_id: str, requesters: Sequence[Metadata], approver: Metadata) -> Call:
    """Return a call that creates and approves a request; counts as one operation."""

    async def call(number: int) -> int:
        request = pb.CreateApprovalRequest(
            request_type=Approval.PURCHASE,
            title="Laptops",
            entity_id=entity_id,
            amount=_AMOUNT,
            category=f"category-{_RULES - 1}",
            request_id=new_key(),
        )
        approval = await stub.CreateApproval(request, metadata=requesters[number], timeout=TIMEOUT_S)
        act = pb.ActOnApprovalRequest(id=approval.id, action=ApprovalAction.APPROVE)
        decided = await stub.ActOnApproval(act, metadata=approver, timeout=TIMEOUT_S)
        if decided.state != Approval.APPROVED:
            raise WrongReply(str(decided))
        return 1

    return call


@contextlib.asynccontextmanager
async def _runners(bench: Bench) -> AsyncIterator[dict[str, Runner]]:
    stack, tenant_id = bench.stack, uuid4()
    async with contextlib.AsyncExitStack() as exits:
        entities, budgets, approvals = [
            await exits.enter_async_context(aio.insecure_channel(stack.services[name].address))
            for name in ("entities", "budgets", "approvals")
        ]
        people = [stack.metadata(tenant_id, f"user-{number}") for number in range(CALLERS)]
        admin = (("authorization", f"Bearer {stack.keys.token(tenant_id, role='billing_admin', subject='carla')}"),)
        factory = Factory(entities, budgets, people[0])
        entity_id = await factory.entity()
        for number in range(_RULES):
            step = ApprovalRuleStep(name="Controlling", approvers=[Approver(user_id="carla")])
            rule = rules_pb.CreateApprovalRuleRequest(
                name=f"Rule {number}",
                request_type=Approval.PURCHASE,
                categories=[f"category-{number}"],
                amount_above=Money(currency_code="EUR", amount="10.00"),
                condition="amount_minor > 1000 && !('urgent' in attributes)",
                steps=[step],
            )
            await ApprovalRuleServiceStub(approvals).CreateApprovalRule(rule, metadata=admin, timeout=TIMEOUT_S)
        hot = [ChargeTarget(metadata, await factory.tree(1)) for metadata in people[:1]]
        yield {
            "charge_beside_approvals": slices(charge_call(LedgerServiceStub(budgets), hot), pid=stack.budgets.pid),
            "approvals": slices(
                approve_call(ApprovalServiceStub(approvals), entity_id, people, admin),
                pid=stack.services["approvals"].pid,
            ),
        }


async def measure(bench: Bench) -> None:
    """Measure requests in turn with charges."""
    async with _runners(bench) as runners:
        for _ in range(_WARM):
            await runners["approvals"]()
        async with bench.stack.admin() as admin:
            await admin.execute("analyze")  # as autovacuum does; plans made for an empty table scan it
        await bench.measure(_FLOORS_OF, runners, _GOALS)


PART: Final = Part("approvals", tuple(_FLOORS_OF), measure)
