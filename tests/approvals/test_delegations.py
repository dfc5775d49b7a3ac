"""Who decides for whom, on what is pending and on what comes."""

import pytest
from billing.approvals.v1 import delegation_service_pb2 as pb
from billing.approvals.v1.approval_pb2 import Approval, ApprovalAction
from billing.approvals.v1.delegation_pb2 import Delegation

from services.approvals.domain.delegations import acts_for
from tests.approvals.conftest import Desk, in_hours, step
from tests.harness.callers import refusal


class TestDeciding:
    async def test_what_is_pending_is_decided_by_the_delegate_and_history_names_both(self, desk: Desk) -> None:
        await desk.rule(step("Controlling", "carla"))
        asked = await desk.ask()
        assert (await refusal(desk.act("dora", asked))).reason == "NOT_AN_APPROVER"
        await desk.delegate("carla", "dora")
        assert await desk.inbox("dora") == [asked.id]
        done = await desk.act("dora", asked)
        assert (done.state, done.steps[0].seats[0].on_behalf_of) == (Approval.APPROVED, "carla")
        last = (await desk.history(asked))[-1]
        assert (last.action, last.actor, last.on_behalf_of) == (ApprovalAction.APPROVE, "dora", "carla")

    async def test_whoever_asks_does_not_decide_as_a_delegate_either(self, desk: Desk) -> None:
        await desk.rule(step("Controlling", "carla"))
        asked = await desk.ask("dora")
        await desk.delegate("carla", "dora")
        assert await desk.inbox("dora") == []
        assert (await refusal(desk.act("dora", asked))).reason == "SELF_APPROVAL"

    async def test_a_chain_is_followed_and_ends_with_the_delegation(self, desk: Desk) -> None:
        await desk.rule(step("Controlling", "carla"))
        asked = await desk.ask()
        await desk.delegate("carla", "dora")
        second = await desk.delegate("dora", "emil")
        assert await desk.inbox("emil") == [asked.id]
        request = pb.DeleteDelegationRequest(id=second.id)
        ended = await desk.of("dora").call(desk.stubs.delegations.DeleteDelegation, request)
        assert ended.state == Delegation.ENDED
        assert await desk.inbox("emil") == []


class TestSetting:
    async def test_one_of_a_later_time_decides_nothing_yet(self, desk: Desk) -> None:
        await desk.rule(step("Controlling", "carla"))
        await desk.ask()
        set_ = await desk.delegate("carla", "dora", start_time=in_hours(1), hours=2)
        assert (set_.state, await desk.inbox("dora")) == (Delegation.SCHEDULED, [])

    async def test_an_administrator_sets_it_for_another_and_nobody_else_does(self, desk: Desk) -> None:
        request = pb.CreateDelegationRequest(delegator="carla", delegate="dora", end_time=in_hours(1))
        set_ = await desk.admin.call(desk.stubs.delegations.CreateDelegation, request)
        assert (set_.delegator, set_.created_by) == ("carla", "root")
        refused = await refusal(desk.of("mallory").call(desk.stubs.delegations.CreateDelegation, request))
        assert refused.reason == "NOT_THE_DELEGATOR"

    async def test_two_at_one_time_are_refused(self, desk: Desk) -> None:
        first = await desk.delegate("carla", "dora")
        refused = await refusal(desk.delegate("carla", "emil"))
        assert (refused.reason, refused.metadata["delegation_id"]) == ("DELEGATION_OVERLAPS", first.id)

    @pytest.mark.parametrize(
        ("given", "field"), [({"to": "carla"}, "delegate"), ({"hours": -1}, "end_time"), ({"hours": 9700}, "end_time")]
    )
    async def test_what_makes_no_sense_is_refused(self, desk: Desk, given: dict[str, object], field: str) -> None:
        refused = await refusal(desk.delegate("carla", **{"to": "dora", **given}))  # type: ignore[arg-type]  # as named
        assert list(refused.fields) == [field]

    async def test_who_it_does_not_concern_does_not_see_it(self, desk: Desk) -> None:
        set_ = await desk.delegate("carla", "dora")
        request = pb.DeleteDelegationRequest(id=set_.id)
        refused = await refusal(desk.of("mallory").call(desk.stubs.delegations.DeleteDelegation, request))
        assert refused.reason == "DELEGATION_NOT_FOUND"
        for who, seen in (("mallory", 0), ("dora", 1), ("carla", 1)):
            listed = await desk.of(who).call(desk.stubs.delegations.ListDelegations, pb.ListDelegationsRequest())
            assert len(listed.delegations) == seen


class TestChains:
    def test_up_to_five_in_a_row(self) -> None:
        assert acts_for("f", {chr(97 + i + 1): [chr(97 + i)] for i in range(5)}) == frozenset("abcde")
        assert acts_for("g", {chr(97 + i + 1): [chr(97 + i)] for i in range(6)}) == frozenset("bcdef")

    def test_circles_end_where_they_began(self) -> None:
        assert acts_for("a", {"a": ["b"], "b": ["c"], "c": ["a"]}) == frozenset("bc")
