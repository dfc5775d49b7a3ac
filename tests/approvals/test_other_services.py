"""The RPCs for other services."""

import asyncio
from uuid import UUID

import pytest
from billing.approvals.v1 import approval_service_pb2 as pb
from billing.approvals.v1.approval_pb2 import Approval

from tests.approvals.conftest import ApprovalsApi, step
from tests.harness.callers import Caller
from tests.harness.tokens import Keys


class TestOtherServices:
    @pytest.fixture
    def service(self, keys: Keys, tenant: UUID) -> Caller:
        return Caller(tenant, "service:reporting", keys.service_token("reporting", tenant))

    async def test_watch_resumes_without_a_gap(self, api: ApprovalsApi, service: Caller) -> None:
        await api.create_rule(step("Erin", "erin"))

        async def watch(count: int, **fields: str) -> list[pb.ApprovalEvent]:
            """The first events of a stream."""
            request = pb.WatchApprovalsRequest(**fields)
            stream = api.stubs.approvals.WatchApprovals(request, metadata=service.metadata)
            iterator = aiter(stream)
            events = [await asyncio.wait_for(anext(iterator), 10) for _ in range(count)]
            stream.cancel()
            return events

        (start,) = await watch(1)
        assert not start.HasField("approval")
        approval = await api.submit("dave")
        await api.act("erin", approval)
        events = await watch(3, after_event_id=start.event_id)
        types = ["ApprovalRequested", "ApprovalStepStarted", "ApprovalApproved"]
        assert [event.event_type for event in events] == types
        assert {event.approval.approval_id for event in events} == {approval.id}
        assert all(event.HasField("event_time") for event in events)
        (last,) = await watch(1, after_event_id=events[1].event_id)
        assert last.event_type == "ApprovalApproved"

    async def test_summary_has_counts_and_sums_by_state(self, api: ApprovalsApi, service: Caller) -> None:
        await api.create_rule(step("Erin", "erin"), is_default=True)
        approved = await api.submit("dave", "10.00")
        for amount in ("15.50", "4.50"):
            await api.submit("dave", amount)
        await api.act("erin", approved)
        request = pb.SummarizeApprovalsRequest(entity_ids=[api.budgets.entity_id])
        summaries = (await service.call(api.stubs.approvals.SummarizeApprovals, request)).summaries
        by_state = {summary.state: (summary.count, summary.amount.amount) for summary in summaries}
        assert by_state == {Approval.APPROVED: (1, "10.00"), Approval.PENDING: (2, "20.00")}
