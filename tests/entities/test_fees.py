"""Fee schedule of contracts: billing periods without gap or overlap, and amounts exact to the cent."""

import random
from calendar import monthrange
from datetime import date, timedelta
from decimal import Decimal
from itertools import islice, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.dates import months_later
from kit.money import Money
from services.entities import domain
from services.entities.domain.contracts import BillingFrequency, ContractTerms, ContractType, Phase
from services.entities.domain.fees import HORIZON, FeePlan
from services.entities.domain.proration import DateRange

MONTHLY, QUARTERLY, ANNUAL, ONE_TIME = BillingFrequency
MONTHS = {MONTHLY: 1, QUARTERLY: 3, ANNUAL: 12}


def eur(amount: str | Decimal) -> Money:
    return Money(Decimal(amount), "EUR")


def day(text: str) -> date:
    return date.fromisoformat(text)


def terms(
    start: str = "2027-01-01",
    end: str = "2028-01-01",
    *,
    total: str = "1200.00",
    frequency: BillingFrequency = MONTHLY,
    phases: dict[str, str] | None = None,
) -> ContractTerms:
    return ContractTerms(
        contract_number="C-1", name="Cloud", contract_type=ContractType.SUBSCRIPTION, start_date=day(start),
        end_date=day(end) if end else None, total_value=eur(total), billing_frequency=frequency,
        phases=tuple(Phase(day(since), eur(fee)) for since, fee in (phases or {}).items()), minimum_commitment=None,
        license_tier="", seats=0, payment_terms_days=30, purchase_order_number="", purchase_order_limit=None,
        auto_renew=False, renewal_term_months=12, renewal_notice_days=30, renewal_uplift_bp=0, sla_terms=None,
    )  # fmt: skip


def dues(plan: FeePlan, start: str = "2000-01-01", end: str = "2199-12-31") -> dict[str, str]:
    fees = list(domain.fees.fees_due(plan, DateRange(day(start), day(end))))
    due = {fee.due_date.isoformat(): fee.amount.text() for fee in fees}
    assert len(due) == len(fees)
    assert list(due) == sorted(due)
    return due


class TestSchedule:
    def test_periods_are_counted_from_the_start_date(self) -> None:
        plan = domain.fees.build_plan(terms("2027-01-31", "2027-06-30", phases={"2027-01-31": "100.00"}))
        assert list(dues(plan)) == ["2027-01-31", "2027-02-28", "2027-03-31", "2027-04-30", "2027-05-31"]

    @pytest.mark.parametrize(
        ("frequency", "expected"),
        [
            (QUARTERLY, ["2027-01-15", "2027-04-15", "2027-07-15", "2027-10-15"]),
            (ANNUAL, ["2027-01-15"]),
            (ONE_TIME, ["2027-01-15"]),
        ],
    )
    def test_due_dates_by_billing_frequency(self, frequency: BillingFrequency, expected: list[str]) -> None:
        assert list(dues(domain.fees.build_plan(terms("2027-01-15", "2028-01-15", frequency=frequency)))) == expected

    def test_start_on_a_leap_day(self) -> None:
        plan = domain.fees.build_plan(terms("2028-02-29", "", frequency=ANNUAL))
        assert list(islice(dues(plan), 5)) == ["2028-02-29", "2029-02-28", "2030-02-28", "2031-02-28", "2032-02-29"]

    def test_end_within_a_period_prorates_its_fee(self) -> None:
        plan = domain.fees.build_plan(terms("2027-01-01", "2027-03-16", phases={"2027-01-01": "310.00"}))
        assert dues(plan) == {"2027-01-01": "310.00", "2027-02-01": "310.00", "2027-03-01": "150.00"}

    def test_each_phase_has_its_fee(self) -> None:
        ramp = {"2027-01-01": "100.00", "2027-03-01": "200.00", "2027-04-01": "300.00"}
        plan = domain.fees.build_plan(terms(end="2027-05-01", phases=ramp))
        assert dues(plan) == {
            "2027-01-01": "100.00", "2027-02-01": "100.00", "2027-03-01": "200.00", "2027-04-01": "300.00"
        }  # fmt: skip

    def test_phase_within_a_period_makes_the_difference_due(self) -> None:
        plan = domain.fees.build_plan(terms(end="2027-03-01", phases={"2027-01-01": "100.00", "2027-01-16": "200.00"}))
        assert dues(plan) == {"2027-01-01": "100.00", "2027-01-16": "51.61", "2027-02-01": "200.00"}
        assert domain.fees.period_fee(plan, next(domain.fees.periods_from(plan, plan.start))) == eur("151.61")

    def test_lower_fee_within_a_period_is_a_credit(self) -> None:
        plan = domain.fees.build_plan(terms(end="2027-02-01", phases={"2027-01-01": "310.00", "2027-01-22": "0.00"}))
        assert dues(plan) == {"2027-01-01": "310.00", "2027-01-22": "-100.00"}

    def test_zero_fees_are_omitted(self) -> None:
        plan = domain.fees.build_plan(terms(end="2027-04-01", phases={"2027-01-01": "0.00", "2027-03-01": "50.00"}))
        assert dues(plan) == {"2027-03-01": "50.00"}

    def test_only_fees_in_the_date_range_are_returned(self) -> None:
        plan = domain.fees.build_plan(terms(phases={"2027-01-01": "100.00"}))
        assert list(dues(plan, "2027-02-01", "2027-04-01")) == ["2027-02-01", "2027-03-01"]
        assert list(dues(plan, "2027-02-02", "2027-03-01")) == []
        assert list(dues(plan, "2030-01-01", "2031-01-01")) == []

    def test_termination_prorates_the_last_fee(self) -> None:
        plan = domain.fees.build_plan(terms(phases={"2027-01-01": "310.00"}), termination_date=day("2027-03-11"))
        assert dues(plan) == {"2027-01-01": "310.00", "2027-02-01": "310.00", "2027-03-01": "100.00"}

    def test_termination_after_the_end_changes_nothing(self) -> None:
        assert dues(domain.fees.build_plan(terms(), day("2030-01-01"))) == dues(domain.fees.build_plan(terms()))

    def test_evergreen_contract_has_fees_until_the_horizon(self) -> None:
        plan = domain.fees.build_plan(terms(end="", phases={"2027-01-01": "100.00"}))
        assert list(dues(plan, "2151-05-01", "2151-07-01")) == ["2151-05-01", "2151-06-01"]


class TestSpread:
    def test_last_fee_includes_the_remainder(self) -> None:
        plan = domain.fees.build_plan(terms(total="1000.00"))
        assert dues(plan) == {f"2027-{month:02}-01": "83.33" if month < 12 else "83.37" for month in range(1, 13)}

    def test_shorter_last_period_has_a_lower_fee(self) -> None:
        plan = domain.fees.build_plan(terms("2027-01-01", "2027-02-15", total="150.00"))
        assert dues(plan) == {"2027-01-01": "100.00", "2027-02-01": "50.00"}

    def test_one_time_fee_is_due_at_once(self) -> None:
        assert dues(domain.fees.build_plan(terms(total="999.99", frequency=ONE_TIME))) == {"2027-01-01": "999.99"}

    def test_fees_of_each_year_of_an_evergreen_contract_sum_to_its_value(self) -> None:
        plan = domain.fees.build_plan(terms(end="", total="1000.00"))
        for year in (2027, 2028, 2050):
            assert sum(map(Decimal, dues(plan, f"{year}-01-01", f"{year + 1}-01-01").values())) == 1000
        assert dues(plan, "2050-11-01", "2051-01-01") == {"2050-11-01": "83.33", "2050-12-01": "83.37"}

    def test_early_termination_omits_the_remainder(self) -> None:
        plan = domain.fees.build_plan(terms(total="1000.00"), day("2027-03-01"))
        assert dues(plan) == {"2027-01-01": "83.33", "2027-02-01": "83.33"}

    @given(
        st.sampled_from(list(BillingFrequency)),
        st.dates(date(2000, 1, 1), date(2060, 1, 1)),
        st.integers(1, 2500),
        st.integers(0, 10**12),
    )
    def test_fees_sum_to_the_total_value(
        self, frequency: BillingFrequency, start: date, length: int, cents: int
    ) -> None:
        end = start + timedelta(length)
        total = Decimal(cents).scaleb(-2)
        plan = domain.fees.build_plan(terms(str(start), str(end), total=str(total), frequency=frequency))
        assert domain.fees.total_due(plan, end) == domain.fees.term_value(plan, start) == eur(total)
        assert all(fee.amount.amount >= 0 for fee in domain.fees.fees_due(plan, DateRange(start, end)))


month_ends = st.builds(
    lambda year, month, before: months_later(date(year, 1, 31), month) - timedelta(before),
    st.integers(2000, 2060), st.integers(0, 11), st.integers(0, 3),
)  # fmt: skip


@st.composite
def plans(draw: st.DrawFn) -> FeePlan:
    """Fee plans with and without phases and end date; many of them start at the end of a month."""
    frequency = draw(st.sampled_from(list(BillingFrequency)))
    start = draw(st.dates(date(2000, 1, 1), date(2060, 1, 1)) | month_ends)
    length = draw(st.integers(1, 1500))
    ramped, evergreen = draw(st.booleans()) and frequency is not ONE_TIME, draw(st.booleans())
    steps = sorted(draw(st.sets(st.integers(1, length), max_size=4)) - {length}) if ramped else []
    fees = [Decimal(draw(st.integers(0, 10**7))).scaleb(-2) for _ in range(len(steps) + 1)]
    ramp = {str(start + timedelta(step)): str(fee) for step, fee in zip((0, *steps), fees, strict=True)}
    end = "" if evergreen else str(start + timedelta(length))
    return domain.fees.build_plan(
        terms(str(start), end, total=str(fees[0]), frequency=frequency, phases=ramp if ramped else None)
    )


class TestProperties:
    @given(plans(), st.integers(-400, 1600))
    def test_periods_have_no_gap_and_no_overlap(self, plan: FeePlan, days: int) -> None:
        since = plan.start + timedelta(days)
        periods = list(islice(domain.fees.periods_from(plan, since), 30))
        assert all(before.dates.end == after.dates.start for before, after in pairwise(periods))
        assert all(after.number == before.number + 1 for before, after in pairwise(periods))
        if periods:
            assert periods[0].number == 1 or periods[0].dates.start <= since
            assert periods[0].dates.end > since
            assert periods[0].number > 1 or periods[0].dates.start == plan.start
        else:
            assert since >= plan.schedule_end

    @pytest.mark.parametrize("frequency", MONTHS)
    def test_periods_have_no_gap_for_any_start_date(self, frequency: BillingFrequency) -> None:
        for start in (date(2027, 1, 1) + timedelta(days) for days in range(731)):
            plan = domain.fees.build_plan(terms(str(start), "", frequency=frequency, phases={str(start): "1"}))
            periods = list(islice(domain.fees.periods_from(plan, start), 26))
            assert all(before.full.end == after.full.start for before, after in pairwise(periods))

    @given(plans())
    def test_periods_cover_the_term(self, plan: FeePlan) -> None:
        if plan.end is None:
            return
        periods = list(domain.fees.periods_from(plan, plan.start))
        assert (periods[0].dates.start, periods[-1].dates.end) == (plan.start, plan.end)
        for period in periods[:-1]:
            assert period.dates == period.full
            if plan.frequency is not ONE_TIME:
                months = (period.number - 1) * MONTHS[plan.frequency]
                month = plan.start.year * 12 + plan.start.month - 1 + months
                last = monthrange(month // 12, month % 12 + 1)[1]
                assert period.dates.start == date(month // 12, month % 12 + 1, min(plan.start.day, last))

    @given(plans(), st.lists(st.integers(0, 1500), max_size=6))
    def test_parts_of_the_term_sum_to_the_whole(self, plan: FeePlan, cuts: list[int]) -> None:
        end = plan.end or plan.start + timedelta(1500)
        ends = sorted({plan.start, end, *(min(plan.start + timedelta(cut), end) for cut in cuts)})
        parts = [DateRange(*each) for each in pairwise(ends)]
        due = sum(
            (sum((fee.amount.amount for fee in domain.fees.fees_due(plan, part)), Decimal(0)) for part in parts),
            Decimal(0),
        )
        assert due == domain.fees.total_due(plan, end).amount
        accrued = sum((domain.fees.accrue(plan, part).amount for part in parts), Decimal(0))
        assert accrued == domain.fees.accrue(plan, DateRange(plan.start, end)).amount
        if plan.end:
            by_period = [
                domain.fees.period_fee(plan, period).amount for period in domain.fees.periods_from(plan, plan.start)
            ]
            assert accrued == due == sum(by_period, Decimal(0))

    @given(plans(), st.integers(1, 10**9))
    def test_amount_is_reached_on_the_first_day_with_enough_fees_due(self, plan: FeePlan, cents: int) -> None:
        target, due = Decimal(cents).scaleb(-2), Decimal(0)
        first = None
        for fee in domain.fees.fees_due(plan, DateRange(plan.start, plan.schedule_end)):
            due += fee.amount.amount
            if due >= target and first is None:
                first = fee.due_date
        assert domain.fees.date_reached(plan, eur(target)) == first

    def test_period_fees_equal_the_sum_of_their_days(self) -> None:
        """Compares period fees with the sum over single days."""
        chance = random.Random(7)  # noqa: S311 - the same cases in every run
        for _ in range(100):
            start = date(2027, 1, 1) + timedelta(chance.randrange(365))
            steps = sorted({0, *chance.choices(range(1, 300), k=3)})
            ramp = {str(start + timedelta(step)): f"{chance.randrange(100_000) / 100:.2f}" for step in steps}
            plan = domain.fees.build_plan(terms(str(start), str(start + timedelta(300)), phases=ramp))
            for period in domain.fees.periods_from(plan, start):
                days = [period.dates.start + timedelta(n) for n in range(period.dates.days)]
                by_days = sum(
                    (domain.fees.accrue(plan, DateRange(each, each + timedelta(1))).amount for each in days), Decimal(0)
                )
                exact = sum((domain.fees.fee_on(plan, each).amount / period.full.days for each in days), Decimal(0))
                assert by_days == domain.fees.period_fee(plan, period).amount
                assert abs(exact - by_days) < Decimal("0.00501")


class TestReachedAmount:
    def test_date_on_which_the_fees_reach_an_amount(self) -> None:
        plan = domain.fees.build_plan(terms(phases={"2027-01-01": "100.00"}))
        assert domain.fees.date_reached(plan, eur("100.00")) == day("2027-01-01")
        assert domain.fees.date_reached(plan, eur("100.01")) == day("2027-02-01")
        assert domain.fees.date_reached(plan, eur("1200.00")) == day("2027-12-01")
        assert domain.fees.date_reached(plan, eur("1200.01")) is None

    def test_free_contract_never_reaches_an_amount(self) -> None:
        assert domain.fees.date_reached(domain.fees.build_plan(terms(end="", total="0.00")), eur("0.01")) is None

    def test_value_of_an_evergreen_contract_is_that_of_the_next_year(self) -> None:
        plan = domain.fees.build_plan(terms(end="", phases={"2027-01-01": "100.00", "2027-07-01": "200.00"}))
        assert domain.fees.term_value(plan, day("2027-01-01")) == eur("1800.00")
        assert domain.fees.term_value(plan, day("2027-07-01")) == eur("2400.00")
        assert plan.schedule_end == HORIZON
