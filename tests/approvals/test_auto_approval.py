"""Rules with auto_approve: the request is approved when it is created."""

from billing.approvals.v1.approval_pb2 import Approval, ApprovalAction

from tests.approvals.conftest import ApprovalsApi


async def test_request_without_budget_is_approved_at_once(api: ApprovalsApi) -> None:
    await api.create_rule(name="S", request_type=Approval.PURCHASE, auto_approve=True)
    approval = await api.submit()
    assert (approval.state, approval.decided_by) == (Approval.APPROVED, "service:approvals")
    times = approval.create_time, approval.end_time, approval.update_time
    create_time, end_time, update_time = (each.ToNanoseconds() for each in times)
    assert create_time <= end_time <= update_time
    actions = [(one.action, one.actor) for one in await api.history(approval)]
    assert actions == [(ApprovalAction.REQUEST, "alice"), (ApprovalAction.AUTO_APPROVE, "service:approvals")]


async def test_request_with_a_budget_is_approved_at_once_and_committed(api: ApprovalsApi) -> None:
    await api.create_rule(name="S", request_type=Approval.PURCHASE, auto_approve=True)
    budget = await api.budgets.open("100.00")
    approval = await api.submit(amount="40.00", budget_id=budget.id)
    assert approval.state == Approval.APPROVED
    await api.wait_for_funds(approval, Approval.COMMITTED)


async def test_preview_shows_that_a_request_would_be_approved_at_once(api: ApprovalsApi) -> None:
    rule = await api.create_rule(name="S", request_type=Approval.PURCHASE, auto_approve=True)
    preview = await api.submit(validate_only=True)
    assert (preview.state, list(preview.steps), [one.rule_id for one in preview.rules]) == (
        Approval.APPROVED,
        [],
        [rule.id],
    )
