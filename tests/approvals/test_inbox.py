"""Requests that wait for a decision of the caller (`mine=TO_DECIDE`): exactly those that the caller can decide."""

import pytest
from billing.approvals.v1.approval_pb2 import Approval, ApprovalAction
from billing.approvals.v1.approval_rule_pb2 import Approver
from grpc import aio

from tests.approvals.conftest import ApprovalsApi, step
from tests.harness.callers import Caller, refusal


async def can_approve(api: ApprovalsApi, approval: Approval, user: Caller) -> bool:
    """True if the user can approve; then they have done so."""
    try:
        await api.act(user, approval)
    except aio.AioRpcError:
        return False
    return True


class TestParallelSteps:
    @pytest.mark.parametrize("fields", [{}, {"allow_self_approval": True}])
    async def test_step_for_which_the_caller_has_no_slot_of_their_own_is_not_listed(
        self, api: ApprovalsApi, fields: dict[str, bool]
    ) -> None:
        """carla has a slot in one step, and the role of the other one."""
        steps = step("Carla", "carla"), step("Finance", "@finance")
        await api.create_rule(*steps, flow=Approval.PARALLEL, **fields)
        approval = await api.submit()
        carla, emil = (api.user(user, "finance") for user in ("carla", "emil"))
        assert (await api.to_decide(carla), await api.to_decide(emil)) == ([approval.id], [approval.id])
        await api.act(carla, approval)
        assert (await refusal(api.act(carla, approval))).reason == "ALREADY_DECIDED"
        assert (await api.to_decide(carla), await api.to_decide(emil)) == ([], [approval.id])
        assert (await api.act(emil, approval)).state == Approval.APPROVED

    async def test_second_step_is_not_listed_for_a_user_who_decided_the_first_by_role(self, api: ApprovalsApi) -> None:
        await api.create_rule(step("A", "@finance"), step("B", "@finance"), flow=Approval.PARALLEL)
        approval = await api.submit()
        emil, fritz = (api.user(user, "finance") for user in ("emil", "fritz"))
        await api.act(emil, approval)
        assert (await api.to_decide(emil), await api.to_decide(fritz)) == ([], [approval.id])

    async def test_own_slots_in_both_steps_stay_listed(self, api: ApprovalsApi) -> None:
        await api.create_rule(step("A", "carla"), step("B", "carla"), flow=Approval.PARALLEL)
        approval = await api.submit()
        await api.act("carla", approval, step=1)
        assert await api.to_decide("carla") == [approval.id]


class TestRequesters:
    @pytest.mark.parametrize("allowed", [False, True])
    async def test_own_request_is_listed_by_a_role_if_the_rule_allows_it(
        self, api: ApprovalsApi, *, allowed: bool
    ) -> None:
        await api.create_rule(step("Finance", "@finance"), allow_self_approval=allowed)
        approval = await api.submit()
        alice = api.user("alice", "finance")
        assert await api.to_decide(alice) == ([approval.id] if allowed else [])
        assert await can_approve(api, approval, alice) is allowed

    @pytest.mark.parametrize("allowed", [False, True])
    async def test_chain_through_the_requester_is_listed_if_the_rule_allows_it(
        self, api: ApprovalsApi, *, allowed: bool
    ) -> None:
        await api.create_rule(step("Carla", "carla"), allow_self_approval=allowed)
        approval = await api.submit()
        await api.delegate("carla", "alice")
        await api.delegate("alice", "dora")
        assert await api.to_decide("dora") == ([approval.id] if allowed else [])
        assert await can_approve(api, approval, api.user("dora")) is allowed


class TestScopes:
    async def test_role_counts_within_the_scope_only(self, api: ApprovalsApi) -> None:
        """emil approved a step in person and can still read the request, which is not in his scope."""
        other = await api.budgets.company("OTHER")
        await api.create_rule(step("Emil", "emil"), step("Finance", "@finance"))
        approval = await api.submit()
        emil = api.user("emil", "finance", entity_scope=[other])
        await api.act(emil, approval)
        assert await api.to_decide(emil) == []
        assert (await refusal(api.act(emil, approval))).reason == "NOT_AN_APPROVER"
        in_scope = api.user("fritz", "finance", entity_scope=[api.budgets.entity_id])
        assert await api.to_decide(in_scope) == [approval.id]


async def test_request_with_an_escalation_approver_is_listed_after_the_escalation(api: ApprovalsApi) -> None:
    await api.create_rule(step("Carla", "carla", escalate_to=Approver(user_id="erin")))
    approval = await api.submit()
    assert await api.to_decide("erin") == []
    await api.act("carla", approval, ApprovalAction.ESCALATE)
    assert await api.to_decide("erin") == [approval.id]


async def test_nothing_is_listed_without_the_permission_to_decide(api: ApprovalsApi) -> None:
    """A viewer can read the request that names them, and not decide it."""
    await api.create_rule(step("Vera", "vera"))
    approval = await api.submit()
    viewer = api.user("vera", "viewer")
    assert (await api.get(approval, "vera", "viewer")).id == approval.id
    assert await api.to_decide(viewer) == []
    assert (await refusal(api.act(viewer, approval))).reason == "PERMISSION_MISSING"
    assert await api.to_decide("vera") == [approval.id]
