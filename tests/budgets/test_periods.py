"""The calendar of budgets: periods follow one another without gap or overlap, whatever the anchor and the zone."""

from calendar import monthrange
from datetime import UTC, date, datetime, timedelta
from itertools import product
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.dates import day_start
from services.budgets import domain
from services.budgets.domain.budgets import PeriodType
from services.budgets.domain.periods import Period

MONTHLY, QUARTERLY, ANNUAL, CUSTOM = PeriodType.MONTHLY, PeriodType.QUARTERLY, PeriodType.ANNUAL, PeriodType.CUSTOM
MONTHS = {MONTHLY: 1, QUARTERLY: 3, ANNUAL: 12}
ZONES = sorted(available_timezones())

types = st.sampled_from(list(MONTHS))
days = st.dates(date(1900, 1, 1), date(2150, 12, 31))
recent = st.dates(date(1970, 2, 1), date(2060, 12, 31))
numbers = st.integers(-300, 300)
zones = st.sampled_from(ZONES)


class TestPeriodOf:
    @pytest.mark.parametrize(
        ("period_type", "anchor", "starts"),
        [
            (MONTHLY, "2027-01-31", ["2027-01-31", "2027-02-28", "2027-03-31", "2027-04-30", "2027-05-31"]),
            (MONTHLY, "2028-01-31", ["2028-01-31", "2028-02-29", "2028-03-31"]),
            (MONTHLY, "2027-01-30", ["2027-01-30", "2027-02-28", "2027-03-30"]),
            (MONTHLY, "2027-11-15", ["2027-11-15", "2027-12-15", "2028-01-15"]),
            (QUARTERLY, "2027-11-30", ["2027-11-30", "2028-02-29", "2028-05-30", "2028-08-30"]),
            (QUARTERLY, "2027-10-01", ["2027-10-01", "2028-01-01", "2028-04-01"]),
            (ANNUAL, "2028-02-29", ["2028-02-29", "2029-02-28", "2030-02-28", "2031-02-28", "2032-02-29"]),
            (ANNUAL, "2096-02-29", ["2096-02-29", "2097-02-28", "2098-02-28", "2099-02-28", "2100-02-28"]),
        ],
    )
    def test_it_starts_on_the_anchors_day_or_the_last_of_a_shorter_month(
        self, period_type: PeriodType, anchor: str, starts: list[str]
    ) -> None:
        periods = [
            domain.periods.period_of(period_type, date.fromisoformat(anchor), number) for number in range(len(starts))
        ]
        assert [period.start.isoformat() for period in periods] == starts
        assert [period.end for period in periods[:-1]] == [period.start for period in periods[1:]]

    @given(types, days, numbers)
    def test_both_ends_are_counted_from_the_anchor(self, period_type: PeriodType, anchor: date, number: int) -> None:
        period = domain.periods.period_of(period_type, anchor, number)
        for day, months in (
            (period.start, number * MONTHS[period_type]),
            (period.end, (number + 1) * MONTHS[period_type]),
        ):
            assert day.year * 12 + day.month == anchor.year * 12 + anchor.month + months
            assert day.day == min(anchor.day, monthrange(day.year, day.month)[1])

    @given(types, days, numbers)
    def test_one_ends_where_the_next_starts(self, period_type: PeriodType, anchor: date, number: int) -> None:
        assert (
            domain.periods.period_of(period_type, anchor, number).end
            == domain.periods.period_of(period_type, anchor, number + 1).start
        )

    @given(types, days)
    def test_the_first_starts_at_the_anchor(self, period_type: PeriodType, anchor: date) -> None:
        assert domain.periods.period_of(period_type, anchor, 0).start == anchor

    def test_a_custom_period_has_no_next(self) -> None:
        anchor = date(2027, 1, 1)
        for ask in (
            lambda: domain.periods.period_of(CUSTOM, anchor, 1),
            lambda: domain.periods.period_containing(CUSTOM, anchor, anchor),
            lambda: domain.periods.fiscal_start(CUSTOM, 1, anchor),
        ):
            with pytest.raises(ValueError, match="CUSTOM"):
                ask()


class TestPeriodContaining:
    @given(types, days, days)
    def test_it_contains_the_day_and_is_the_one_with_its_number(
        self, period_type: PeriodType, anchor: date, day: date
    ) -> None:
        period = domain.periods.period_containing(period_type, anchor, day)
        assert period.start <= day < period.end
        assert period == domain.periods.period_of(period_type, anchor, period.number)

    @pytest.mark.parametrize("period_type", MONTHS)
    def test_every_day_is_in_one_period_whatever_the_anchor(self, period_type: PeriodType) -> None:
        for back in range(1461):
            anchor = date(2027, 12, 31) - timedelta(days=back)
            for number in range(12 // MONTHS[period_type]):
                period = domain.periods.period_of(period_type, anchor, number)
                last = period.end - timedelta(days=1)
                assert domain.periods.period_containing(period_type, anchor, period.start) == period, anchor
                assert domain.periods.period_containing(period_type, anchor, last) == period, anchor


class TestFiscalStart:
    @pytest.mark.parametrize(
        ("period_type", "month", "day", "start"),
        [
            (MONTHLY, 4, "2027-02-28", "2027-02-01"),
            (QUARTERLY, 1, "2027-03-31", "2027-01-01"),
            (QUARTERLY, 4, "2027-03-31", "2027-01-01"),
            (QUARTERLY, 2, "2027-01-31", "2026-11-01"),
            (QUARTERLY, 2, "2027-02-01", "2027-02-01"),
            (ANNUAL, 1, "2027-12-31", "2027-01-01"),
            (ANNUAL, 4, "2027-03-31", "2026-04-01"),
            (ANNUAL, 4, "2027-04-01", "2027-04-01"),
            (ANNUAL, 12, "2027-11-30", "2026-12-01"),
        ],
    )
    def test_it_follows_the_fiscal_year(self, period_type: PeriodType, month: int, day: str, start: str) -> None:
        assert domain.periods.fiscal_start(period_type, month, date.fromisoformat(day)) == date.fromisoformat(start)

    @given(types, st.integers(1, 12), days)
    def test_a_period_from_there_contains_the_day(self, period_type: PeriodType, month: int, day: date) -> None:
        start = domain.periods.fiscal_start(period_type, month, day)
        assert domain.periods.period_containing(period_type, start, day) == domain.periods.period_of(
            period_type, start, 0
        )
        assert start.day == 1
        assert (start.month - month) % MONTHS[period_type] == 0


class TestBounds:
    @given(types, recent, st.integers(0, 120), zones)
    def test_periods_leave_no_moment_out_and_none_is_in_two(
        self, period_type: PeriodType, anchor: date, number: int, time_zone: str
    ) -> None:
        starts, ends = domain.periods.bounds(domain.periods.period_of(period_type, anchor, number), time_zone)
        assert starts < ends
        assert ends == domain.periods.bounds(domain.periods.period_of(period_type, anchor, number + 1), time_zone)[0]
        assert starts.tzinfo is ends.tzinfo is UTC

    def test_in_every_zone_a_day_begins_when_its_date_is_first_shown(self) -> None:
        for time_zone, number in product(ZONES, range(0, 720, 5)):
            period = domain.periods.period_of(MONTHLY, date(1975, 1, 31), number)
            starts, _ = domain.periods.bounds(period, time_zone)
            assert starts.astimezone(ZoneInfo(time_zone)).date() >= period.start, time_zone
            assert (starts - timedelta(seconds=1)).astimezone(ZoneInfo(time_zone)).date() < period.start, time_zone

    @given(recent, zones)
    def test_it_is_the_start_of_the_day_that_all_of_us_use(self, day: date, time_zone: str) -> None:
        period = domain.periods.period_of(MONTHLY, day, 0)
        assert domain.periods.bounds(period, time_zone) == (
            day_start(period.start, time_zone),
            day_start(period.end, time_zone),
        )

    @pytest.mark.parametrize(
        ("time_zone", "start", "end", "starts", "ends"),
        [
            # A whole day is skipped: 30 December 2011 did not happen in Samoa.
            ("Pacific/Apia", "2011-12-29", "2011-12-30", "2011-12-29T10:00", "2011-12-30T10:00"),
            ("Pacific/Apia", "2011-12-30", "2011-12-31", "2011-12-30T10:00", "2011-12-30T10:00"),
            ("Pacific/Apia", "2011-12-31", "2012-01-31", "2011-12-30T10:00", "2012-01-30T10:00"),
            # Clocks move by half an hour.
            ("Australia/Lord_Howe", "2027-04-01", "2027-05-01", "2027-03-31T13:00", "2027-04-30T13:30"),
            # Midnight is skipped: the day begins at one o'clock, which is when midnight would have been.
            ("Africa/Cairo", "2024-04-26", "2024-05-26", "2024-04-25T22:00", "2024-05-25T21:00"),
            ("America/Sao_Paulo", "2018-11-04", "2018-12-04", "2018-11-04T03:00", "2018-12-04T02:00"),
            # One o'clock comes back to midnight: the first of the two.
            ("America/Havana", "2024-11-03", "2024-12-03", "2024-11-03T04:00", "2024-12-03T05:00"),
            ("Africa/Casablanca", "2024-03-10", "2024-04-14", "2024-03-09T23:00", "2024-04-14T00:00"),
            ("Europe/Berlin", "2027-03-01", "2027-04-01", "2027-02-28T23:00", "2027-03-31T22:00"),
        ],
    )
    def test_odd_zones_are_right(self, time_zone: str, start: str, end: str, starts: str, ends: str) -> None:
        period = Period(0, date.fromisoformat(start), date.fromisoformat(end))
        moments = tuple(datetime.fromisoformat(f"{moment}:00+00:00") for moment in (starts, ends))
        assert domain.periods.bounds(period, time_zone) == moments

    def test_an_unknown_zone_is_refused(self) -> None:
        with pytest.raises(ZoneInfoNotFoundError):
            domain.periods.bounds(domain.periods.period_of(MONTHLY, date(2027, 1, 1), 0), "Mars/Olympus")
