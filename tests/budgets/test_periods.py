"""The calendar of budgets: periods follow one another without gaps, and today is a day in the budget's zone."""

from calendar import monthrange
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.money import Money
from services.budgets import domain
from services.budgets.domain.budgets import BudgetDraft, BudgetState, OverspendPolicy, PeriodType, Rollover
from services.budgets.errors.fields import InvalidField

MONTHLY, QUARTERLY, ANNUAL, CUSTOM = PeriodType.MONTHLY, PeriodType.QUARTERLY, PeriodType.ANNUAL, PeriodType.CUSTOM
MONTHS = {MONTHLY: 1, QUARTERLY: 3, ANNUAL: 12}

types = st.sampled_from(list(MONTHS))
days = st.dates(date(1900, 1, 1), date(2150, 12, 31))
numbers = st.integers(-300, 300)


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
    def test_period_starts_on_the_day_of_the_anchor_or_the_last_of_a_shorter_month(
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
    def test_period_ends_where_the_next_one_starts(self, period_type: PeriodType, anchor: date, number: int) -> None:
        assert (
            domain.periods.period_of(period_type, anchor, number).end
            == domain.periods.period_of(period_type, anchor, number + 1).start
        )

    @given(types, days)
    def test_first_period_starts_at_the_anchor(self, period_type: PeriodType, anchor: date) -> None:
        assert domain.periods.period_of(period_type, anchor, 0).start == anchor

    def test_custom_period_has_no_length(self) -> None:
        anchor = date(2027, 1, 1)
        for call in (
            lambda: domain.periods.period_of(CUSTOM, anchor, 1),
            lambda: domain.periods.fiscal_start(CUSTOM, 1, anchor),
        ):
            with pytest.raises(ValueError, match="CUSTOM"):
                call()


class TestSeries:
    @pytest.mark.parametrize("period_type", MONTHS)
    def test_every_day_is_in_exactly_one_period_for_any_anchor(self, period_type: PeriodType) -> None:
        for back in range(1461):
            anchor = date(2027, 12, 31) - timedelta(days=back)
            periods = [domain.periods.period_of(period_type, anchor, number) for number in range(-1, 13)]
            assert all(period.start < period.end for period in periods), anchor
            assert all(earlier.end == later.start for earlier, later in pairwise(periods)), anchor


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
    def test_start_follows_the_fiscal_year(self, period_type: PeriodType, month: int, day: str, start: str) -> None:
        assert domain.periods.fiscal_start(period_type, month, date.fromisoformat(day)) == date.fromisoformat(start)

    @given(types, st.integers(1, 12), days)
    def test_period_from_the_fiscal_start_contains_the_day(
        self, period_type: PeriodType, month: int, day: date
    ) -> None:
        start = domain.periods.fiscal_start(period_type, month, day)
        period = domain.periods.period_of(period_type, start, 0)
        assert period.start <= day < period.end
        assert start.day == 1
        assert (start.month - month) % MONTHS[period_type] == 0


def draft(period_type: PeriodType, time_zone: str = "UTC", **changes: Any) -> BudgetDraft:
    """A budget without period and recurrence."""
    values: dict[str, Any] = {
        "entity_id": uuid4(), "department_id": None, "parent_id": None, "name": "Cloud", "category": "", "gl_code": "",
        "period_start": None, "period_end": None, "amount": Money(Decimal(10), "USD"),
        "overspend_policy": OverspendPolicy.BLOCK, "tolerance_bp": 0, "alert_thresholds_bp": [], "recurring": None,
        "rollover": Rollover.NONE, "rollover_cap": None, "carry_overspend": False, "late_posting_days": 5,
        "covers_descendants": False,
        "state": BudgetState.ACTIVE,
    }  # fmt: skip
    return BudgetDraft(period_type=period_type, time_zone=time_zone, **{**values, **changes})


def resolved(now: str, new: BudgetDraft, fiscal_month: int = 1) -> tuple[str, str, bool]:
    """Start, end and recurrence of a budget that is created at this time."""
    moment = datetime.fromisoformat(now).replace(tzinfo=UTC)
    period, recurring = domain.periods.resolve(new, fiscal_year_start_month=fiscal_month, now=moment)
    return period.start.isoformat(), period.end.isoformat(), recurring


class TestResolve:
    @pytest.mark.parametrize(
        ("now", "start", "end"),
        [
            ("2026-06-30T20:00", "2026-06-01", "2026-07-01"),  # 30 June, 13:00 in Los Angeles
            ("2026-07-01T03:00", "2026-06-01", "2026-07-01"),  # 30 June, 20:00
            ("2026-07-01T06:59", "2026-06-01", "2026-07-01"),  # 30 June, 23:59
            ("2026-07-01T07:00", "2026-07-01", "2026-08-01"),  # 1 July, 0:00
        ],
    )
    def test_default_is_the_current_period_in_a_zone_west_of_utc_and_recurs(
        self, now: str, start: str, end: str
    ) -> None:
        assert resolved(now, draft(MONTHLY, "America/Los_Angeles")) == (start, end, True)

    @pytest.mark.parametrize(
        ("now", "recurring"),
        [
            ("2026-06-30T11:59", True),  # 30 June, 23:59 in Auckland
            ("2026-06-30T12:00", False),  # 1 July, 0:00: the period is over
            ("2026-06-30T20:00", False),  # 1 July, 8:00
        ],
    )
    def test_period_that_is_over_in_a_zone_east_of_utc_does_not_recur(self, now: str, recurring: bool) -> None:  # noqa: FBT001 - expected
        june = draft(MONTHLY, "Pacific/Auckland", period_start=date(2026, 6, 1))
        assert resolved(now, june) == ("2026-06-01", "2026-07-01", recurring)

    def test_requested_recurrence_overrides_the_default(self) -> None:
        past = draft(MONTHLY, period_start=date(2020, 1, 1), recurring=True)
        assert resolved("2026-06-30T20:00", past)[2]
        assert not resolved("2026-06-30T20:00", draft(MONTHLY, recurring=False))[2]

    def test_default_period_follows_the_fiscal_year(self) -> None:
        assert resolved("2026-06-30T20:00", draft(ANNUAL), 4) == ("2026-04-01", "2027-04-01", True)
        assert resolved("2026-06-30T20:00", draft(QUARTERLY), 2) == ("2026-05-01", "2026-08-01", True)

    def test_custom_period_requires_both_days_and_does_not_recur(self) -> None:
        start, end = date(2026, 6, 1), date(2026, 6, 15)
        custom = draft(CUSTOM, period_start=start, period_end=end)
        assert resolved("2026-06-10T00:00", custom) == ("2026-06-01", "2026-06-15", False)
        for field, wrong in (
            ("period_start_date", draft(CUSTOM, period_end=end)),
            ("period_end_date", draft(CUSTOM, period_start=start)),
            ("period_end_date", draft(CUSTOM, period_start=start, period_end=start)),
            ("period_end_date", draft(MONTHLY, period_start=start, period_end=end)),
            ("recurring", draft(CUSTOM, period_start=start, period_end=end, recurring=True)),
        ):
            with pytest.raises(InvalidField, match=field):
                resolved("2026-06-10T00:00", wrong)
