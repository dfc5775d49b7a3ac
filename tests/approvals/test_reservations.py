"""Reservations of requests on their budgets: overspend, increase, resubmission, cancellation and repeated calls."""

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
async def api(api: ApprovalsApi) -> ApprovalsApi:
    """The API with a default rule: carla decides on all requests."""
    await api.create_rule(step("Controlling", "carla"), is_default=True)
    return api


async def get_hold(api: ApprovalsApi, budget: Budget, hold_id: str) -> Hold:
    return await api.budgets.who.call(
        api.budgets.stubs.ledger.GetHold, ledger_pb.GetHoldRequest(id=budget.id, hold_id=hold_id)
    )


class TestOverspend:
    async def test_approved_overspend_is_committed_beyond_the_limit(self, api: ApprovalsApi) -> None:
        budget = await api.budgets.open("100.00", overspend_policy=Budget.REQUIRE_APPROVAL)
        error = await refusal(api.submit(amount="150.00", budget_id=budget.id))
        assert (error.reason, error.metadata["short"]) == ("APPROVAL_REQUIRED", "50.00")
        approval = await api.submit(amount="150.00", budget_id=budget.id, overspend=True)
        assert (approval.request_type, approval.funds) == (Approval.BUDGET_OVERSPEND, Approval.NONE)
        await api.act("carla", approval)
        settled = await api.wait_for_funds(approval, Approval.COMMITTED)
        assert (await get_hold(api, budget, settled.hold_id)).state == Hold.COMMITTED
        assert await api.amounts(budget) == ("0.00", "0.00", "150.00", "0.00", "-50.00")

    async def test_approved_overspend_fails_on_a_budget_with_a_hard_limit(self, api: ApprovalsApi) -> None:
        top = await api.budgets.open("100.00")
        budget = await api.budgets.open("90.00", parent_id=top.id, overspend_policy=Budget.REQUIRE_APPROVAL)
        approval = await api.submit(amount="95.00", budget_id=budget.id, overspend=True)
        await api.budgets.who.call(
            api.budgets.stubs.ledger.Charge,
            ledger_pb.ChargeRequest(id=top.id, amount=eur("50"), request_id=uuid4().hex),
        )
        await api.act("carla", approval)
        failed = await api.wait_for_funds(approval, Approval.FAILED)
        assert failed.funds_problem == "A budget above has too little available."  # all readers of the request read it
        assert await api.amounts(top) == ("50.00", "0.00", "0.00", "0.00", "50.00")

    async def test_resubmission_keeps_the_flag_and_the_requested_type(self, api: ApprovalsApi) -> None:
        """150 of 100 is an overspend, 90 a purchase again, and 120 an overspend."""
        budget = await api.budgets.open("100.00", overspend_policy=Budget.REQUIRE_APPROVAL)
        approval = await api.submit(amount="150.00", budget_id=budget.id, overspend=True)
        alice, rounds = api.user("alice", "procurement"), []
        for amount in ("90.00", "120.00"):
            await api.act("carla", approval, CHANGES, comment="other amount")
            request = pb.ResubmitApprovalRequest(id=approval.id, amount=eur(amount))
            approval = await alice.call(api.stubs.approvals.ResubmitApproval, request)
            rounds.append((approval.request_type, approval.funds))
        assert rounds == [(Approval.PURCHASE, Approval.HELD), (Approval.BUDGET_OVERSPEND, Approval.NONE)]

    async def test_request_within_the_budget_stays_a_purchase(self, api: ApprovalsApi) -> None:
        budget = await api.budgets.open("100.00", overspend_policy=Budget.REQUIRE_APPROVAL)
        approval = await api.submit(amount="99.00", budget_id=budget.id, overspend=True)
        assert (approval.request_type, approval.funds) == (Approval.PURCHASE, Approval.HELD)


class TestIncrease:
    async def test_budget_is_increased_by_the_approval(self, api: ApprovalsApi) -> None:
        budget = await api.budgets.open("100.00")
        approval = await api.submit(amount="25.00", budget_id=budget.id, request_type=Approval.BUDGET_INCREASE)
        assert await api.amounts(budget) == ("0.00", "0.00", "0.00", "0.00", "100.00")
        await api.act("carla", approval)
        await api.wait_for_funds(approval, Approval.RAISED)
        assert await api.amounts(budget) == ("0.00", "0.00", "0.00", "0.00", "125.00")

    async def test_increase_must_be_in_the_currency_of_the_budget(self, api: ApprovalsApi) -> None:
        budget = await api.budgets.open("100.00")
        request = api.new_request(None, budget_id=budget.id, request_type=Approval.BUDGET_INCREASE)
        request.amount.currency_code, request.amount.amount = "USD", "5.00"
        error = await refusal(api.user("alice", "procurement").call(api.stubs.approvals.CreateApproval, request))
        assert error.fields == {"amount.currency_code": "must be the currency of the budget, EUR"}


class TestResubmission:
    async def test_hold_is_released_and_the_new_amount_is_held(self, api: ApprovalsApi) -> None:
        budget = await api.budgets.open("100.00")
        approval = await api.submit(amount="80.00", budget_id=budget.id)
        returned = await api.act("carla", approval, CHANGES, comment="less")
        assert (returned.state, returned.decided_by) == (Approval.CHANGES_REQUESTED, "carla")
        request = pb.ResubmitApprovalRequest(id=approval.id, amount=eur("90.00"), comment="price increase")
        resubmitted = await api.user("alice", "procurement").call(api.stubs.approvals.ResubmitApproval, request)
        assert (resubmitted.state, resubmitted.round, resubmitted.funds) == (Approval.PENDING, 2, Approval.HELD)
        assert resubmitted.hold_id != approval.hold_id
        assert await api.amounts(budget) == ("0.00", "90.00", "0.00", "0.00", "10.00")
        await api.act("carla", resubmitted)
        await api.wait_for_funds(resubmitted, Approval.COMMITTED)
        assert await api.amounts(budget) == ("0.00", "0.00", "90.00", "0.00", "10.00")
        actions = [(one.round, one.action) for one in await api.history(approval)]
        assert actions == [
            (1, ApprovalAction.REQUEST), (1, CHANGES), (2, ApprovalAction.RESUBMIT), (2, ApprovalAction.APPROVE),
        ]  # fmt: skip

    async def test_resubmission_that_exceeds_the_budget_fails_and_can_be_repeated(self, api: ApprovalsApi) -> None:
        budget = await api.budgets.open("100.00")
        approval = await api.submit(amount="80.00", budget_id=budget.id)
        await api.act("carla", approval, CHANGES, comment="more?")
        request = pb.ResubmitApprovalRequest(id=approval.id, amount=eur("101.00"))
        alice = api.user("alice", "procurement")
        error = await refusal(alice.call(api.stubs.approvals.ResubmitApproval, request))
        assert (error.reason, error.metadata["short"]) == ("BUDGET_EXCEEDED", "1.00")
        assert (await api.get(approval)).state == Approval.CHANGES_REQUESTED
        assert await api.amounts(budget) == ("0.00", "0.00", "0.00", "0.00", "100.00")
        request = pb.ResubmitApprovalRequest(id=approval.id, amount=eur("99.00"))
        resubmitted = await alice.call(api.stubs.approvals.ResubmitApproval, request)
        assert (resubmitted.state, resubmitted.funds) == (Approval.PENDING, Approval.HELD)

    async def test_only_the_requester_resubmits(self, api: ApprovalsApi) -> None:
        approval = await api.submit()
        await api.act("carla", approval, CHANGES, comment="why?")
        mallory = api.user("mallory", "procurement")
        error = await refusal(
            mallory.call(api.stubs.approvals.ResubmitApproval, pb.ResubmitApprovalRequest(id=approval.id))
        )
        assert (error.reason, error.metadata["requester"]) == ("NOT_THE_REQUESTER", "alice")


class TestCancellation:
    async def test_hold_is_released_by_the_cancellation(self, api: ApprovalsApi) -> None:
        budget = await api.budgets.open("100.00")
        approval = await api.submit(amount="80.00", budget_id=budget.id)
        alice = api.user("alice", "procurement")
        cancelled = await alice.call(
            api.stubs.approvals.CancelApproval, pb.CancelApprovalRequest(id=approval.id, comment="no")
        )
        assert (cancelled.state, cancelled.decided_by) == (Approval.CANCELLED, "alice")
        await api.wait_for_funds(approval, Approval.RELEASED)
        assert await api.amounts(budget) == ("0.00", "0.00", "0.00", "0.00", "100.00")
        assert await api.to_decide("carla") == []


class TestRepeatedCalls:
    async def test_calls_with_one_key_create_one_request_and_one_hold(self, api: ApprovalsApi) -> None:
        budget = await api.budgets.open("100.00")
        request, alice = api.new_request("80.00", budget_id=budget.id), api.user("alice", "procurement")
        first, second = [await alice.call(api.stubs.approvals.CreateApproval, request) for _ in range(2)]
        assert first == second
        assert await api.amounts(budget) == ("0.00", "80.00", "0.00", "0.00", "20.00")
        request.title = "Other"
        assert (await refusal(alice.call(api.stubs.approvals.CreateApproval, request))).reason == "IDEMPOTENCY_MISMATCH"

    async def test_key_of_a_failed_call_can_be_used_again(self, api: ApprovalsApi) -> None:
        budget = await api.budgets.open("100.00")
        request, alice = api.new_request("101.00", budget_id=budget.id), api.user("alice", "procurement")
        for _ in range(2):
            error = await refusal(alice.call(api.stubs.approvals.CreateApproval, request))
            assert error.reason == "BUDGET_EXCEEDED"
        update = budgets_pb.UpdateBudgetRequest(id=budget.id, amount=eur("101.00"))
        await api.budgets.who.call(api.budgets.stubs.budgets.UpdateBudget, update)
        assert (await alice.call(api.stubs.approvals.CreateApproval, request)).funds == Approval.HELD

    async def test_subject_has_one_open_request(self, api: ApprovalsApi) -> None:
        first = await api.submit(subject_type="order", subject_id="PO-1")
        error = await refusal(api.submit(subject_type="order", subject_id="PO-1"))
        assert (error.reason, error.metadata["approval_id"]) == ("SUBJECT_PENDING", first.id)
        await api.act("carla", first)
        assert (await api.submit(subject_type="order", subject_id="PO-1")).id != first.id

    async def test_preview_stores_nothing(self, api: ApprovalsApi) -> None:
        budget = await api.budgets.open("100.00")
        preview = await api.submit(budget_id=budget.id, amount="40.00", validate_only=True)
        assert (preview.id, preview.etag, [one.name for one in preview.steps]) == ("", "", ["Controlling"])
        assert preview.budget_impact.available.amount == "100.00"
        assert await api.to_decide("carla") == []


class TestBudgetImpact:
    async def test_response_to_a_submission_shows_the_budget_with_its_hold(self, api: ApprovalsApi) -> None:
        budget = await api.budgets.open("100.00")
        request, alice = api.new_request("80.00", budget_id=budget.id), api.user("alice", "procurement")
        first, repeated = [await alice.call(api.stubs.approvals.CreateApproval, request) for _ in range(2)]
        impact = first.budget_impact
        assert (impact.budget_id, impact.amount, impact.budget_amount) == (budget.id, eur("80.00"), eur("100.00"))
        assert (impact.held.amount, impact.available.amount) == ("80.00", "20.00")
        assert repeated == first
        assert (await api.get(first)).budget_impact == impact

    async def test_response_to_a_resubmission_shows_the_new_hold(self, api: ApprovalsApi) -> None:
        budget = await api.budgets.open("100.00")
        approval = await api.submit(amount="80.00", budget_id=budget.id)
        await api.act("carla", approval, CHANGES, comment="less")
        request = pb.ResubmitApprovalRequest(id=approval.id, amount=eur("30.00"))
        resubmitted = await api.user("alice", "procurement").call(api.stubs.approvals.ResubmitApproval, request)
        assert (resubmitted.budget_impact.amount, resubmitted.budget_impact.held) == (eur("30.00"), eur("30.00"))

    async def test_increase_shows_the_budget_without_a_hold(self, api: ApprovalsApi) -> None:
        budget = await api.budgets.open("100.00")
        approval = await api.submit(amount="25.00", budget_id=budget.id, request_type=Approval.BUDGET_INCREASE)
        assert approval.budget_impact.available == eur("100.00")

    async def test_request_without_a_budget_has_no_impact(self, api: ApprovalsApi) -> None:
        assert not (await api.submit()).HasField("budget_impact")


class TestScopes:
    async def test_entity_of_a_request_must_be_that_of_its_budget(self, api: ApprovalsApi) -> None:
        budget, other = await api.budgets.open("100.00"), await api.budgets.company("OTHER")
        error = await refusal(api.submit(budget_id=budget.id, entity_id=other))
        assert list(error.fields) == ["entity_id"]

    async def test_request_out_of_scope_is_not_found(self, api: ApprovalsApi) -> None:
        budget, other = await api.budgets.open("100.00"), await api.budgets.company("OTHER")
        approval = await api.submit(budget_id=budget.id)
        out_of_scope = api.user("dora", entity_scope=[other])
        get = api.stubs.approvals.GetApproval
        assert (
            await refusal(out_of_scope.call(get, pb.GetApprovalRequest(id=approval.id)))
        ).reason == "APPROVAL_NOT_FOUND"
        assert (await refusal(api.act(out_of_scope, approval))).reason == "APPROVAL_NOT_FOUND"
        dora = api.user("dora", "procurement", entity_scope=[other])
        error = await refusal(dora.call(api.stubs.approvals.CreateApproval, api.new_request(budget_id=budget.id)))
        assert error.reason == "BUDGET_NOT_FOUND"
        assert (await api.get(approval, "carla")).id == approval.id

    async def test_requester_with_a_scope_learns_nothing_of_a_budget_above(self, api: ApprovalsApi) -> None:
        company = api.budgets.entity_id
        department = await api.budgets.department(company)
        group = await api.budgets.open("150.00", name="Group secret", entity_id=company)
        budget = await api.budgets.open(
            "500.00", entity_id=company, department_id=department, parent_id=group.id, overspend_policy=Budget.BLOCK
        )
        mia = api.user("mia", "procurement", department_scope=[department])
        create = api.stubs.approvals.CreateApproval
        error = await refusal(mia.call(create, api.new_request("200.00", budget_id=budget.id)))
        assert (error.reason, error.message) == ("BUDGET_EXCEEDED", "A budget above refuses the amount.")
        assert error.metadata == {"requested": "200.00", "currency_code": "EUR"}
        complete = await refusal(api.submit(amount="200.00", budget_id=budget.id))
        assert (complete.metadata["budget_id"], complete.metadata["available"]) == (group.id, "150.00")

    async def test_role_of_a_caller_with_a_scope_decides_within_it_only(self, api: ApprovalsApi) -> None:
        other = await api.budgets.company("OTHER")
        await api.create_rule(step("Managers", "@approver"))
        approval = await api.submit()
        dora = api.user("dora", entity_scope=[other])
        assert (await refusal(api.act(dora, approval))).reason == "APPROVAL_NOT_FOUND"
        in_scope = api.user("dora", entity_scope=[api.budgets.entity_id])
        assert (await api.act(in_scope, approval)).state == Approval.APPROVED
