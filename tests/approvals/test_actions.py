"""Fields and effects of ActOnApproval and BatchActOnApprovals."""

import pytest
from billing.approvals.v1 import approval_service_pb2 as pb
from billing.approvals.v1.approval_pb2 import Approval, ApprovalAction

from tests.approvals.conftest import APPROVE, REJECT, ApprovalsApi, step
from tests.harness.callers import refusal


class TestActions:
    async def test_every_reader_comments_in_any_state(self, api: ApprovalsApi) -> None:
        await api.create_rule(step("C", "carla"))
        approval = await api.submit()
        await api.act("carla", approval, REJECT, comment="no")
        await api.act("dora", approval, ApprovalAction.COMMENT, comment="a pity")
        last = (await api.history(approval))[-1]
        assert (last.action, last.actor, last.comment) == (ApprovalAction.COMMENT, "dora", "a pity")

    @pytest.mark.parametrize(
        ("action", "fields", "invalid"),
        [
            (ApprovalAction.REJECT, {}, "comment"),
            (ApprovalAction.COMMENT, {"comment": " "}, "comment"),
            (ApprovalAction.DELEGATE, {}, "target"),
            (ApprovalAction.APPROVE, {"target": "x"}, "target"),
        ],
    )
    async def test_missing_or_excess_field_is_rejected(
        self, api: ApprovalsApi, action: ApprovalAction.Type.ValueType, fields: dict[str, str], invalid: str
    ) -> None:
        await api.create_rule(step("C", "carla"))
        approval = await api.submit()
        error = await refusal(api.act("carla", approval, action, **fields))
        assert list(error.fields) == [invalid]

    async def test_approval_needs_the_delegate_and_the_added_approver(self, api: ApprovalsApi) -> None:
        await api.create_rule(step("C", "carla"))
        approval = await api.submit()
        await api.act("carla", approval, ApprovalAction.ADD_APPROVER, target="emil")
        await api.act("carla", approval, ApprovalAction.DELEGATE, target="dora")
        assert await api.to_decide("carla") == []
        assert (await api.act("dora", approval)).state == Approval.PENDING
        assert (await api.act("emil", approval)).state == Approval.APPROVED


class TestBatches:
    async def test_each_request_is_decided_separately(self, api: ApprovalsApi) -> None:
        await api.create_rule(step("C", "carla"))
        pending, decided = await api.submit(), await api.submit()
        await api.act("carla", decided)
        request = pb.BatchActOnApprovalsRequest(
            ids=[pending.id, decided.id, "apr_" + "0" * 32], action=APPROVE, request_id="batch-1"
        )
        call = api.stubs.approvals.BatchActOnApprovals
        response = await api.user("carla").call(call, request)
        assert (response.decided_count, response.refused_count) == (1, 2)
        assert [result.WhichOneof("outcome") for result in response.results] == ["approval", "refusal", "refusal"]
        assert [result.refusal.reason for result in response.results[1:]] == ["APPROVAL_STATE", "APPROVAL_NOT_FOUND"]
        repeated = await api.user("carla").call(call, request)
        assert (repeated.decided_count, repeated.results[0].approval.state) == (1, Approval.APPROVED)
