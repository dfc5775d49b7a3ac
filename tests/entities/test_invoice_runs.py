"""Runs of invoice schedules: what they make and can't make, once even with several replicas and crashes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, date, timedelta
from typing import Any, Final
from uuid import UUID

import asyncpg
import pytest
from billing.entities.v1.entity_pb2 import Entity
from billing.entities.v1.invoice_pb2 import Invoice
from billing.entities.v1.invoice_schedule_pb2 import InvoiceRun, InvoiceSchedule
from sqlalchemy.exc import DBAPIError

from eventing.timers import Timers
from kit import clock, dates
from kit.db import Database
from kit.origin import Origin
from services.entities import timers
from services.entities.service.invoice_runs import InvoiceRuns
from tests.entities.allocation_api import AllocationApi
from tests.entities.billing_profile_api import BillingProfileApi
from tests.entities.entities_api import EntitiesApi
from tests.entities.invoice_api import InvoiceApi
from tests.entities.invoice_schedule_api import InvoiceScheduleApi, let_months_pass, schedule_id, timers_of
from tests.entities.timer_replicas import TimerlessService
from tests.harness.callers import Caller
from tests.harness.observe import eventually, outbox_events, until_blocked
from tests.kit.timer_driver import running

ISSUE: Final[dict[str, Any]] = {"action": InvoiceSchedule.ISSUE}


@dataclass(frozen=True, slots=True)
class Group:
    """A group with an issuer, on a service whose timers fire only in `replicas`."""

    service: TimerlessService
    origin: Origin
    schedules: InvoiceScheduleApi
    invoices: InvoiceApi
    costs: AllocationApi
    api: EntitiesApi
    entity: Entity

    async def cost(self, amount: str = "100.00 EUR", *, months_ago: int = 1, **fields: Any) -> None:
        """Allocate a cost of the middle of a month before the current one."""
        department = await self.api.create_department(self.entity, f"D{amount[:-4]}-{months_ago}".replace(".", "-"))
        day = dates.months_later(self.today.replace(day=15), -months_ago)
        await self.costs.allocate(department, amount, allocation_date=day.isoformat(), **fields)

    @property
    def today(self) -> date:
        return dates.date_in("UTC", clock.now())

    async def schedule(self, months: int = 1, **fields: Any) -> InvoiceSchedule:
        """A schedule whose runs have been due for so many months."""
        schedule = await self.schedules.create(self.entity, **fields)
        await let_months_pass(self.service.admin, schedule, months)
        return schedule

    async def run(self, schedule: InvoiceSchedule) -> None:
        """Make the next run, if it is due."""
        await InvoiceRuns(self.service.served.service.db).run(self.origin, schedule_id(schedule))

    async def only_run(self, schedule: InvoiceSchedule) -> InvoiceRun:
        (run,) = await self.schedules.runs(schedule)
        return run

    async def set_default(self, *, exists: bool) -> None:
        """Set whether the issuer is the default of the tenant."""
        update = "update entities.billing_profiles set is_default = $1 where tenant_id = $2"
        await self.service.admin.execute(update, exists, self.origin.tenant_id)

    async def events(self) -> list[tuple[str, str]]:
        """The published events of runs, each with its invoice."""
        events = await outbox_events(self.service.admin, "entities", self.origin.tenant_id)
        names = [(event.type.rpartition(".")[2], event.body.get("invoice_id", "")) for event in events]
        return [(name, invoice_id) for name, invoice_id in names if name.startswith("InvoiceRun")]

    @contextlib.asynccontextmanager
    async def replicas(self, number: int) -> AsyncIterator[None]:
        """Run this many replicas of the timers of runs."""
        async with contextlib.AsyncExitStack() as stack:
            replicas = []
            for _ in range(number):
                database = Database(self.service.settings)
                stack.push_async_callback(database.close)
                runs = InvoiceRuns(database)
                replicas.append(Timers(database, "entities", timers.INVOICE_RUNS, runs, poll_s=0.01, lease_s=2))
            async with running(*replicas):
                yield


@pytest.fixture
async def group(timerless: TimerlessService, finance: Caller, origin: Origin) -> Group:
    stubs = timerless.served.stubs
    api = EntitiesApi(finance, stubs)
    await BillingProfileApi(finance, stubs).create("Shared Services")
    entity = await api.create_entity("HOLD", tax_rate_bp=1900)
    return Group(
        timerless, origin, InvoiceScheduleApi(finance, stubs), InvoiceApi(finance, stubs),
        AllocationApi(finance, stubs), api, entity,
    )  # fmt: skip


class TestRun:
    async def test_draft_of_the_period_before(self, group: Group) -> None:
        await group.cost("100.00 EUR")
        await group.cost("7.00 EUR", months_ago=0)  # belongs to the next run
        schedule = await group.schedule()
        due = await group.schedules.get(schedule)
        await group.run(schedule)
        run = await group.only_run(schedule)
        assert (run.state, run.attempts, run.invoice_state) == (InvoiceRun.COMPLETED, 1, Invoice.DRAFT)
        assert (run.invoice_number, list(run.problems), run.due_time) == ("", [], due.next_run_time)
        invoice = await group.invoices.get(Invoice(id=run.invoice_id))
        assert (invoice.total.amount, invoice.state) == ("119.00", Invoice.DRAFT)
        period = run.period_start_date, run.period_end_date
        assert period == (invoice.period_start_date, invoice.period_end_date)
        assert period == (due.next_period_start_date, due.next_period_end_date)
        assert await group.events() == [("InvoiceRunCompleted", invoice.id)]
        following = await group.schedules.get(schedule)
        assert following.next_period_start_date == run.period_end_date
        assert following.etag == "2"
        assert await timers_of(group.service.admin, schedule) == [following.next_run_time.ToDatetime(tzinfo=UTC)]

    async def test_issued_invoice(self, group: Group) -> None:
        await group.cost()
        schedule = await group.schedule(**ISSUE)
        await group.run(schedule)
        run = await group.only_run(schedule)
        assert (run.state, run.invoice_state) == (InvoiceRun.COMPLETED, Invoice.ISSUED)
        invoice = await group.invoices.get(Invoice(id=run.invoice_id))
        assert run.invoice_number == invoice.number == f"INV-{group.today.year}-000001"

    async def test_terms_of_the_schedule(self, group: Group) -> None:
        day = dates.months_later(group.today.replace(day=1), -1)
        await group.api.set_rates(f"{day} EUR/USD 1.25")
        await group.cost("100.00 EUR")
        profile = await BillingProfileApi(group.api.caller, group.service.served.stubs).create(
            "Second", invoice_prefix="B-", statement_prefix="BS-", credit_note_prefix="BC-"
        )
        terms: dict[str, Any] = {
            "currency_code": "USD",
            "rate_policy": Invoice.TRANSACTION_DATE,
            "billing_profile_id": profile.id,
        }
        schedule = await group.schedule(**terms, **ISSUE)
        await group.run(schedule)
        invoice = await group.invoices.get(Invoice(id=(await group.only_run(schedule)).invoice_id))
        assert (invoice.net.amount, invoice.net.currency_code) == ("125.00", "USD")
        assert (invoice.rate_policy, invoice.number[:2]) == (Invoice.TRANSACTION_DATE, "B-")

    async def test_quarter(self, group: Group) -> None:
        schedule = await group.schedule(3, frequency=InvoiceSchedule.QUARTERLY)
        await group.cost(months_ago=5)
        await group.run(schedule)
        run = await group.only_run(schedule)
        start = date.fromisoformat(run.period_start_date)
        assert (start.month % 3, dates.months_later(start, 3).isoformat()) == (1, run.period_end_date)

    async def test_nothing_to_bill(self, group: Group) -> None:
        schedule = await group.schedule(**ISSUE)
        await group.run(schedule)
        run = await group.only_run(schedule)
        assert (run.state, run.invoice_id, list(run.problems)) == (InvoiceRun.NOTHING_TO_BILL, "", [])
        assert await group.events() == [("InvoiceRunCompleted", "")]
        assert (await group.schedules.get(schedule)).next_period_start_date == run.period_end_date

    async def test_early_timer_is_reset(self, group: Group) -> None:
        schedule = await group.schedules.create(group.entity)
        right = await timers_of(group.service.admin, schedule)
        await let_months_pass(group.service.admin, schedule, 0)
        await group.run(schedule)
        assert await timers_of(group.service.admin, schedule) == right
        assert await group.schedules.runs(schedule) == []

    async def test_paused_and_deleted_schedules_have_no_runs(self, group: Group) -> None:
        await group.cost()
        schedule = await group.schedule()
        await group.schedules.update(schedule, active=False)
        await group.run(schedule)
        await group.schedules.delete(schedule)
        await group.run(schedule)
        assert await group.schedules.runs(schedule) == []
        assert await group.events() == []


class TestFailures:
    async def test_missing_rates_are_all_named_and_the_run_is_retried(self, group: Group) -> None:
        us = await group.api.create_entity("US", parent_id=group.entity.id, currency_code="USD")
        uk = await group.api.create_entity("UK", parent_id=group.entity.id, currency_code="GBP")
        day = dates.months_later(group.today.replace(day=15), -1).isoformat()
        for entity, amount in ((us, "10.00 USD"), (uk, "20.00 GBP")):
            department = await group.api.create_department(entity)
            await group.costs.allocate(department, amount, allocation_date=day)
        schedule = await group.schedule(**ISSUE)
        await group.run(schedule)
        run = await group.only_run(schedule)
        assert (run.state, run.attempts, run.invoice_id) == (InvoiceRun.RETRYING, 1, "")
        assert [problem.reason for problem in run.problems] == ["RATE_MISSING", "RATE_MISSING"]
        assert sorted(currency for currency in ("USD", "GBP") for each in run.problems if currency in each.message) == [
            "GBP", "USD",
        ]  # fmt: skip
        attempt_time, retry_time = run.attempt_time.ToDatetime(), run.retry_time.ToDatetime()
        assert retry_time == attempt_time + timedelta(hours=1)
        assert await timers_of(group.service.admin, schedule) == [retry_time.replace(tzinfo=UTC)]
        assert (await group.schedules.get(schedule)).next_period_end_date == run.period_end_date
        await group.run(schedule)
        assert (await group.only_run(schedule)).attempts == 2
        assert await group.events() == [("InvoiceRunFailed", "")]  # not for the second attempt
        first_day = f"{day[:8]}01"
        await group.api.set_rates(f"{first_day} USD/EUR 0.9", f"{first_day} GBP/EUR 1.2")
        await group.run(schedule)
        run = await group.only_run(schedule)
        assert (run.state, run.attempts, list(run.problems)) == (InvoiceRun.COMPLETED, 3, [])
        assert not run.HasField("retry_time")
        assert run.invoice_number
        assert await group.events() == [("InvoiceRunFailed", ""), ("InvoiceRunCompleted", run.invoice_id)]

    async def test_run_fails_after_three_days_without_a_rate(self, group: Group) -> None:
        us = await group.api.create_entity("US", parent_id=group.entity.id, currency_code="USD")
        day = dates.months_later(group.today.replace(day=15), -1).isoformat()
        await group.costs.allocate(await group.api.create_department(us), "10.00 USD", allocation_date=day)
        schedule = await group.schedule()
        await group.run(schedule)
        for age, state in ((71, InvoiceRun.RETRYING), (73, InvoiceRun.FAILED)):
            await group.service.admin.execute(
                "update entities.invoice_runs set create_time = now() - $1::interval where schedule_id = $2",
                timedelta(hours=age),
                schedule_id(schedule),
            )
            await group.run(schedule)
            assert (await group.only_run(schedule)).state == state
        run = await group.only_run(schedule)
        assert [problem.reason for problem in run.problems] == ["RATE_MISSING"]
        assert await group.events() == [("InvoiceRunFailed", "")] * 2
        assert (await group.schedules.get(schedule)).next_period_start_date == run.period_end_date

    async def test_period_that_is_invoiced_already_is_not_retried(self, group: Group) -> None:
        await group.cost()
        schedule = await group.schedule()
        due = await group.schedules.get(schedule)
        await group.invoices.create(group.entity, due.next_period_start_date, due.next_period_end_date)
        await group.run(schedule)
        run = await group.only_run(schedule)
        assert (run.state, run.invoice_id) == (InvoiceRun.FAILED, "")
        assert [problem.reason for problem in run.problems] == ["INVOICE_PERIOD_TAKEN"]
        assert await group.events() == [("InvoiceRunFailed", "")]
        assert (await group.schedules.get(schedule)).next_period_start_date == run.period_end_date

    async def test_incomplete_einvoice_stays_a_draft(self, group: Group) -> None:
        await group.cost()
        schedule = await group.schedule(require_einvoice=True, **ISSUE)
        await group.run(schedule)
        run = await group.only_run(schedule)
        assert (run.state, run.invoice_state, run.invoice_number) == (InvoiceRun.FAILED, Invoice.DRAFT, "")
        assert {problem.reason for problem in run.problems} == {"EINVOICE_INCOMPLETE"}
        assert (await group.invoices.get(Invoice(id=run.invoice_id))).state == Invoice.DRAFT
        assert await group.events() == [("InvoiceRunFailed", run.invoice_id)]

    async def test_tenant_without_issuer(self, group: Group) -> None:
        await group.cost()
        schedule = await group.schedule()
        await group.set_default(exists=False)
        await group.run(schedule)
        assert [problem.reason for problem in (await group.only_run(schedule)).problems] == ["BILLING_PROFILE_MISSING"]

    async def test_what_failed_is_billed_by_the_next_run(self, group: Group) -> None:
        for months_ago in (3, 2, 1):
            await group.cost(f"{50 * months_ago}.00 EUR", months_ago=months_ago)
        schedule = await group.schedule(3)
        for exists in (True, False, True):
            await group.set_default(exists=exists)
            await group.run(schedule)
        second, first, _ = await group.schedules.runs(schedule)
        assert (first.state, second.state) == (InvoiceRun.FAILED, InvoiceRun.COMPLETED)
        assert (await group.invoices.get(Invoice(id=second.invoice_id))).net.amount == "150.00"
        assert await group.schedules.runs(schedule, state=InvoiceRun.FAILED) == [first]

    async def test_lock_timeout_is_no_failure_of_the_run(self, group: Group, tenant: UUID) -> None:
        await group.cost()
        schedule = await group.schedule()
        async with group.service.admin.acquire() as connection, connection.transaction():
            await connection.execute("select pg_advisory_xact_lock(hashtextextended($1, 0))", f"invoices {tenant}")
            with pytest.raises(asyncpg.LockNotAvailableError):
                await group.run(schedule)
        assert await group.schedules.runs(schedule) == []
        await group.run(schedule)
        assert (await group.only_run(schedule)).state == InvoiceRun.COMPLETED


class TestReplicas:
    async def test_missed_runs_are_made_up_in_order(self, group: Group) -> None:
        for months_ago in (3, 2, 1):
            await group.cost(f"{months_ago}.00 EUR", months_ago=months_ago)
        schedule = await group.schedule(3, **ISSUE)

        async def are_made() -> bool:
            return len(await group.schedules.runs(schedule)) == 3

        async with group.replicas(3):
            await eventually(are_made, within_s=30)
        runs = (await group.schedules.runs(schedule))[::-1]
        year = group.today.year
        assert [run.invoice_number for run in runs] == [f"INV-{year}-{number:06}" for number in (1, 2, 3)]
        assert [run.period_end_date for run in runs[:2]] == [run.period_start_date for run in runs[1:]]
        totals = [(await group.invoices.get(Invoice(id=run.invoice_id))).net.amount for run in runs]
        assert totals == ["3.00", "2.00", "1.00"]

    async def test_replicas_make_one_invoice(self, group: Group) -> None:
        await group.cost()
        schedule = await group.schedule(**ISSUE)
        await asyncio.gather(*(group.run(schedule) for _ in range(6)))
        run = await group.only_run(schedule)
        assert await group.invoices.numbers() == [run.invoice_number]
        assert await group.events() == [("InvoiceRunCompleted", run.invoice_id)]

    async def test_many_schedules_run_once_each(self, group: Group) -> None:
        entities = [await group.api.create_entity(f"E{number}") for number in range(8)]
        day = dates.months_later(group.today.replace(day=15), -1).isoformat()
        for entity in entities:
            await group.costs.allocate(await group.api.create_department(entity), "5.00 EUR", allocation_date=day)
            await let_months_pass(group.service.admin, await group.schedules.create(entity, **ISSUE))

        async def are_made() -> bool:
            return len(await group.invoices.numbers()) == len(entities)

        async with group.replicas(3):
            await eventually(are_made, within_s=30)
            await eventually(lambda: group.service.has_no_due_timer(group.origin.tenant_id), within_s=30)
        numbers = sorted(await group.invoices.numbers())
        assert numbers == [f"INV-{group.today.year}-{number:06}" for number in range(1, len(entities) + 1)]
        assert len(await group.events()) == len(entities)

    async def test_connection_lost_before_the_commit_leaves_no_partial_effect(self, group: Group) -> None:
        await group.cost()
        schedule = await group.schedule(**ISSUE)
        admin = group.service.admin
        async with admin.acquire() as connection, connection.transaction():
            # An open series makes the run wait at its last statement.
            await connection.execute("lock table entities.number_series in exclusive mode")
            attempt = asyncio.create_task(group.run(schedule))
            await until_blocked(admin, application="entities")
            await admin.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database()"
                " and application_name = 'entities' and wait_event_type = 'Lock'"
            )
            with pytest.raises((DBAPIError, OSError, asyncpg.PostgresError)):
                await attempt
        assert await group.schedules.runs(schedule) == []
        assert await group.invoices.numbers() == []
        await group.run(schedule)
        assert (await group.only_run(schedule)).invoice_number == f"INV-{group.today.year}-000001"
        assert len(await group.invoices.numbers()) == 1
