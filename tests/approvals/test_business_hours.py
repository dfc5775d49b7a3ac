"""Deadlines in business hours, also across clock changes."""

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.approvals import domain
from services.approvals.domain.rules import BusinessHours

OFFICE = BusinessHours(time_zone="Europe/Berlin", weekdays=frozenset(range(1, 6)), start=time(9), end=time(17))
BERLIN = ZoneInfo("Europe/Berlin")


def after(start: datetime, hours: float, business: BusinessHours | None) -> datetime:
    return domain.deadlines.add_time(start, timedelta(hours=hours), business)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN)


@pytest.mark.parametrize(
    ("start", "hours", "end"),
    [
        ("2026-03-02 10:00", 2, "2026-03-02 12:00"),  # a Monday
        ("2026-03-02 10:00", 7, "2026-03-02 17:00"),
        ("2026-03-02 10:00", 8, "2026-03-03 10:00"),
        ("2026-03-02 07:00", 1, "2026-03-02 10:00"),
        ("2026-03-02 20:00", 1, "2026-03-03 10:00"),
        ("2026-03-06 16:00", 2, "2026-03-09 10:00"),  # over a weekend
        ("2026-03-07 12:00", 8, "2026-03-09 17:00"),
        ("2026-03-27 16:00", 2, "2026-03-30 10:00"),  # clocks go forward
        ("2026-10-23 16:00", 2, "2026-10-26 10:00"),  # clocks go back
    ],
)
def test_only_business_hours_count(start: str, hours: float, end: str) -> None:
    assert after(at(start), hours, OFFICE) == at(end).astimezone(UTC)


@given(
    start=st.datetimes(datetime(2026, 1, 1), datetime(2027, 12, 31), timezones=st.just(UTC)),  # noqa: DTZ001 - the zone is a separate argument
    hours=st.integers(0, 300),
    more=st.integers(1, 300),  # zero would end when the office closes instead of when it opens again
    days=st.frozensets(st.integers(1, 7), min_size=1),
    zone=st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe"]),
)
def test_deadlines_are_additive_and_end_in_business_hours(
    start: datetime, hours: int, more: int, days: frozenset[int], zone: str
) -> None:
    office = BusinessHours(time_zone=zone, weekdays=days, start=time(9), end=time(17, 30))
    end = after(start, hours, office)
    assert after(end, more, office) == after(start, hours + more, office)
    assert end >= start
    local = end.astimezone(ZoneInfo(zone))
    assert local.isoweekday() in days
    assert time(9) <= local.time() <= time(17, 30)


def test_all_hours_count_without_business_hours() -> None:
    assert after(at("2026-03-07 12:00"), 36, None) == at("2026-03-07 12:00") + timedelta(hours=36)
