"""Period locks of an entity or of the whole tenant: charges with an earlier date are refused."""

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from billing.budgets.v1 import charge_pb2
from billing.budgets.v1 import ledger_service_pb2 as ledger_pb
from billing.budgets.v1 import period_lock_service_pb2 as pb
from billing.budgets.v1.budget_pb2 import Budget
from billing.budgets.v1.charge_pb2 import Availability
from billing.budgets.v1.events_pb2 import PeriodLockChanged
from billing.budgets.v1.period_lock_pb2 import PeriodLock

from kit import ids
from kit.origin import Origin
from kit.telemetry import Trace
from services.budgets import store
from tests.budgets.allocated_costs import CostEvents, allocation, reversal
from tests.budgets.budgets_api import BudgetsApi, eur
from tests.budgets.rolling import noon, roll
from tests.budgets.test_late_postings import FIRST, LAST_MONTH, TODAY, YESTERDAY, charge_late, last_month
from tests.harness.callers import Caller, refusal
from tests.harness.observe import PublishedEvents, eventually, until_blocked
from tests.harness.services import Budgets, Served

OPEN_FROM = FIRST.isoformat()
"""The lock of everything before this month."""


async def lock(api: BudgetsApi, entity_id: str = "", day: str = OPEN_FROM) -> PeriodLock:
    request = pb.SetPeriodLockRequest(entity_id=entity_id, locked_until_date=day, reason="Accounts approved")
    return await api.who.call(api.stubs.period_locks.SetPeriodLock, request)


async def list_locks(api: BudgetsApi) -> list[PeriodLock]:
    page = await api.who.call(api.stubs.period_locks.ListPeriodLocks, pb.ListPeriodLocksRequest())
    return list(page.period_locks)


class TestEffect:
    @pytest.mark.parametrize("whole_tenant", [False, True])
    async def test_late_charges_are_refused_and_refunds_correct_what_was_carried_forward(
        self,
        api: BudgetsApi,
        company: str,
        whole_tenant: bool,  # noqa: FBT001
    ) -> None:
        budget = await last_month(api)
        charge = await charge_late(api, budget, "400")
        opened = (await roll(api, budget, early=False)).opened
        await lock(api, "" if whole_tenant else company)
        error = await refusal(charge_late(api, budget, "1"))
        assert error.reason == "PERIOD_LOCKED"
        assert error.metadata == {"budget_id": budget.id, "locked_until_time": f"{OPEN_FROM}T00:00:00+00:00"}
        request = ledger_pb.CheckAvailabilityRequest(id=budget.id, amount=eur("1"), charge_time=noon(YESTERDAY))
        checked = await api.who.call(api.stubs.ledger.CheckAvailability, request)
        assert checked.verdict == Availability.PERIOD_LOCKED
        await api.refund(charge, "150")
        assert (await api.get(opened)).carried == eur("750.00")
        assert (await api.charge(opened, "1")).verdict == charge_pb2.Charge.ACCEPTED
        assert (await api.charge(budget, "400", charge.request_id, charge_time=noon(YESTERDAY))) == charge
        await api.verify(budget, opened)

    async def test_lock_holds_within_a_longer_period(self, api: BudgetsApi, company: str) -> None:
        budget = await api.open(period_type=Budget.CUSTOM, period_start_date=LAST_MONTH.isoformat(),
                                period_end_date=(TODAY + timedelta(days=90)).isoformat())  # fmt: skip
        await lock(api, company)
        assert (await refusal(charge_late(api, budget, "1"))).reason == "PERIOD_LOCKED"
        await api.charge(budget, "1", charge_time=noon(OPEN_FROM))

    async def test_cost_of_a_locked_period_is_unbudgeted_and_a_reversal_refunds(
        self, api: BudgetsApi, company: str, cost_events: CostEvents
    ) -> None:
        budget = await last_month(api)
        before = allocation(company, "7.00", allocation_date=YESTERDAY)
        await cost_events(before)
        await lock(api, company)
        await cost_events(allocation(company, "5.00", allocation_date=YESTERDAY))
        (spend,) = await cost_events.unbudgeted(1)
        assert (spend.reason, spend.amount) == ("PERIOD_LOCKED", eur("5.00"))
        await cost_events.publish(reversal(before))

        async def refunded() -> bool:
            return (await api.get(budget)).spent == eur("0.00")

        await eventually(refunded)

    async def test_lock_of_an_entity_above_in_the_chain_counts(self, api: BudgetsApi, company: str) -> None:
        group = await last_month(api)
        other = await api.company("OTHER", parent_id=company)
        team = await last_month(api, "100", parent_id=group.id, entity_id=other)
        await lock(api, company)
        assert (await refusal(charge_late(api, team, "1"))).metadata["budget_id"] == group.id

    async def test_budgets_opened_later_are_locked(self, api: BudgetsApi, company: str) -> None:
        first = await last_month(api, start=(LAST_MONTH - timedelta(days=1)).replace(day=1))
        await lock(api, company)
        second = (await roll(api, first, early=False)).opened
        for budget in (second, await last_month(api)):
            assert (await refusal(charge_late(api, budget, "1"))).reason == "PERIOD_LOCKED"

    async def test_later_of_both_locks_applies_and_an_earlier_date_unlocks(self, api: BudgetsApi, company: str) -> None:
        budget = await last_month(api)
        await lock(api, company)
        await lock(api, day="2020-01-01")
        assert (await refusal(charge_late(api, budget, "1"))).reason == "PERIOD_LOCKED"
        await lock(api, company, "2021-01-01")
        await charge_late(api, budget, "1")

    async def test_day_begins_in_the_time_zone_of_the_budget(self, api: BudgetsApi, company: str) -> None:
        budget = await last_month(api, time_zone="Asia/Tokyo", period_end_date="")
        await lock(api, company, YESTERDAY)
        begin = datetime.combine(FIRST - timedelta(days=1), datetime.min.time(), UTC) - timedelta(hours=9)
        await api.charge(budget, "1", charge_time=begin)
        assert (await refusal(api.charge(budget, "1", charge_time=begin - timedelta(seconds=1)))).reason == (
            "PERIOD_LOCKED"
        )

    async def test_charges_during_the_lock_are_before_or_after_it(self, api: BudgetsApi, company: str) -> None:
        budget = await last_month(api)
        calls = [charge_late(api, budget, "1") for _ in range(30)]
        _, *outcomes = await asyncio.gather(lock(api, company), *calls, return_exceptions=True)
        accepted = sum(isinstance(outcome, charge_pb2.Charge) for outcome in outcomes)
        assert (await api.get(budget)).spent == eur(f"{accepted}.00")
        assert (await refusal(charge_late(api, budget, "1"))).reason == "PERIOD_LOCKED"


class TestSetPeriodLock:
    async def test_lock_is_stored_listed_published_and_audited(
        self, api: BudgetsApi, company: str, admin: Any, published_events: PublishedEvents
    ) -> None:
        await lock(api, company, "2020-01-01")
        row = await lock(api, company)
        assert (row.entity_id, row.locked_until_date, row.reason, row.actor) == (
            company, OPEN_FROM, "Accounts approved", "alice",
        )  # fmt: skip
        assert await list_locks(api) == [row]
        events = await published_events.at_least(2, PeriodLockChanged)
        assert [(event.locked_until_date, event.previous_date) for event in events] == [
            ("2020-01-01", ""), (OPEN_FROM, "2020-01-01"),
        ]  # fmt: skip
        query = "select action from budgets.audit_log where tenant_id = $1 and resource_table = 'period_locks'"
        rows = await admin.fetch(f"{query} order by position", api.who.tenant_id)
        assert [each["action"] for each in rows] == ["insert", "update"]

    async def test_future_days_and_unknown_entities_are_refused(self, api: BudgetsApi, company: str) -> None:
        tomorrow = (datetime.now(UTC).date() + timedelta(days=1)).isoformat()
        assert set((await refusal(lock(api, company, tomorrow))).fields) == {"locked_until_date"}
        assert (await refusal(lock(api, ids.ENTITY.format(ids.new())))).reason == "OWNER_NOT_FOUND"

    @pytest.mark.parametrize("time_zone", ["Pacific/Kiritimati", "Pacific/Pago_Pago"])
    async def test_last_day_to_open_is_today_in_the_time_zone_of_the_entity(
        self, api: BudgetsApi, time_zone: str
    ) -> None:
        entity_id = await api.company(time_zone=time_zone)
        today = datetime.now(ZoneInfo(time_zone)).date()
        assert (await lock(api, entity_id, today.isoformat())).locked_until_date == today.isoformat()
        tomorrow = (today + timedelta(days=1)).isoformat()
        assert set((await refusal(lock(api, entity_id, tomorrow))).fields) == {"locked_until_date"}

    async def test_lock_does_not_deadlock_with_budgets_that_are_opened(
        self, api: BudgetsApi, budgets_served: Served[Budgets], admin: Any
    ) -> None:
        parent, ended = [await last_month(api) for _ in range(2)]
        origin = Origin(
            tenant_id=api.who.tenant_id, actor="alice", trace=Trace.from_header(None), deadline=time.monotonic() + 30
        )
        async with budgets_served.service.db.write(origin) as tx:
            await store.period_locks.lock(tx)
            calls = [
                asyncio.ensure_future(call)
                for call in (last_month(api, "100", parent_id=parent.id), roll(api, ended, early=False))
            ]
            await until_blocked(admin, 2)
            await store.period_locks.apply(tx, None)
        await asyncio.gather(*calls)

    async def test_scope_confines_locks_to_its_entities(
        self, api: BudgetsApi, company: str, api_for: Callable[[Caller], BudgetsApi], caller: Callable[..., Caller]
    ) -> None:
        other = await api.company("OTHER")
        confined = api_for(caller("finance", entity_scope=[company]))
        await lock(api, other)
        own, tenant = await lock(confined, company), await lock(api)
        assert set((await refusal(lock(confined))).fields) == {"entity_id"}
        assert (await refusal(lock(confined, other))).reason == "OWNER_NOT_FOUND"
        assert await list_locks(confined) == [own, tenant]
        assert len(await list_locks(api)) == 3
