"""Who decides for whom, on what is pending and on what comes."""

import pytest
from billing.approvals.v1 import delegation_service_pb2 as pb
from billing.approvals.v1.approval_pb2 import Approval, ApprovalAction
from billing.approvals.v1.delegation_pb2 import Delegation

from services.approvals.domain.delegations import acts_for
from tests.approvals.conftest import ApprovalsApi, in_hours, step
from tests.harness.callers import refusal


class TestDeciding:
    async def test_what_is_pending_is_decided_by_the_delegate_and_history_names_both(self, api: ApprovalsApi) -> None:
        await api.rule(step("Controlling", "carla"))
        asked = await api.ask()
        assert (await refusal(api.act("dora", asked))).reason == "NOT_AN_APPROVER"
        await api.delegate("carla", "dora")
        assert await api.inbox("dora") == [asked.id]
        done = await api.act("dora", asked)
        assert (done.state, done.steps[0].seats[0].on_behalf_of) == (Approval.APPROVED, "carla")
        last = (await api.history(asked))[-1]
        assert (last.action, last.actor, last.on_behalf_of) == (ApprovalAction.APPROVE, "dora", "carla")

    async def test_whoever_asks_does_not_decide_as_a_delegate_either(self, api: ApprovalsApi) -> None:
        await api.rule(step("Controlling", "carla"))
        asked = await api.ask("dora")
        await api.delegate("carla", "dora")
        assert await api.inbox("dora") == []
        assert (await refusal(api.act("dora", asked))).reason == "SELF_APPROVAL"

    async def test_a_chain_is_followed_and_ends_with_the_delegation(self, api: ApprovalsApi) -> None:
        await api.rule(step("Controlling", "carla"))
        asked = await api.ask()
        await api.delegate("carla", "dora")
        second = await api.delegate("dora", "emil")
        assert await api.inbox("emil") == [asked.id]
        request = pb.DeleteDelegationRequest(id=second.id)
        ended = await api.of("dora").call(api.stubs.delegations.DeleteDelegation, request)
        assert ended.state == Delegation.ENDED
        assert await api.inbox("emil") == []


class TestSetting:
    async def test_one_of_a_later_time_decides_nothing_yet(self, api: ApprovalsApi) -> None:
        await api.rule(step("Controlling", "carla"))
        await api.ask()
        set_ = await api.delegate("carla", "dora", start_time=in_hours(1), hours=2)
        assert (set_.state, await api.inbox("dora")) == (Delegation.SCHEDULED, [])

    async def test_an_administrator_sets_it_for_another_and_nobody_else_does(self, api: ApprovalsApi) -> None:
        request = pb.CreateDelegationRequest(delegator="carla", delegate="dora", end_time=in_hours(1))
        set_ = await api.admin.call(api.stubs.delegations.CreateDelegation, request)
        assert (set_.delegator, set_.created_by) == ("carla", "root")
        refused = await refusal(api.of("mallory").call(api.stubs.delegations.CreateDelegation, request))
        assert refused.reason == "NOT_THE_DELEGATOR"

    async def test_two_at_one_time_are_refused(self, api: ApprovalsApi) -> None:
        first = await api.delegate("carla", "dora")
        refused = await refusal(api.delegate("carla", "emil"))
        assert (refused.reason, refused.metadata["delegation_id"]) == ("DELEGATION_OVERLAPS", first.id)

    @pytest.mark.parametrize(
        ("given", "field"), [({"to": "carla"}, "delegate"), ({"hours": -1}, "end_time"), ({"hours": 9700}, "end_time")]
    )
    async def test_what_makes_no_sense_is_refused(
        self, api: ApprovalsApi, given: dict[str, object], field: str
    ) -> None:
        refused = await refusal(api.delegate("carla", **{"to": "dora", **given}))  # type: ignore[arg-type]  # as named
        assert list(refused.fields) == [field]

    async def test_who_it_does_not_concern_does_not_see_it(self, api: ApprovalsApi) -> None:
        set_ = await api.delegate("carla", "dora")
        request = pb.DeleteDelegationRequest(id=set_.id)
        refused = await refusal(api.of("mallory").call(api.stubs.delegations.DeleteDelegation, request))
        assert refused.reason == "DELEGATION_NOT_FOUND"
        for who, seen in (("mallory", 0), ("dora", 1), ("carla", 1)):
            listed = await api.of(who).call(api.stubs.delegations.ListDelegations, pb.ListDelegationsRequest())
            assert len(listed.delegations) == seen


class TestChains:
    def test_up_to_five_in_a_row(self) -> None:
        assert acts_for("f", {chr(97 + i + 1): [chr(97 + i)] for i in range(5)}) == frozenset("abcde")
        assert acts_for("g", {chr(97 + i + 1): [chr(97 + i)] for i in range(6)}) == frozenset("bcdef")

    def test_circles_end_where_they_began(self) -> None:
        assert acts_for("a", {"a": ["b"], "b": ["c"], "c": ["a"]}) == frozenset("bc")
