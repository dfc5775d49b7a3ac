"""Calendar arithmetic: months of different lengths, days in time zones."""

from datetime import UTC, date, datetime, timedelta
from itertools import product
from zoneinfo import ZoneInfoNotFoundError, available_timezones

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.dates import date_in, day_start, months_later

days = st.dates(date(1900, 1, 1), date(2200, 12, 31))
zones = st.sampled_from(["UTC", "America/New_York", "Asia/Kolkata", "Pacific/Auckland", "Pacific/Apia"])


class TestMonthsLater:
    @pytest.mark.parametrize(
        ("day", "months", "later"),
        [("2026-01-31", 1, "2026-02-28"), ("2024-01-31", 1, "2024-02-29"), ("2026-12-15", 1, "2027-01-15"),
         ("2026-03-31", -1, "2026-02-28"), ("2026-01-10", -1, "2025-12-10"), ("2024-02-29", 12, "2025-02-28")],
    )  # fmt: skip
    def test_day_is_kept_or_the_last_of_a_shorter_month(self, day: str, months: int, later: str) -> None:
        assert months_later(date.fromisoformat(day), months).isoformat() == later

    @given(days, st.integers(-600, 600))
    def test_it_is_in_the_expected_month(self, day: date, months: int) -> None:
        later = months_later(day, months)
        assert (later.year * 12 + later.month) - (day.year * 12 + day.month) == months
        assert later.day == day.day or (later.day < day.day and (later + timedelta(days=1)).day == 1)

    def test_years_after_9999_are_rejected(self) -> None:
        with pytest.raises(ValueError, match="year"):
            months_later(date(9999, 12, 1), 1)


class TestDayStart:
    @pytest.mark.parametrize(
        ("day", "zone", "start"),
        [("2026-07-01", "America/New_York", "2026-07-01T04:00"), ("2026-01-01", "Asia/Tokyo", "2025-12-31T15:00"),
         ("2018-11-04", "America/Sao_Paulo", "2018-11-04T03:00"), ("2011-12-30", "Pacific/Apia", "2011-12-30T10:00")],
    )  # fmt: skip
    def test_it_is_the_first_midnight_or_the_clock_change_that_skips_it(self, day: str, zone: str, start: str) -> None:
        assert day_start(date.fromisoformat(day), zone) == datetime.fromisoformat(start).replace(tzinfo=UTC)

    @given(st.dates(date(1970, 1, 2), date(2035, 12, 31)).filter(lambda day: day != date(2011, 12, 30)), zones)
    def test_the_day_begins_then(self, day: date, zone: str) -> None:
        start = day_start(day, zone)
        assert date_in(zone, start) == day
        assert date_in(zone, start - timedelta(seconds=1)) < day

    def test_in_every_zone_a_day_begins_when_its_date_is_first_shown(self) -> None:
        for zone, number in product(sorted(available_timezones()), range(0, 720, 5)):
            day = months_later(date(1975, 1, 31), number)
            start = day_start(day, zone)
            assert date_in(zone, start) >= day, zone
            assert date_in(zone, start - timedelta(seconds=1)) < day, zone

    @pytest.mark.parametrize(
        ("zone", "day", "start"),
        [
            # A whole day is skipped: 30 December 2011 did not happen in Samoa.
            ("Pacific/Apia", "2011-12-29", "2011-12-29T10:00"),
            ("Pacific/Apia", "2011-12-30", "2011-12-30T10:00"),
            ("Pacific/Apia", "2011-12-31", "2011-12-30T10:00"),
            # Clocks change by half an hour.
            ("Australia/Lord_Howe", "2027-04-01", "2027-03-31T13:00"),
            ("Australia/Lord_Howe", "2027-05-01", "2027-04-30T13:30"),
            # Midnight is skipped: the day begins at one o'clock.
            ("Africa/Cairo", "2024-04-26", "2024-04-25T22:00"),
            ("Africa/Cairo", "2024-05-26", "2024-05-25T21:00"),
            # Midnight occurs twice: the day begins at the first one.
            ("America/Havana", "2024-11-03", "2024-11-03T04:00"),
            ("America/Havana", "2024-12-03", "2024-12-03T05:00"),
            ("Africa/Casablanca", "2024-03-10", "2024-03-09T23:00"),
            ("Africa/Casablanca", "2024-04-14", "2024-04-14T00:00"),
            ("Europe/Berlin", "2027-04-01", "2027-03-31T22:00"),
        ],
    )
    def test_clock_changes_at_midnight(self, zone: str, day: str, start: str) -> None:
        assert day_start(date.fromisoformat(day), zone) == datetime.fromisoformat(start).replace(tzinfo=UTC)

    def test_unknown_zone_is_rejected(self) -> None:
        with pytest.raises(ZoneInfoNotFoundError):
            day_start(date(2027, 1, 1), "Mars/Olympus")
