"""Holds: they count on the whole chain, end exactly once and are not spent twice."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import uuid4

import grpc
import pytest
from billing.budgets.v1 import ledger_service_pb2 as pb
from billing.budgets.v1.budget_pb2 import Budget
from billing.budgets.v1.entry_pb2 import Entry
from billing.budgets.v1.events_pb2 import BudgetHoldExpired
from billing.budgets.v1.hold_pb2 import Hold
from google.protobuf.timestamp_pb2 import Timestamp

from kit.ids import HOLD
from tests.budgets.budgets_api import BudgetsApi, eur, numbers
from tests.harness.callers import Caller, refusal
from tests.harness.observe import PublishedEvents, eventually


def in_a_moment(seconds: float = 0.4) -> Timestamp:
    moment = Timestamp()
    moment.FromDatetime(datetime.now(UTC) + timedelta(seconds=seconds))
    return moment


def parts(hold: Hold) -> tuple[str, str, str, str]:
    """Return the state, and the captured, released and open amounts."""
    return Hold.State.Name(hold.state), hold.captured.amount, hold.released.amount, hold.open.amount


async def expired(api: BudgetsApi, hold: Hold) -> Hold:
    """Wait until the timer of the hold has released it; return the hold."""

    async def ended() -> bool:
        return (await api.get_hold(hold)).state == Hold.EXPIRED

    await eventually(ended)
    return await api.get_hold(hold)


class TestCreateHold:
    async def test_a_hold_reduces_what_is_available_on_the_whole_chain(self, api: BudgetsApi) -> None:
        group = await api.open("1000", name="Group")
        team = await api.open("500", name="Team", parent_id=group.id)
        hold = await api.hold(team, "200", "k1", description="servers", reference="PO-1")
        assert (hold.budget_id, hold.amount, parts(hold)) == (
            team.id,
            eur("200.00"),
            ("HELD", "0.00", "0.00", "200.00"),
        )
        assert (hold.description, hold.reference, hold.request_id, hold.actor) == ("servers", "PO-1", "k1", "alice")
        assert not hold.HasField("expire_time")
        assert [numbers(await api.get(budget)) for budget in (team, group)] == [
            ("0.00", "200.00", "0.00", "0.00", "300.00"),
            ("0.00", "200.00", "0.00", "0.00", "800.00"),
        ]
        assert (await refusal(api.charge(team, "300.01"))).metadata["available"] == "300.00"
        assert await api.charge(team, "300")
        (entry,) = await api.entries(group, entry_type=Entry.HOLD)
        assert (entry.id, entry.hold_id, entry.held_after.amount) == (hold.last_entry_id, hold.id, "200.00")
        await api.verify(team, group)

    async def test_a_hold_above_what_is_available_is_refused(self, api: BudgetsApi) -> None:
        group = await api.open("100", name="Group")
        team = await api.open("500", name="Team", parent_id=group.id)
        refused = await refusal(api.hold(team, "100.01"))
        assert (refused.reason, refused.metadata["budget_id"]) == ("BUDGET_EXCEEDED", group.id)
        assert await api.holds(team) == []
        assert (await api.hold(team, "100")).state == Hold.HELD

    async def test_a_hold_needs_an_active_budget(self, api: BudgetsApi) -> None:
        assert (await refusal(api.hold(await api.open(draft=True), "1"))).reason == "BUDGET_STATE"

    async def test_a_hold_raises_alerts(self, api: BudgetsApi) -> None:
        budget = await api.open("100", alert_thresholds_bp=[5000])
        hold = await api.hold(budget, "50")
        (alert,) = await api.alerts(budget)
        assert (alert.used.amount, alert.spent.amount, alert.charge_id) == ("50.00", "0.00", hold.last_entry_id)

    @pytest.mark.parametrize("expire_time", [Timestamp(seconds=1), in_a_moment(401 * 86400)])
    async def test_an_expiry_in_the_past_or_too_far_ahead_is_refused(
        self, api: BudgetsApi, expire_time: Timestamp
    ) -> None:
        refused = await refusal(api.hold(await api.open(), "1", expire_time=expire_time))
        assert set(refused.fields) == {"expire_time"}

    async def test_a_repeated_key_returns_its_hold_after_the_expiry(self, api: BudgetsApi) -> None:
        budget, soon = await api.open(), in_a_moment()
        hold = await api.hold(budget, "10", "k1", expire_time=soon)
        await expired(api, hold)
        assert await api.hold(budget, "10", "k1", expire_time=soon) == hold


class TestStates:
    async def test_a_hold_is_committed_captured_in_parts_and_the_rest_released(self, api: BudgetsApi) -> None:
        group = await api.open("1000", name="Group")
        team = await api.open("500", name="Team", parent_id=group.id)
        hold = await api.hold(team, "200")
        steps: list[tuple[Callable[[], Awaitable[Hold]], tuple[str, ...], tuple[str, ...]]] = [
            (lambda: api.commit(hold), ("COMMITTED", "0.00", "0.00", "200.00"), ("0.00", "0.00", "200.00", "0.00")),
            (lambda: api.capture(hold, "50"), ("COMMITTED", "50.00", "0.00", "150.00"),
             ("50.00", "0.00", "150.00", "50.00")),
            (lambda: api.release(hold, "30"), ("COMMITTED", "50.00", "30.00", "120.00"),
             ("50.00", "0.00", "120.00", "50.00")),
            (lambda: api.capture(hold, "70", release_rest=True), ("CAPTURED", "120.00", "80.00", "0.00"),
             ("120.00", "0.00", "0.00", "120.00")),
        ]  # fmt: skip
        for act, after, budgets in steps:
            done = await act()
            assert parts(done) == after
            assert await api.get_hold(hold) == done
            for budget in (team, group):
                assert numbers(await api.get(budget))[:4] == budgets
            await api.verify(team, group)
        assert (await api.get(team)).available.amount == "380.00"
        assert [(e.entry_type, e.amount.amount) for e in await api.entries(group)] == [
            (Entry.CAPTURE, "70.00"),
            (Entry.RELEASE, "30.00"),
            (Entry.CAPTURE, "50.00"),
            (Entry.COMMIT, "200.00"),
            (Entry.HOLD, "200.00"),
        ]

    async def test_without_an_amount_all_that_is_left_is_captured_or_released(self, api: BudgetsApi) -> None:
        budget = await api.open()
        first, second = await api.hold(budget, "60"), await api.hold(budget, "40")
        await api.capture(first, "10")
        assert parts(await api.capture(first)) == ("CAPTURED", "60.00", "0.00", "0.00")
        assert parts(await api.release(second)) == ("RELEASED", "0.00", "40.00", "0.00")
        assert numbers(await api.get(budget)) == ("60.00", "0.00", "0.00", "60.00", "940.00")
        await api.verify(budget)

    async def test_more_than_is_left_cannot_be_captured_or_released(self, api: BudgetsApi) -> None:
        hold = await api.hold(await api.open(), "100")
        await api.capture(hold, "60")
        for act in (api.capture, api.release):
            refused = await refusal(act(hold, "40.01"))
            assert (refused.reason, refused.metadata["available"]) == ("HOLD_EXCEEDED", "40.00")
        assert parts(await api.get_hold(hold)) == ("HELD", "60.00", "0.00", "40.00")

    async def test_a_full_budget_still_accepts_captures_of_its_holds(self, api: BudgetsApi) -> None:
        budget = await api.open("100")
        hold = await api.hold(budget, "60")
        await api.charge(budget, "40")
        assert (await api.commit(hold)).state == Hold.COMMITTED
        assert (await api.capture(hold)).state == Hold.CAPTURED
        assert (await api.get(budget)).available.amount == "0.00"

    ALLOWED = {  # noqa: RUF012 - only read
        "commit": {"HELD"}, "capture": {"HELD", "COMMITTED"}, "release": {"HELD", "COMMITTED"},
    }  # fmt: skip

    @pytest.mark.parametrize("state", Hold.State.keys()[1:])
    @pytest.mark.parametrize("action", ["commit", "capture", "release"])
    async def test_every_state_and_action(self, api: BudgetsApi, state: str, action: str) -> None:
        budget = await api.open()
        hold = await api.hold(budget, "10", expire_time=in_a_moment() if state == "EXPIRED" else None)
        transitions: dict[str, Callable[[Hold], Awaitable[Hold]]] = {
            "HELD": api.get_hold, "COMMITTED": api.commit, "CAPTURED": api.capture, "RELEASED": api.release,
            "EXPIRED": partial(expired, api),
        }  # fmt: skip
        hold = await transitions[state](hold)
        act: Callable[[Hold], Awaitable[Hold]] = getattr(api, action)
        if state in self.ALLOWED[action]:
            assert (await act(hold)).state != hold.state
        else:
            refused = await refusal(act(hold))
            assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "HOLD_STATE")
            assert refused.metadata["state"] == state
            assert set(refused.metadata["allowed"].split(", ")) == self.ALLOWED[action]
        await api.verify(budget)

    async def test_a_closed_budget_releases_holds_and_captures_nothing(self, api: BudgetsApi) -> None:
        budget = await api.open()
        hold = await api.hold(budget, "10")
        await api.close(budget)
        for act in (api.commit, api.capture):
            assert (await refusal(act(hold))).reason == "BUDGET_STATE"
        assert (await api.release(hold)).state == Hold.RELEASED
        assert numbers(await api.get(budget))[:2] == ("0.00", "0.00")

    async def test_a_capture_is_refunded_by_its_entry(self, api: BudgetsApi) -> None:
        budget = await api.open()
        hold = await api.capture(await api.hold(budget, "10"))
        request = pb.RefundChargeRequest(id=budget.id, charge_id=hold.last_entry_id, request_id="r", amount=eur("4"))
        refund = await api.who.call(api.stubs.ledger.RefundCharge, request)
        assert refund.refundable == eur("6.00")
        assert numbers(await api.get(budget)) == ("6.00", "0.00", "0.00", "6.00", "994.00")
        await api.verify(budget)


class TestExpiry:
    async def test_an_expired_hold_is_released_by_its_timer(
        self, api: BudgetsApi, published_events: PublishedEvents
    ) -> None:
        group = await api.open("100", name="Group")
        team = await api.open("100", name="Team", parent_id=group.id)
        hold = await api.hold(team, "60", expire_time=in_a_moment())
        await api.capture(hold, "10")
        assert parts(await expired(api, hold)) == ("EXPIRED", "10.00", "50.00", "0.00")
        for budget in (team, group):
            assert numbers(await api.get(budget)) == ("10.00", "0.00", "0.00", "10.00", "90.00")
        event = await published_events.first(BudgetHoldExpired)
        assert (event.hold.id, event.hold.released.amount, event.entity_id) == (hold.id, "50.00", api.entity_id)
        (entry,) = await api.entries(team, entry_type=Entry.EXPIRE)
        assert (entry.amount.amount, entry.actor, entry.hold_id) == ("50.00", "service:budgets", hold.id)
        await api.verify(team, group)

    async def test_an_expired_hold_cannot_be_captured_even_before_its_timer_ran(
        self, api: BudgetsApi, admin: Any
    ) -> None:
        budget = await api.open()
        hold = await api.hold(budget, "10", expire_time=in_a_moment(3600))
        await admin.execute(
            "update budgets.budget_holds set expire_time = now() where id = $1", HOLD.parse(hold.id)
        )  # its timer is still due in an hour
        for act in (api.commit, api.capture):
            assert (await refusal(act(hold))).reason == "HOLD_EXPIRED"
        assert (await api.release(hold)).state == Hold.RELEASED

    async def test_an_ended_or_committed_hold_has_no_timer(self, api: BudgetsApi, admin: Any) -> None:
        budget = await api.open()
        holds = [await api.hold(budget, "10", expire_time=in_a_moment(3600)) for _ in range(4)]
        waiting = "select count(*) from budgets.timers where resource_id = any($1)"
        hold_ids = [HOLD.parse(hold.id) for hold in holds]
        assert await admin.fetchval(waiting, hold_ids) == 4
        await api.commit(holds[0])
        await api.capture(holds[1])
        await api.release(holds[2])
        await api.capture(holds[3], "1")
        assert await admin.fetchval(waiting, hold_ids) == 1
        assert await admin.fetchval(waiting, hold_ids[3:]) == 1
        assert not (await api.get_hold(holds[0])).HasField("expire_time")

    async def test_a_committed_hold_does_not_expire(self, api: BudgetsApi) -> None:
        budget = await api.open()
        late = in_a_moment()
        committed, expiring = (
            await api.hold(budget, "10", expire_time=late),
            await api.hold(budget, "10", expire_time=late),
        )
        await api.commit(committed)
        await expired(api, expiring)
        assert (await api.capture(committed)).state == Hold.CAPTURED


class TestKeys:
    async def test_each_repeated_call_returns_the_same_hold(self, api: BudgetsApi) -> None:
        budget = await api.open("100")
        held = await api.hold(budget, "60", "k")
        committed = await api.commit(held, "k")  # each method has its own keys
        captured = await api.capture(held, "20", "k")
        released = await api.release(held, "40", "k")
        await api.charge(budget, "80")
        assert await api.hold(budget, "60", "k") == held
        assert await api.commit(held, "k") == committed
        assert await api.capture(held, "20", "k") == captured
        assert await api.release(held, "40", "k") == released
        assert numbers(await api.get(budget)) == ("100.00", "0.00", "0.00", "20.00", "0.00")
        assert len(await api.entries(budget)) == 5

    async def test_a_key_with_different_input_is_refused(self, api: BudgetsApi) -> None:
        budget = await api.open("100")
        first, second = await api.hold(budget, "30", "k"), await api.hold(budget, "30")
        await api.commit(first, "k")
        await api.capture(first, "10", "k")
        await api.release(first, "10", "k")
        for call in (
            api.hold(budget, "31", "k"),
            api.commit(second, "k"),
            api.capture(first, "11", "k"),
            api.capture(first, "10", "k", release_rest=True),
            api.release(first, "11", "k"),
        ):
            assert (await refusal(call)).reason == "IDEMPOTENCY_MISMATCH"
        assert numbers(await api.get(budget))[:4] == ("10.00", "30.00", "10.00", "10.00")


class TestReading:
    async def test_holds_are_listed_newest_first_by_state_and_reference(self, api: BudgetsApi) -> None:
        budget, other = await api.open(), await api.open()
        first = await api.hold(budget, "1", reference="PO-1")
        second = await api.commit(await api.hold(budget, "2", reference="PO-2"))
        await api.hold(other, "3")
        assert await api.holds(budget) == [second, first]
        assert await api.holds(budget, state=Hold.HELD) == [first]
        assert await api.holds(budget, reference="PO-2") == [second]
        page = await api.who.call(api.stubs.ledger.ListHolds, pb.ListHoldsRequest(id=budget.id, page_size=1))
        assert list(page.holds) == [second]
        assert await api.holds(budget, page_token=page.next_page_token, page_size=1) == [first]

    async def test_a_hold_is_found_on_its_own_budget_only(self, api: BudgetsApi) -> None:
        hold, other = await api.hold(await api.open(), "10"), await api.open()
        misplaced = Hold(id=hold.id, budget_id=other.id)
        for act in (api.get_hold, api.commit, api.capture, api.release):
            assert (await refusal(act(misplaced))).reason == "HOLD_NOT_FOUND"
        missing = Hold(id="hld_" + uuid4().hex, budget_id=hold.budget_id)
        for act in (api.get_hold, api.commit, api.capture, api.release):
            assert (await refusal(act(missing))).reason == "HOLD_NOT_FOUND"
        assert await api.get_hold(hold) == hold


class TestAccess:
    async def test_a_confined_manager_holds_only_within_the_scope(
        self, api: BudgetsApi, api_for: Callable[[Caller], BudgetsApi], caller: Callable[..., Caller]
    ) -> None:
        entity = await api.company()
        department = await api.department(entity)
        whole = await api.open("100", entity_id=entity)
        own = await api.open("100", entity_id=entity, department_id=department, parent_id=whole.id)
        above = await api.hold(whole, "10")
        manager = api_for(caller("department_manager", subject="mia", department_scope=[department]))
        mine = await manager.hold(own, "20")
        assert (await manager.commit(mine)).actor == "mia"
        assert (await refusal(manager.hold(whole, "1"))).reason == "BUDGET_NOT_FOUND"
        assert (await refusal(manager.holds(whole))).reason == "BUDGET_NOT_FOUND"
        assert (await refusal(manager.get_hold(above))).reason == "HOLD_NOT_FOUND"
        for act in (manager.commit, manager.capture, manager.release):
            assert (await refusal(act(above))).reason in {"BUDGET_NOT_FOUND", "HOLD_NOT_FOUND"}
        assert (await manager.capture(mine)).state == Hold.CAPTURED
        assert parts(await api.get_hold(above)) == ("HELD", "0.00", "0.00", "10.00")

    async def test_the_hold_of_another_tenant_is_not_found(
        self, api: BudgetsApi, api_for: Callable[[Caller], BudgetsApi], caller: Callable[..., Caller]
    ) -> None:
        hold = await api.hold(await api.open(), "10")
        stranger = api_for(caller(tenant=uuid4()))
        missing = Hold(id="hld_" + uuid4().hex, budget_id="bud_" + uuid4().hex)
        for act in (stranger.get_hold, stranger.commit, stranger.capture, stranger.release):
            theirs, nobodys = await refusal(act(hold)), await refusal(act(missing))
            assert (theirs.code, theirs.reason) == (nobodys.code, nobodys.reason)
            assert theirs.message.replace(hold.id, missing.id) == nobodys.message
        assert (await refusal(api_for(caller("viewer")).hold(Budget(id=hold.budget_id), "1"))).metadata == {
            "permission": "budgets.charge"
        }
        assert await api.get_hold(hold) == hold
