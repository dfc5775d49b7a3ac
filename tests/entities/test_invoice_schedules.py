"""Invoice schedules: their periods and run times, and their RPCs."""

from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import available_timezones

import pytest
from billing.entities.v1.entity_pb2 import Entity
from billing.entities.v1.invoice_pb2 import Invoice
from billing.entities.v1.invoice_schedule_pb2 import InvoiceSchedule
from grpc import StatusCode
from hypothesis import given
from hypothesis import strategies as st

from kit import clock
from services.entities.domain.invoice_schedules import InvoiceFrequency, RunTiming
from services.entities.domain.proration import DateRange
from tests.entities.billing_profile_api import BillingProfileApi
from tests.entities.entities_api import EntitiesApi
from tests.entities.invoice_schedule_api import Admin, InvoiceScheduleApi, timers_of
from tests.harness.callers import Caller, refusal
from tests.harness.services import Entities

MONTHLY, QUARTERLY = InvoiceFrequency.MONTHLY, InvoiceFrequency.QUARTERLY
UNKNOWN = "isc_" + "0" * 32


@pytest.fixture
def schedules(entities: Entities, finance: Caller) -> InvoiceScheduleApi:
    return InvoiceScheduleApi(finance, entities)


@pytest.fixture
async def acme(api: EntitiesApi) -> Entity:
    return await api.create_entity("ACME", time_zone="Europe/Berlin")


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


class TestRunTiming:
    @pytest.mark.parametrize(
        ("frequency", "end", "start"),
        [(MONTHLY, "2026-03-01", "2026-02-01"), (MONTHLY, "2026-01-01", "2025-12-01"),
         (QUARTERLY, "2026-04-01", "2026-01-01"), (QUARTERLY, "2026-01-01", "2025-10-01")],
    )  # fmt: skip
    def test_period_is_the_whole_month_or_quarter_before(
        self, frequency: InvoiceFrequency, end: str, start: str
    ) -> None:
        timing = RunTiming(frequency, 5, "06:00", "UTC")
        assert timing.period(date.fromisoformat(end)) == DateRange(date.fromisoformat(start), date.fromisoformat(end))

    @pytest.mark.parametrize(
        ("end", "day_of_month", "expected"),
        [("2026-02-01", 31, "2026-02-28 06:00"), ("2028-02-01", 31, "2028-02-29 06:00"),
         ("2026-04-01", 31, "2026-04-30 06:00"), ("2026-03-01", 31, "2026-03-31 06:00"),
         ("2026-02-01", 1, "2026-02-01 06:00")],
    )  # fmt: skip
    def test_day_is_at_most_the_last_of_the_month(self, end: str, day_of_month: int, expected: str) -> None:
        timing = RunTiming(MONTHLY, day_of_month, "06:00", "UTC")
        assert timing.run_time(date.fromisoformat(end)) == utc(expected)

    @pytest.mark.parametrize(
        ("zone", "day", "time_of_day", "expected"),
        [
            ("Europe/Berlin", "2026-03-29", "02:30", "2026-03-29 01:30"),  # skipped: 03:30 in summer time
            ("Europe/Berlin", "2026-10-25", "02:30", "2026-10-25 00:30"),  # twice: the first one, in summer time
            ("America/New_York", "2026-03-08", "02:30", "2026-03-08 07:30"),
            ("America/New_York", "2026-11-01", "01:30", "2026-11-01 05:30"),
            ("Australia/Lord_Howe", "2026-10-04", "02:15", "2026-10-03 15:45"),  # the clock change is half an hour
            ("Pacific/Apia", "2011-12-30", "06:00", "2011-12-30 16:00"),  # the day does not exist
        ],
    )
    def test_run_at_a_clock_change(self, zone: str, day: str, time_of_day: str, expected: str) -> None:
        first = date.fromisoformat(day).replace(day=1)
        timing = RunTiming(MONTHLY, date.fromisoformat(day).day, time_of_day, zone)
        assert timing.run_time(first) == utc(expected)

    @given(
        st.sampled_from(sorted(available_timezones() - {"localtime"})), st.integers(1, 31), st.times(),
        st.sampled_from(InvoiceFrequency), st.integers(946_684_800, 2_840_140_800),
    )  # fmt: skip
    def test_first_run_is_the_next_one_and_runs_follow_in_order(
        self, zone: str, day: int, time_of_day: time, frequency: InvoiceFrequency, seconds: int
    ) -> None:
        now = datetime.fromtimestamp(seconds, UTC)
        timing = RunTiming(frequency, day, time_of_day.strftime("%H:%M"), zone)
        end = timing.first_end(now)
        assert timing.run_time(timing.period(end).start) <= now < timing.run_time(end)
        following = timing.end_after(end)
        assert timing.period(following) == DateRange(end, following)
        assert timing.run_time(end) < timing.run_time(following)


class TestCreate:
    async def test_defaults(self, schedules: InvoiceScheduleApi, acme: Entity, admin: Admin) -> None:
        schedule = await schedules.create(acme, day_of_month=31, time_of_day="", time_zone="")
        assert (schedule.time_of_day, schedule.time_zone, schedule.rate_policy) == (
            "06:00", "Europe/Berlin", Invoice.PERIOD_END,
        )  # fmt: skip
        assert (schedule.billing_profile_id, schedule.currency_code, schedule.active) == ("", "", True)
        assert await schedules.get(schedule) == schedule
        next_run = schedule.next_run_time.ToDatetime(tzinfo=UTC)
        assert clock.now() < next_run <= clock.now() + timedelta(days=62)
        assert date.fromisoformat(schedule.next_period_end_date) <= next_run.date()
        assert await timers_of(admin, schedule) == [next_run]

    async def test_paused_schedule_has_no_timer(
        self, schedules: InvoiceScheduleApi, acme: Entity, admin: Admin
    ) -> None:
        schedule = await schedules.create(acme, active=False)
        assert (schedule.active, schedule.HasField("next_run_time")) == (False, False)
        assert await timers_of(admin, schedule) == []

    async def test_an_entity_has_one_schedule(
        self, schedules: InvoiceScheduleApi, acme: Entity, api: EntitiesApi
    ) -> None:
        first = await schedules.create(acme)
        error = await refusal(schedules.create(acme))
        assert (error.code, error.reason) == (StatusCode.ALREADY_EXISTS, "INVOICE_SCHEDULE_EXISTS")
        await schedules.delete(first)
        second = await schedules.create(acme)
        other = await schedules.create(await api.create_entity("OTHER"))
        assert await schedules.ids() == [second.id, other.id]

    async def test_references_are_checked(
        self, schedules: InvoiceScheduleApi, acme: Entity, api: EntitiesApi, profiles: BillingProfileApi
    ) -> None:
        assert (await refusal(schedules.create(Entity(id="ent_" + "0" * 32)))).reason == "ENTITY_NOT_FOUND"
        unknown = "bpr_" + "0" * 32
        assert (await refusal(schedules.create(acme, billing_profile_id=unknown))).reason == "BILLING_PROFILE_NOT_FOUND"
        await api.deactivate(acme)
        assert (await refusal(schedules.create(acme))).reason == "ENTITY_STATE"

    @pytest.mark.parametrize(
        ("field", "value"),
        [("day_of_month", 0), ("day_of_month", 32), ("time_of_day", "24:00"), ("time_zone", "Mars"), ("action", 0),
         ("frequency", 0), ("currency_code", "XXX")],
    )  # fmt: skip
    async def test_error_names_the_field(
        self, schedules: InvoiceScheduleApi, acme: Entity, field: str, value: object
    ) -> None:
        assert (await refusal(schedules.create(acme, **{field: value}))).fields.keys() == {field}

    async def test_repeated_key_returns_same_response(self, schedules: InvoiceScheduleApi, acme: Entity) -> None:
        first = await schedules.create(acme, request_id="key-1")
        assert await schedules.create(acme, request_id="key-1") == first


class TestUpdate:
    async def test_all_fields(
        self, schedules: InvoiceScheduleApi, acme: Entity, profiles: BillingProfileApi, admin: Admin
    ) -> None:
        profile = await profiles.create()
        schedule = await schedules.create(acme)
        changed = await schedules.update(
            schedule, billing_profile_id=profile.id, currency_code="USD", rate_policy=Invoice.PERIOD_AVERAGE,
            day_of_month=15, time_of_day="23:59", time_zone="Asia/Tokyo", action=InvoiceSchedule.ISSUE,
            require_einvoice=True,
        )  # fmt: skip
        assert (changed.billing_profile_id, changed.currency_code) == (profile.id, "USD")
        assert (changed.rate_policy, changed.action) == (Invoice.PERIOD_AVERAGE, InvoiceSchedule.ISSUE)
        assert (changed.day_of_month, changed.time_of_day, changed.time_zone) == (15, "23:59", "Asia/Tokyo")
        assert (changed.require_einvoice, changed.etag) == (True, "2")
        assert changed.next_period_end_date == schedule.next_period_end_date
        assert await timers_of(admin, schedule) == [changed.next_run_time.ToDatetime(tzinfo=UTC)]
        paths = "billing_profile_id", "currency_code", "rate_policy", "time_of_day", "require_einvoice"
        cleared = await schedules.update(changed, *paths)
        assert (cleared.billing_profile_id, cleared.currency_code, cleared.time_of_day) == ("", "", "06:00")
        assert (cleared.rate_policy, cleared.require_einvoice) == (Invoice.PERIOD_END, False)
        error = await refusal(schedules.update(cleared, "day_of_month", "time_zone", "action"))
        assert error.fields.keys() == {"day_of_month", "time_zone", "action"}

    async def test_pause_and_resume(self, schedules: InvoiceScheduleApi, acme: Entity, admin: Admin) -> None:
        schedule = await schedules.create(acme)
        paused = await schedules.update(schedule, active=False)
        assert await timers_of(admin, schedule) == []
        resumed = await schedules.update(paused, active=True)
        assert resumed.next_run_time == schedule.next_run_time
        assert await timers_of(admin, schedule) == [schedule.next_run_time.ToDatetime(tzinfo=UTC)]

    async def test_runs_that_were_due_during_a_pause_are_left_out(
        self, schedules: InvoiceScheduleApi, acme: Entity, admin: Admin
    ) -> None:
        schedule = await schedules.create(acme)
        paused = await schedules.update(schedule, active=False)
        await admin.execute("update entities.invoice_schedules set next_period_end = '2026-01-01'")
        resumed = await schedules.update(paused, active=True)
        assert resumed.next_period_end_date == schedule.next_period_end_date

    async def test_stale_etag_is_refused(self, schedules: InvoiceScheduleApi, acme: Entity) -> None:
        schedule = await schedules.create(acme)
        await schedules.update(schedule, day_of_month=2, etag=schedule.etag)
        for call in (
            schedules.update(schedule, day_of_month=3, etag=schedule.etag), schedules.delete(schedule, etag="1"),
        ):  # fmt: skip
            assert (await refusal(call)).reason == "ETAG_MISMATCH"

    async def test_unknown_schedule_is_not_found(self, schedules: InvoiceScheduleApi) -> None:
        unknown = InvoiceSchedule(id=UNKNOWN)
        for call in (
            schedules.get(unknown), schedules.update(unknown, day_of_month=2), schedules.delete(unknown),
            schedules.runs(unknown),
        ):  # fmt: skip
            assert (await refusal(call)).reason == "INVOICE_SCHEDULE_NOT_FOUND"


class TestDelete:
    async def test_deleted_schedule_stays_readable(
        self, schedules: InvoiceScheduleApi, acme: Entity, admin: Admin
    ) -> None:
        schedule = await schedules.create(acme)
        deleted = await schedules.delete(schedule)
        assert deleted.HasField("delete_time")
        assert not deleted.active
        assert await schedules.get(schedule) == deleted
        assert (await schedules.ids(), await schedules.runs(schedule)) == ([], [])
        assert await timers_of(admin, schedule) == []
        for call in (schedules.delete(schedule), schedules.update(schedule, active=True)):
            error = await refusal(call)
            assert (error.code, error.reason) == (StatusCode.FAILED_PRECONDITION, "INVOICE_SCHEDULE_DELETED")


class TestList:
    async def test_filters(self, schedules: InvoiceScheduleApi, acme: Entity, api: EntitiesApi) -> None:
        other = await api.create_entity("OTHER")
        active, paused = await schedules.create(acme), await schedules.create(other, active=False)
        assert await schedules.ids() == [active.id, paused.id]
        assert await schedules.ids(active=True) == [active.id]
        assert await schedules.ids(active=False) == [paused.id]
        assert await schedules.ids(entity_id=other.id) == [paused.id]

    async def test_confined_callers_have_those_of_their_entities(
        self, schedules: InvoiceScheduleApi, acme: Entity, api: EntitiesApi, entities: Entities,
        caller: Callable[..., Caller],
    ) -> None:  # fmt: skip
        other = await api.create_entity("OTHER")
        own, hidden = await schedules.create(acme), await schedules.create(other)
        confined = InvoiceScheduleApi(caller("finance", entity_scope=[acme.id]), entities)
        assert await confined.ids() == [own.id]
        assert (await refusal(confined.get(hidden))).reason == "INVOICE_SCHEDULE_NOT_FOUND"
        assert (await refusal(confined.create(other))).reason == "ENTITY_NOT_FOUND"
