"""A scoped administrator reads, changes and decides nothing outside of the scope."""

from collections.abc import Awaitable, Callable
from uuid import uuid4

import pytest
from billing.approvals.v1 import approval_rule_service_pb2 as rules_pb
from billing.approvals.v1 import approval_service_pb2 as pb
from billing.approvals.v1 import delegation_service_pb2 as delegations_pb
from billing.approvals.v1.approval_pb2 import Approval, ApprovalAction
from billing.audit.v1.audit_service_pb2 import ListAuditEventsRequest
from billing.operations.v1 import operations_service_pb2 as operations_pb
from grpc import StatusCode

from kit import ids
from tests.approvals.conftest import ApprovalsApi, in_hours, step
from tests.harness.callers import Caller, refusal

RULE = ids.RULE.format(ids.new())

TENANT_WIDE_CALLS: dict[str, Callable[[ApprovalsApi, Caller], Awaitable[object]]] = {
    "create a rule": lambda api, who: who.call(
        api.stubs.rules.CreateApprovalRule,
        rules_pb.CreateApprovalRuleRequest(name="Mine", steps=[step("Me", "scoped")], is_default=True),
    ),
    "list rules": lambda api, who: who.call(api.stubs.rules.ListApprovalRules, rules_pb.ListApprovalRulesRequest()),
    "get a rule": lambda api, who: who.call(api.stubs.rules.GetApprovalRule, rules_pb.GetApprovalRuleRequest(id=RULE)),
    "update a rule": lambda api, who: who.call(
        api.stubs.rules.UpdateApprovalRule, rules_pb.UpdateApprovalRuleRequest(id=RULE, name="Mine")
    ),
    "delete a rule": lambda api, who: who.call(
        api.stubs.rules.DeleteApprovalRule, rules_pb.DeleteApprovalRuleRequest(id=RULE)
    ),
    "simulate over all requests": lambda api, who: who.call(
        api.stubs.rules.SimulateRules,
        rules_pb.SimulateRulesRequest(rule=rules_pb.CreateApprovalRuleRequest(name="Mine", auto_approve=True)),
    ),
    "read the audit log": lambda api, who: who.call(api.stubs.audit.ListAuditEvents, ListAuditEventsRequest()),
    "read dead letters": lambda api, who: who.call(
        api.stubs.operations.ListDeadLetters, operations_pb.ListDeadLettersRequest()
    ),
    "redrive a dead letter": lambda api, who: who.call(
        api.stubs.operations.RedriveDeadLetter,
        operations_pb.RedriveDeadLetterRequest(consumer="approvals.x", event_id=str(uuid4())),
    ),
    "drop a dead letter": lambda api, who: who.call(
        api.stubs.operations.DropDeadLetter,
        operations_pb.DropDeadLetterRequest(consumer="approvals.x", event_id=str(uuid4())),
    ),
}


@pytest.fixture
async def scoped(api: ApprovalsApi) -> Caller:
    """A billing_admin of one department of another company."""
    other = await api.budgets.company("OTHER")
    department = await api.budgets.department(other)
    return api.user("scoped", "billing_admin", department_scope=[department])


class TestScopedAdministrator:
    @pytest.mark.parametrize("name", TENANT_WIDE_CALLS)
    async def test_calls_about_the_whole_tenant_are_refused(self, api: ApprovalsApi, scoped: Caller, name: str) -> None:
        error = await refusal(TENANT_WIDE_CALLS[name](api, scoped))
        assert (error.code, error.reason) == (StatusCode.PERMISSION_DENIED, "TENANT_SCOPE_REQUIRED")

    async def test_rule_is_not_deleted(self, api: ApprovalsApi, scoped: Caller) -> None:
        rule = await api.create_rule(step("Controlling", "carla"))
        delete = rules_pb.DeleteApprovalRuleRequest(id=rule.id)
        assert (await refusal(scoped.call(api.stubs.rules.DeleteApprovalRule, delete))).reason == (
            "TENANT_SCOPE_REQUIRED"
        )
        listed = await api.admin.call(api.stubs.rules.ListApprovalRules, rules_pb.ListApprovalRulesRequest())
        assert [one.id for one in listed.approval_rules] == [rule.id]

    async def test_delegations_of_others_are_neither_set_nor_read_nor_ended(
        self, api: ApprovalsApi, scoped: Caller
    ) -> None:
        await api.create_rule(step("Controlling", "carla"))
        approval = await api.submit()
        seize = delegations_pb.CreateDelegationRequest(delegator="carla", delegate="scoped", end_time=in_hours(24))
        stubs = api.stubs.delegations
        assert (await refusal(scoped.call(stubs.CreateDelegation, seize))).reason == "NOT_THE_DELEGATOR"
        assert (await refusal(api.act(scoped, approval))).reason == "APPROVAL_NOT_FOUND"

        delegation = await api.delegate("carla", "dora")
        listed = await scoped.call(stubs.ListDelegations, delegations_pb.ListDelegationsRequest())
        assert not listed.delegations
        end = delegations_pb.DeleteDelegationRequest(id=delegation.id)
        assert (await refusal(scoped.call(stubs.DeleteDelegation, end))).reason == "DELEGATION_NOT_FOUND"

    async def test_administrator_of_the_tenant_sets_delegations_of_others(self, api: ApprovalsApi) -> None:
        request = delegations_pb.CreateDelegationRequest(delegator="carla", delegate="dora", end_time=in_hours(24))
        delegation = await api.admin.call(api.stubs.delegations.CreateDelegation, request)
        assert (delegation.delegator, delegation.created_by) == ("carla", "root")

    @pytest.mark.parametrize("action", [ApprovalAction.ADD_APPROVER, ApprovalAction.ESCALATE])
    async def test_out_of_scope_an_approver_has_no_rights_of_an_administrator(
        self, api: ApprovalsApi, scoped: Caller, action: ApprovalAction.Type.ValueType
    ) -> None:
        """The request is visible, because it names the administrator as approver of the second step."""
        await api.create_rule(step("First", "carla", escalate_to={"user_id": "emil"}), step("Second", "scoped"))
        approval = await api.submit()
        await api.act("carla", approval)
        second = await api.submit(amount="200.00")
        await api.act(scoped, approval, ApprovalAction.COMMENT, comment="seen")
        cancel = pb.CancelApprovalRequest(id=approval.id)
        refused = await refusal(scoped.call(api.stubs.approvals.CancelApproval, cancel))
        assert refused.reason == "NOT_THE_REQUESTER"
        target = {"target": "zoe"} if action == ApprovalAction.ADD_APPROVER else {}
        assert (await refusal(api.act(scoped, second, action, **target))).reason == "APPROVAL_NOT_FOUND"
        assert (await api.act(scoped, approval)).state == Approval.APPROVED

    async def test_within_the_scope_an_administrator_acts_for_others(self, api: ApprovalsApi) -> None:
        await api.create_rule(step("Controlling", "carla"))
        approval = await api.submit()
        admin = api.user("scoped", "billing_admin", entity_scope=[api.budgets.entity_id])
        added = await api.act(admin, approval, ApprovalAction.ADD_APPROVER, target="dora")
        assert [slot.user_id for slot in added.steps[0].seats] == ["carla", "dora"]
        cancelled = await admin.call(api.stubs.approvals.CancelApproval, pb.CancelApprovalRequest(id=approval.id))
        assert cancelled.state == Approval.CANCELLED
