"""The money of requests: overspending, raising, sending back, taking back, and what is repeated."""

from uuid import uuid4

import pytest
from billing.approvals.v1 import approval_service_pb2 as pb
from billing.approvals.v1.approval_pb2 import Approval, ApprovalAction
from billing.budgets.v1 import budget_service_pb2 as budgets_pb
from billing.budgets.v1 import ledger_service_pb2 as ledger_pb
from billing.budgets.v1.budget_pb2 import Budget
from billing.budgets.v1.hold_pb2 import Hold

from tests.approvals.conftest import ApprovalsApi, eur, step
from tests.harness.callers import refusal

CHANGES = ApprovalAction.REQUEST_CHANGES


@pytest.fixture
async def ruled(api: ApprovalsApi) -> ApprovalsApi:
    """A api where carla decides on everything."""
    await api.rule(step("Controlling", "carla"), is_default=True)
    return api


async def hold_of(api: ApprovalsApi, budget: Budget, hold_id: str) -> Hold:
    return await api.budgets.who.call(
        api.budgets.stubs.ledger.GetHold, ledger_pb.GetHoldRequest(id=budget.id, hold_id=hold_id)
    )


class TestOverspending:
    async def test_where_the_budget_asks_for_it_the_money_is_committed_beyond_the_limit(
        self, ruled: ApprovalsApi
    ) -> None:
        budget = await ruled.budgets.open("100.00", overspend_policy=Budget.REQUIRE_APPROVAL)
        refused = await refusal(ruled.ask(amount="150.00", budget_id=budget.id))
        assert (refused.reason, refused.metadata["short"]) == ("APPROVAL_REQUIRED", "50.00")
        asked = await ruled.ask(amount="150.00", budget_id=budget.id, overspend=True)
        assert (asked.request_type, asked.funds) == (Approval.BUDGET_OVERSPEND, Approval.NONE)
        await ruled.act("carla", asked)
        done = await ruled.settled(asked, Approval.COMMITTED)
        assert (await hold_of(ruled, budget, done.hold_id)).state == Hold.COMMITTED
        assert await ruled.numbers(budget) == ("0.00", "0.00", "150.00", "0.00", "-50.00")

    async def test_a_budget_that_blocks_is_never_overspent(self, ruled: ApprovalsApi) -> None:
        top = await ruled.budgets.open("100.00")
        budget = await ruled.budgets.open("90.00", parent_id=top.id, overspend_policy=Budget.REQUIRE_APPROVAL)
        asked = await ruled.ask(amount="95.00", budget_id=budget.id, overspend=True)
        await ruled.budgets.who.call(
            ruled.budgets.stubs.ledger.Charge,
            ledger_pb.ChargeRequest(id=top.id, amount=eur("50"), request_id=uuid4().hex),
        )
        await ruled.act("carla", asked)
        failed = await ruled.settled(asked, Approval.FAILED)
        assert "has 50.00 EUR available" in failed.funds_problem
        assert await ruled.numbers(top) == ("50.00", "0.00", "0.00", "0.00", "50.00")

    async def test_with_room_it_is_an_ordinary_request(self, ruled: ApprovalsApi) -> None:
        budget = await ruled.budgets.open("100.00", overspend_policy=Budget.REQUIRE_APPROVAL)
        asked = await ruled.ask(amount="99.00", budget_id=budget.id, overspend=True)
        assert (asked.request_type, asked.funds) == (Approval.PURCHASE, Approval.HELD)


class TestRaising:
    async def test_a_budget_is_raised_once_when_that_is_approved(self, ruled: ApprovalsApi) -> None:
        budget = await ruled.budgets.open("100.00")
        asked = await ruled.ask(amount="25.00", budget_id=budget.id, request_type=Approval.BUDGET_INCREASE)
        assert await ruled.numbers(budget) == ("0.00", "0.00", "0.00", "0.00", "100.00")
        await ruled.act("carla", asked)
        await ruled.settled(asked, Approval.RAISED)
        assert await ruled.numbers(budget) == ("0.00", "0.00", "0.00", "0.00", "125.00")

    async def test_it_is_asked_for_in_the_currency_of_the_budget(self, ruled: ApprovalsApi) -> None:
        budget = await ruled.budgets.open("100.00")
        request = ruled.request(None, budget_id=budget.id, request_type=Approval.BUDGET_INCREASE)
        request.amount.currency_code, request.amount.amount = "USD", "5.00"
        refused = await refusal(ruled.of("alice", "procurement").call(ruled.stubs.approvals.CreateApproval, request))
        assert refused.fields == {"amount.currency_code": "must be in the currency of the budget, EUR"}


class TestSendingBack:
    async def test_its_money_is_given_back_and_held_anew_with_the_new_amount(self, ruled: ApprovalsApi) -> None:
        budget = await ruled.budgets.open("100.00")
        asked = await ruled.ask(amount="80.00", budget_id=budget.id)
        back = await ruled.act("carla", asked, CHANGES, comment="less")
        assert (back.state, back.decided_by) == (Approval.CHANGES_REQUESTED, "carla")
        request = pb.ResubmitApprovalRequest(id=asked.id, amount=eur("90.00"), comment="it got dearer")
        again = await ruled.of("alice", "procurement").call(ruled.stubs.approvals.ResubmitApproval, request)
        assert (again.state, again.round, again.funds) == (Approval.PENDING, 2, Approval.HELD)
        assert again.hold_id != asked.hold_id
        assert await ruled.numbers(budget) == ("0.00", "90.00", "0.00", "0.00", "10.00")
        await ruled.act("carla", again)
        await ruled.settled(again, Approval.COMMITTED)
        assert await ruled.numbers(budget) == ("0.00", "0.00", "90.00", "0.00", "10.00")
        actions = [(one.round, one.action) for one in await ruled.history(asked)]
        assert actions == [
            (1, ApprovalAction.REQUEST), (1, CHANGES), (2, ApprovalAction.RESUBMIT), (2, ApprovalAction.APPROVE),
        ]  # fmt: skip

    async def test_without_room_for_more_it_stays_sent_back(self, ruled: ApprovalsApi) -> None:
        budget = await ruled.budgets.open("100.00")
        asked = await ruled.ask(amount="80.00", budget_id=budget.id)
        await ruled.act("carla", asked, CHANGES, comment="more?")
        request = pb.ResubmitApprovalRequest(id=asked.id, amount=eur("101.00"))
        alice = ruled.of("alice", "procurement")
        refused = await refusal(alice.call(ruled.stubs.approvals.ResubmitApproval, request))
        assert (refused.reason, refused.metadata["short"]) == ("BUDGET_EXCEEDED", "1.00")
        assert (await ruled.get(asked)).state == Approval.CHANGES_REQUESTED
        assert await ruled.numbers(budget) == ("0.00", "0.00", "0.00", "0.00", "100.00")
        request = pb.ResubmitApprovalRequest(id=asked.id, amount=eur("99.00"))
        again = await alice.call(ruled.stubs.approvals.ResubmitApproval, request)
        assert (again.state, again.funds) == (Approval.PENDING, Approval.HELD)

    async def test_only_whoever_asked_asks_again(self, ruled: ApprovalsApi) -> None:
        asked = await ruled.ask()
        await ruled.act("carla", asked, CHANGES, comment="why?")
        mallory = ruled.of("mallory", "procurement")
        refused = await refusal(
            mallory.call(ruled.stubs.approvals.ResubmitApproval, pb.ResubmitApprovalRequest(id=asked.id))
        )
        assert (refused.reason, refused.metadata["requester"]) == ("NOT_THE_REQUESTER", "alice")


class TestTakingBack:
    async def test_its_money_is_given_back(self, ruled: ApprovalsApi) -> None:
        budget = await ruled.budgets.open("100.00")
        asked = await ruled.ask(amount="80.00", budget_id=budget.id)
        alice = ruled.of("alice", "procurement")
        done = await alice.call(
            ruled.stubs.approvals.CancelApproval, pb.CancelApprovalRequest(id=asked.id, comment="no")
        )
        assert (done.state, done.decided_by) == (Approval.CANCELLED, "alice")
        await ruled.settled(asked, Approval.RELEASED)
        assert await ruled.numbers(budget) == ("0.00", "0.00", "0.00", "0.00", "100.00")
        assert await ruled.inbox("carla") == []


class TestRepeating:
    async def test_the_same_key_asks_and_holds_once(self, ruled: ApprovalsApi) -> None:
        budget = await ruled.budgets.open("100.00")
        request, alice = ruled.request("80.00", budget_id=budget.id), ruled.of("alice", "procurement")
        first, again = [await alice.call(ruled.stubs.approvals.CreateApproval, request) for _ in range(2)]
        assert first == again
        assert await ruled.numbers(budget) == ("0.00", "80.00", "0.00", "0.00", "20.00")
        request.title = "Other"
        assert (
            await refusal(alice.call(ruled.stubs.approvals.CreateApproval, request))
        ).reason == "IDEMPOTENCY_MISMATCH"

    async def test_a_key_that_was_refused_may_be_tried_again_when_there_is_room(self, ruled: ApprovalsApi) -> None:
        budget = await ruled.budgets.open("100.00")
        request, alice = ruled.request("101.00", budget_id=budget.id), ruled.of("alice", "procurement")
        for _ in range(2):
            refused = await refusal(alice.call(ruled.stubs.approvals.CreateApproval, request))
            assert refused.reason == "BUDGET_EXCEEDED"
        update = budgets_pb.UpdateBudgetRequest(id=budget.id, amount=eur("101.00"))
        await ruled.budgets.who.call(ruled.budgets.stubs.budgets.UpdateBudget, update)
        assert (await alice.call(ruled.stubs.approvals.CreateApproval, request)).funds == Approval.HELD

    async def test_about_one_thing_there_is_one_request_at_a_time(self, ruled: ApprovalsApi) -> None:
        first = await ruled.ask(subject_type="order", subject_id="PO-1")
        refused = await refusal(ruled.ask(subject_type="order", subject_id="PO-1"))
        assert (refused.reason, refused.metadata["approval_id"]) == ("SUBJECT_PENDING", first.id)
        await ruled.act("carla", first)
        assert (await ruled.ask(subject_type="order", subject_id="PO-1")).id != first.id

    async def test_a_preview_keeps_nothing(self, ruled: ApprovalsApi) -> None:
        budget = await ruled.budgets.open("100.00")
        seen = await ruled.ask(budget_id=budget.id, amount="40.00", validate_only=True)
        assert (seen.id, seen.etag, [one.name for one in seen.steps]) == ("", "", ["Controlling"])
        assert seen.budget_impact.available.amount == "100.00"
        assert await ruled.inbox("carla") == []


class TestPlaces:
    async def test_a_request_can_not_be_for_another_entity_than_its_budget(self, ruled: ApprovalsApi) -> None:
        budget, other = await ruled.budgets.open("100.00"), await ruled.budgets.company("OTHER")
        refused = await refusal(ruled.ask(budget_id=budget.id, entity_id=other))
        assert list(refused.fields) == ["entity_id"]

    async def test_what_a_confined_caller_may_not_see_is_not_there(self, ruled: ApprovalsApi) -> None:
        budget, other = await ruled.budgets.open("100.00"), await ruled.budgets.company("OTHER")
        asked = await ruled.ask(budget_id=budget.id)
        confined = ruled.of("dora", entity_scope=[other])
        get = ruled.stubs.approvals.GetApproval
        assert (await refusal(confined.call(get, pb.GetApprovalRequest(id=asked.id)))).reason == "APPROVAL_NOT_FOUND"
        assert (await refusal(ruled.act(confined, asked))).reason == "APPROVAL_NOT_FOUND"
        who = ruled.of("dora", "procurement", entity_scope=[other])
        refused = await refusal(who.call(ruled.stubs.approvals.CreateApproval, ruled.request(budget_id=budget.id)))
        assert refused.reason == "BUDGET_NOT_FOUND"
        assert (await ruled.get(asked, "carla", "department_manager")).id == asked.id

    async def test_a_role_that_is_confined_decides_on_its_part_only(self, api: ApprovalsApi) -> None:
        other = await api.budgets.company("OTHER")
        await api.rule(step("Managers", "@department_manager"), is_default=True)
        here = await api.ask()
        dora = api.of("dora", entity_scope=[other])
        assert (await refusal(api.act(dora, here))).reason == "APPROVAL_NOT_FOUND"
        assert (await api.act(api.of("dora", entity_scope=[api.budgets.entity_id]), here)).state == Approval.APPROVED
