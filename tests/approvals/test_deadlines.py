"""Deadlines of requests through the API: reminder, escalation and expiry, and the metric of pending ages."""

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from billing.approvals.v1.approval_pb2 import Approval, ApprovalAction
from billing.approvals.v1.approval_rule_pb2 import Approver
from prometheus_client import REGISTRY

from kit import clock, ids
from services.approvals import timers
from tests.approvals.conftest import ApprovalsApi, expire, step
from tests.harness.callers import refusal
from tests.harness.observe import OutboxEvent, eventually
from tests.harness.services import Approvals, Served

BOSS = Approver(user_id="boss")


async def submit_ago(api: ApprovalsApi, monkeypatch: pytest.MonkeyPatch, hours: float, **fields: Any) -> Approval:
    """Submit a request this many hours ago by the clock of the service; timers use the clock of the database."""
    now: Callable[[], datetime] = clock.now
    with monkeypatch.context() as patched:
        patched.setattr(clock, "now", lambda: now() - timedelta(hours=hours))
        return await api.submit(**fields)


async def service_actions(api: ApprovalsApi, approval: Approval) -> list[ApprovalAction.Type.ValueType]:
    """The actions of deadlines in the history of a request."""
    return [one.action for one in await api.history(approval) if one.actor == "service:approvals"]


class TestDeadlines:
    async def test_reminder_is_sent_once_after_half_of_the_time(
        self,
        api: ApprovalsApi,
        monkeypatch: pytest.MonkeyPatch,
        outbox_events: Callable[..., Awaitable[list[OutboxEvent]]],
    ) -> None:
        await api.create_rule(step("C", "carla", sla_hours=2))
        approval = await submit_ago(api, monkeypatch, 1.5)

        async def reminded() -> bool:
            return bool(await service_actions(api, approval))

        await eventually(reminded)
        assert await service_actions(api, approval) == [ApprovalAction.REMIND]
        reminders = [event for event in await outbox_events("approvals") if event.type.endswith("ApprovalReminded")]
        assert len(reminders) == 1
        current = await api.get(approval)
        assert (current.state, current.due_time) == (Approval.PENDING, current.steps[0].due_time)

    async def test_escalation_approver_can_decide_after_the_deadline(
        self, api: ApprovalsApi, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await api.create_rule(step("C", "carla", sla_hours=1, escalate_to=BOSS))
        approval = await submit_ago(api, monkeypatch, 1.2)

        async def escalated() -> bool:
            return await api.to_decide("boss") == [approval.id]

        await eventually(escalated)
        assert await api.to_decide("carla") == [approval.id]
        assert (await api.act("boss", approval)).state == Approval.APPROVED

    async def test_escalated_request_stays_pending_for_the_same_time_again(
        self, api: ApprovalsApi, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        budget = await api.budgets.open("1000.00")
        await api.create_rule(step("C", "carla", sla_hours=1), on_expiry=Approval.REJECTED)
        approval = await submit_ago(api, monkeypatch, 1.1, budget_id=budget.id)

        async def escalated() -> bool:
            return (await api.get(approval)).steps[0].escalated

        await eventually(escalated)
        assert (await api.get(approval)).state == Approval.PENDING

    @pytest.mark.parametrize(("on_expiry", "action"), [("EXPIRED", "EXPIRE"), ("REJECTED", "REJECT")])
    async def test_undecided_request_ends_as_its_rule_specifies_and_its_hold_is_released(
        self,
        api: ApprovalsApi,
        admin: "asyncpg.Pool[asyncpg.Record]",
        outbox_events: Callable[..., Awaitable[list[OutboxEvent]]],
        on_expiry: str,
        action: str,
    ) -> None:
        budget = await api.budgets.open("100.00")
        await api.create_rule(step("C", "carla"), step("Z", "zoe"), on_expiry=Approval.State.Value(on_expiry))
        approval = await api.submit(amount="60.00", budget_id=budget.id)
        ended = await expire(api, admin, approval)
        assert (Approval.State.Name(ended.state), ended.decided_by) == (on_expiry, "service:approvals")
        assert ended.HasField("end_time")
        assert (await refusal(api.act("carla", approval))).metadata["decided_by"] == "service:approvals"
        assert (await api.to_decide("carla"), await api.to_decide("zoe")) == ([], [])
        await api.wait_for_funds(approval, Approval.RELEASED)
        assert await api.amounts(budget) == ("0.00", "0.00", "0.00", "0.00", "100.00")
        event_type = f".Approval{on_expiry.title()}"
        events = [event for event in await outbox_events("approvals") if event.type.endswith(event_type)]
        assert len(events) == 1
        assert await service_actions(api, approval) == [ApprovalAction.ESCALATE, ApprovalAction.Type.Value(action)]


class TestMetric:
    async def test_undecided_requests_are_counted_by_age(
        self, api: ApprovalsApi, approvals_served: Served[Approvals], admin: "asyncpg.Pool[asyncpg.Record]"
    ) -> None:
        def measured() -> dict[str, float]:
            samples = [sample for metric in REGISTRY.collect() for sample in metric.samples]
            counts = {one.labels["age"]: one.value for one in samples if one.name == "billing_approvals_pending"}
            oldest = [one.value for one in samples if one.name == "billing_approvals_pending_oldest_seconds"]
            return {**counts, "oldest": oldest[0]}

        await api.create_rule(step("C", "carla"))
        approval = await api.submit()
        await timers.measure(approvals_served.service.db)
        before = measured()
        old_id = ids.first_of(clock.now() - timedelta(hours=30))
        await admin.execute(
            "insert into approvals.timers (tenant_id, kind, resource_id, due_time)"
            " values ($1, 'approval-clock', $2, now() + interval '1 hour')", uuid4(), old_id,
        )  # fmt: skip
        await timers.measure(approvals_served.service.db)
        after = measured()
        assert {age: after[age] - before[age] for age in ("hour", "day", "three days", "week", "older")} == {
            "hour": 0, "day": 0, "three days": 1, "week": 0, "older": 0,
        }  # fmt: skip
        assert after["oldest"] >= timedelta(hours=30).total_seconds()
        await api.act("carla", approval)
        await admin.execute("delete from approvals.timers where resource_id = $1", old_id)
        await timers.measure(approvals_served.service.db)
        assert measured()["hour"] == before["hour"] - 1
