"""What the clock does to requests: reminds, asks somebody else, and ends them; and what others are told."""

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from uuid import uuid4

import asyncpg
import pytest
from billing.approvals.v1 import approval_service_pb2 as pb
from billing.approvals.v1.approval_pb2 import Approval, ApprovalAction
from billing.approvals.v1.approval_rule_pb2 import Approver
from prometheus_client import REGISTRY

from kit import clock, ids
from services.approvals.timers import look_at_waiting
from tests.approvals.conftest import REJECT, ApprovalsApi, expire, step
from tests.harness.callers import refusal
from tests.harness.observe import OutboxEvent, eventually
from tests.harness.services import Approvals, Served

BOSS = Approver(user_id="boss")


async def asked_ago(api: ApprovalsApi, monkeypatch: pytest.MonkeyPatch, hours: float) -> Approval:
    """A request that was made so many hours ago, by the clock of this process; timers go by the database's."""
    now: Callable[[], datetime] = clock.now
    with monkeypatch.context() as patched:
        patched.setattr(clock, "now", lambda: now() - timedelta(hours=hours))
        return await api.ask()


async def done_by_the_clock(api: ApprovalsApi, asked: Approval) -> list[ApprovalAction]:
    return [one for one in await api.history(asked) if one.actor == "service:approvals"]


class TestTime:
    async def test_half_time_reminds_and_says_so_once(
        self,
        api: ApprovalsApi,
        monkeypatch: pytest.MonkeyPatch,
        outbox_events: Callable[..., Awaitable[list[OutboxEvent]]],
    ) -> None:
        await api.rule(step("C", "carla", sla_hours=2))
        asked = await asked_ago(api, monkeypatch, 1.5)

        async def reminded() -> bool:
            return bool(await done_by_the_clock(api, asked))

        await eventually(reminded)
        assert [one.action for one in await done_by_the_clock(api, asked)] == [ApprovalAction.REMIND]
        said = [event for event in await outbox_events("approvals") if event.type.endswith("ApprovalReminded")]
        assert len(said) == 1
        seen = await api.get(asked)
        assert (seen.state, seen.due_time) == (Approval.PENDING, seen.steps[0].due_time)

    async def test_the_end_asks_the_escalation_approver_as_well(
        self, api: ApprovalsApi, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await api.rule(step("C", "carla", sla_hours=1, escalate_to=BOSS))
        asked = await asked_ago(api, monkeypatch, 1.2)

        async def waiting() -> bool:
            return await api.inbox("boss") == [asked.id]

        await eventually(waiting)
        assert await api.inbox("carla") == [asked.id]
        assert (await api.act("boss", asked)).state == Approval.APPROVED

    async def test_nobody_decided_and_it_is_over(self, api: ApprovalsApi, monkeypatch: pytest.MonkeyPatch) -> None:
        budget = await api.budgets.open("1000.00")
        await api.rule(step("C", "carla", sla_hours=1), on_expiry=Approval.REJECTED)
        now: Callable[[], datetime] = clock.now
        with monkeypatch.context() as patched:
            patched.setattr(clock, "now", lambda: now() - timedelta(hours=1.1))
            asked = await api.ask(budget_id=budget.id)

        async def escalated() -> bool:
            return (await api.get(asked)).steps[0].escalated

        await eventually(escalated)
        assert (await api.get(asked)).state == Approval.PENDING  # for as long again


class TestTelling:
    async def test_a_comment_is_for_everybody_who_sees_it_in_any_state(self, api: ApprovalsApi) -> None:
        await api.rule(step("C", "carla"))
        asked = await api.ask()
        await api.act("carla", asked, REJECT, comment="no")
        await api.act("dora", asked, ApprovalAction.COMMENT, comment="a pity")
        last = (await api.history(asked))[-1]
        assert (last.action, last.actor, last.comment) == (ApprovalAction.COMMENT, "dora", "a pity")

    @pytest.mark.parametrize(
        ("action", "given", "field"),
        [
            (ApprovalAction.REJECT, {}, "comment"),
            (ApprovalAction.COMMENT, {"comment": " "}, "comment"),
            (ApprovalAction.DELEGATE, {}, "target"),
            (ApprovalAction.APPROVE, {"target": "x"}, "target"),
        ],
    )
    async def test_what_is_missing_is_named(
        self, api: ApprovalsApi, action: ApprovalAction.Type.ValueType, given: dict[str, str], field: str
    ) -> None:
        await api.rule(step("C", "carla"))
        asked = await api.ask()
        refused = await refusal(api.act("carla", asked, action, **given))
        assert list(refused.fields) == [field]

    async def test_a_seat_is_handed_over_and_somebody_is_asked_as_well(self, api: ApprovalsApi) -> None:
        await api.rule(step("C", "carla"))
        asked = await api.ask()
        await api.act("carla", asked, ApprovalAction.ADD_APPROVER, target="emil")
        await api.act("carla", asked, ApprovalAction.DELEGATE, target="dora")
        assert await api.inbox("carla") == []
        assert (await api.act("dora", asked)).state == Approval.PENDING
        assert (await api.act("emil", asked)).state == Approval.APPROVED

    async def test_they_are_summed_up(self, api: ApprovalsApi) -> None:
        await api.rule(step("C", "carla"))
        first, _ = await api.ask(amount="10.00"), await api.ask(amount="15.50")
        await api.act("carla", first)
        found = await api.admin.call(api.stubs.approvals.ListApprovals, pb.ListApprovalsRequest(state=Approval.PENDING))
        assert [one.amount.amount for one in found.approvals] == ["15.50"]


class TestLists:
    async def test_filters_narrow_and_pages_follow(self, api: ApprovalsApi) -> None:
        await api.rule(step("C", "carla"), is_default=True)
        amounts = [f"{number}.00" for number in range(1, 8)]
        made = [await api.ask(amount=amount) for amount in amounts]
        await api.act("carla", made[0])
        low, high = api.request("2.00").amount, api.request("5.00").amount
        call = api.stubs.approvals.ListApprovals

        async def listed(**given: object) -> list[str]:
            request = pb.ListApprovalsRequest(**given)  # type: ignore[arg-type]  # as named
            return [one.amount.amount for one in (await api.admin.call(call, request)).approvals]

        assert await listed() == amounts[::-1]
        assert await listed(state=Approval.APPROVED) == ["1.00"]
        assert await listed(amount_from=low, amount_to=high) == ["5.00", "4.00", "3.00", "2.00"]
        assert await listed(requester="nobody") == []
        assert await listed(mine=pb.ListApprovalsRequest.REQUESTED) == []
        told, token = [], ""
        while True:
            request = pb.ListApprovalsRequest(page_size=3, page_token=token)
            page = await api.admin.call(call, request)
            told += [one.id for one in page.approvals]
            token = page.next_page_token
            if not token:
                break
        assert told == [one.id for one in made[::-1]]
        assert (await api.inbox("carla"), await api.inbox("alice")) == (told[:-1], [])


class TestTheEnd:
    @pytest.mark.parametrize(("on_expiry", "action"), [("EXPIRED", "EXPIRE"), ("REJECTED", "REJECT")])
    async def test_what_nobody_decides_ends_as_its_rule_says_and_its_money_is_given_back(
        self,
        api: ApprovalsApi,
        admin: "asyncpg.Pool[asyncpg.Record]",
        outbox_events: Callable[..., Awaitable[list[OutboxEvent]]],
        on_expiry: str,
        action: str,
    ) -> None:
        budget = await api.budgets.open("100.00")
        await api.rule(step("C", "carla"), step("Z", "zoe"), on_expiry=Approval.State.Value(on_expiry))
        asked = await api.ask(amount="60.00", budget_id=budget.id)
        over = await expire(api, admin, asked)
        assert (Approval.State.Name(over.state), over.decided_by) == (on_expiry, "service:approvals")
        assert over.HasField("end_time")
        assert (await refusal(api.act("carla", asked))).metadata["decided_by"] == "service:approvals"
        assert (await api.inbox("carla"), await api.inbox("zoe")) == ([], [])
        await api.settled(asked, Approval.RELEASED)
        assert await api.numbers(budget) == ("0.00", "0.00", "0.00", "0.00", "100.00")
        said = [one for one in await outbox_events("approvals") if one.type.endswith(f".Approval{on_expiry.title()}")]
        assert len(said) == 1
        done = [one.action for one in await done_by_the_clock(api, asked)]
        assert done == [ApprovalAction.ESCALATE, ApprovalAction.Type.Value(action)]


class TestMeasuring:
    async def test_the_age_of_what_is_undecided_is_measured(
        self, api: ApprovalsApi, approvals_served: Served[Approvals], admin: "asyncpg.Pool[asyncpg.Record]"
    ) -> None:
        def seen() -> dict[str, float]:
            samples = [one for metric in REGISTRY.collect() for one in metric.samples]
            told = {one.labels["age"]: one.value for one in samples if one.name == "billing_approvals_pending"}
            oldest = [one.value for one in samples if one.name == "billing_approvals_pending_oldest_seconds"]
            return {**told, "oldest": oldest[0]}

        await api.rule(step("C", "carla"))
        asked = await api.ask()
        await look_at_waiting(approvals_served.service.db)
        before = seen()
        old = ids.first_of(clock.now() - timedelta(hours=30))
        await admin.execute(
            "insert into approvals.timers (tenant_id, kind, resource_id, due_time)"
            " values ($1, 'approval-clock', $2, now() + interval '1 hour')", uuid4(), old,
        )  # fmt: skip
        await look_at_waiting(approvals_served.service.db)
        after = seen()
        assert {age: after[age] - before[age] for age in ("hour", "day", "three days", "week", "older")} == {
            "hour": 0, "day": 0, "three days": 1, "week": 0, "older": 0,
        }  # fmt: skip
        assert after["oldest"] >= timedelta(hours=30).total_seconds()
        await api.act("carla", asked)
        await admin.execute("delete from approvals.timers where resource_id = $1", old)
        await look_at_waiting(approvals_served.service.db)
        assert seen()["hour"] == before["hour"] - 1
