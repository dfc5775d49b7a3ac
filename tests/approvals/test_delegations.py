"""Delegations: decisions on behalf of others, and their validation."""

import pytest
from billing.approvals.v1 import delegation_service_pb2 as pb
from billing.approvals.v1.approval_pb2 import Approval, ApprovalAction
from billing.approvals.v1.delegation_pb2 import Delegation

from services.approvals import domain
from tests.approvals.conftest import ApprovalsApi, in_hours, step
from tests.harness.callers import refusal


class TestDecision:
    async def test_delegate_decides_pending_requests_and_history_shows_both_users(self, api: ApprovalsApi) -> None:
        await api.create_rule(step("Controlling", "carla"))
        approval = await api.submit()
        assert (await refusal(api.act("dora", approval))).reason == "NOT_AN_APPROVER"
        await api.delegate("carla", "dora")
        assert await api.to_decide("dora") == [approval.id]
        approved = await api.act("dora", approval)
        assert (approved.state, approved.steps[0].seats[0].on_behalf_of) == (Approval.APPROVED, "carla")
        last = (await api.history(approval))[-1]
        assert (last.action, last.actor, last.on_behalf_of) == (ApprovalAction.APPROVE, "dora", "carla")

    async def test_requester_does_not_decide_as_a_delegate(self, api: ApprovalsApi) -> None:
        await api.create_rule(step("Controlling", "carla"))
        approval = await api.submit("dora")
        await api.delegate("carla", "dora")
        assert await api.to_decide("dora") == []
        assert (await refusal(api.act("dora", approval))).reason == "SELF_APPROVAL"

    async def test_chain_through_the_requester_does_not_count(self, api: ApprovalsApi) -> None:
        """grace delegated to luis, and luis to dave: dave decides for grace, but not about a request of luis."""
        await api.create_rule(step("Grace", "grace"), is_default=True)
        approval, other = await api.submit("luis"), await api.submit("alice")
        await api.delegate("grace", "luis")
        await api.delegate("luis", "dave")
        assert await api.to_decide("dave") == [other.id]
        assert (await refusal(api.act("dave", approval))).reason == "NOT_AN_APPROVER"
        assert (await api.act("dave", other)).state == Approval.APPROVED

    async def test_delegations_are_transitive_until_one_ends(self, api: ApprovalsApi) -> None:
        await api.create_rule(step("Controlling", "carla"))
        approval = await api.submit()
        await api.delegate("carla", "dora")
        second = await api.delegate("dora", "emil")
        assert await api.to_decide("emil") == [approval.id]
        request = pb.DeleteDelegationRequest(id=second.id)
        ended = await api.user("dora").call(api.stubs.delegations.DeleteDelegation, request)
        assert ended.state == Delegation.ENDED
        assert await api.to_decide("emil") == []


class TestCreation:
    async def test_scheduled_delegation_has_no_effect_yet(self, api: ApprovalsApi) -> None:
        await api.create_rule(step("Controlling", "carla"))
        await api.submit()
        delegation = await api.delegate("carla", "dora", start_time=in_hours(1), hours=2)
        assert (delegation.state, await api.to_decide("dora")) == (Delegation.SCHEDULED, [])

    async def test_only_an_administrator_delegates_for_another_user(self, api: ApprovalsApi) -> None:
        request = pb.CreateDelegationRequest(delegator="carla", delegate="dora", end_time=in_hours(1))
        delegation = await api.admin.call(api.stubs.delegations.CreateDelegation, request)
        assert (delegation.delegator, delegation.created_by) == ("carla", "root")
        error = await refusal(api.user("mallory").call(api.stubs.delegations.CreateDelegation, request))
        assert error.reason == "NOT_THE_DELEGATOR"

    async def test_overlapping_delegations_are_rejected(self, api: ApprovalsApi) -> None:
        first = await api.delegate("carla", "dora")
        error = await refusal(api.delegate("carla", "emil"))
        assert (error.reason, error.metadata["delegation_id"]) == ("DELEGATION_OVERLAPS", first.id)

    @pytest.mark.parametrize(
        ("fields", "invalid"),
        [({"to": "carla"}, "delegate"), ({"hours": -1}, "end_time"), ({"hours": 9700}, "end_time")],
    )
    async def test_invalid_delegation_is_rejected(
        self, api: ApprovalsApi, fields: dict[str, object], invalid: str
    ) -> None:
        error = await refusal(api.delegate("carla", **{"to": "dora", **fields}))  # type: ignore[arg-type]  # by name
        assert list(error.fields) == [invalid]

    async def test_delegation_is_visible_to_its_two_users_only(self, api: ApprovalsApi) -> None:
        delegation = await api.delegate("carla", "dora")
        request = pb.DeleteDelegationRequest(id=delegation.id)
        error = await refusal(api.user("mallory").call(api.stubs.delegations.DeleteDelegation, request))
        assert error.reason == "DELEGATION_NOT_FOUND"
        for user_id, count in (("mallory", 0), ("dora", 1), ("carla", 1)):
            listed = await api.user(user_id).call(api.stubs.delegations.ListDelegations, pb.ListDelegationsRequest())
            assert len(listed.delegations) == count


class TestTransitiveDelegations:
    def test_chains_have_at_most_five_delegations(self) -> None:
        acts_for = domain.delegations.acts_for
        assert acts_for("f", {chr(97 + i + 1): [chr(97 + i)] for i in range(5)}) == frozenset("abcde")
        assert acts_for("g", {chr(97 + i + 1): [chr(97 + i)] for i in range(6)}) == frozenset("bcdef")

    def test_cycles_are_ignored(self) -> None:
        assert domain.delegations.acts_for("a", {"a": ["b"], "b": ["c"], "c": ["a"]}) == frozenset("bc")
