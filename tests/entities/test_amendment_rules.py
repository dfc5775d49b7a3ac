"""Rules of amendments: effect on terms and fees, stored values, stale amendments, transitions."""

from dataclasses import replace
from datetime import date, timedelta
from decimal import Decimal
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit import ids
from kit.money import Money
from services.entities import domain
from services.entities.domain.amendments import AMENDMENT_TRANSITIONS, AmendmentAction, AmendmentState, TermValues
from services.entities.domain.contracts import BillingFrequency, ContractTerms, Phase, SlaTerms
from services.entities.domain.fees import Fee
from services.entities.domain.proration import DateRange
from services.entities.errors.amendments import AmendmentStale, AmendmentStateForbids
from services.entities.models.amendments import AmendmentRow
from tests.entities.test_fees import day, eur, terms

ID = ids.new()
ALWAYS = DateRange(date(2000, 1, 1), date(2200, 1, 1))


@st.composite
def contract_terms(draw: st.DrawFn) -> ContractTerms:
    """Terms of a contract, with or without phases and end date."""
    frequency = draw(st.sampled_from(list(BillingFrequency)))
    start = draw(st.dates(date(2020, 1, 1), date(2040, 1, 1)))
    length = draw(st.integers(60, 1200))
    total = Decimal(draw(st.integers(0, 10**8))).scaleb(-2)
    steps = sorted(draw(st.sets(st.integers(1, length - 1), max_size=3)))
    fees = [eur(Decimal(draw(st.integers(0, 10**7))).scaleb(-2)) for _ in range(len(steps) + 1)]
    ramp = tuple(Phase(start + timedelta(step), fee) for step, fee in zip((0, *steps), fees, strict=True))
    evergreen, ramped = draw(st.booleans()), draw(st.booleans()) and frequency is not BillingFrequency.ONE_TIME
    base = terms(str(start), str(start + timedelta(length)), total=str(total), frequency=frequency)
    return replace(base, end_date=None if evergreen else base.end_date, phases=ramp if ramped else ())


@st.composite
def changes(draw: st.DrawFn) -> tuple[ContractTerms, TermValues, date]:
    """Terms of a contract, changes of them and their effective date."""
    before = draw(contract_terms())
    effective = before.start_date + timedelta(draw(st.integers(0, 59)))
    after: dict[str, object] = {}
    if draw(st.booleans()):
        after["fee"] = eur(Decimal(draw(st.integers(0, 10**7))).scaleb(-2))
        steps = sorted(draw(st.sets(st.integers(1, 200), max_size=2)))
        later = (Phase(effective + timedelta(step), eur(str(step))) for step in steps)
        after["phases"] = () if before.billing_frequency is BillingFrequency.ONE_TIME else tuple(later)
    if not after or draw(st.booleans()):
        longest = (before.end_date or before.start_date + timedelta(1200)) + timedelta(400)
        evergreen = draw(st.booleans())
        after["end_date"] = None if evergreen else draw(st.dates(effective + timedelta(201), longest + timedelta(201)))
    return before, after, effective


class TestEffect:
    @given(changes())
    def test_effect_equals_the_fees_of_both_plans(self, case: tuple[ContractTerms, TermValues, date]) -> None:
        before, after, effective = case
        changed = domain.amendments.amend(before, after, effective)
        old, new = domain.fees.build_plan(before), domain.fees.build_plan(changed)
        effect = domain.amendments.compute_effect(before, changed, None, effective)
        first = effect.fees[0]
        assert first.dates.start <= effective < first.dates.end
        assert effect.new_part - effect.old_part == first.new - first.old
        old_fees = {
            period.number: domain.fees.period_fee(old, period)
            for period in domain.fees.periods_from(old, effective)
            if period.number < 100
        }
        new_fees = {
            period.number: domain.fees.period_fee(new, period)
            for period in domain.fees.periods_from(new, effective)
            if period.number < 100
        }
        for fee in effect.fees:
            assert fee.old == old_fees.get(fee.number, eur("0"))
            assert fee.new == new_fees.get(fee.number, eur("0"))
        assert [fee.number for fee in effect.fees] == list(range(first.number, first.number + len(effect.fees)))

    @given(changes())
    def test_fees_before_the_effective_date_do_not_change(self, case: tuple[ContractTerms, TermValues, date]) -> None:
        before, after, effective = case
        old, new = (
            domain.fees.build_plan(before),
            domain.fees.build_plan(domain.amendments.amend(before, after, effective)),
        )
        if before.billing_frequency is not BillingFrequency.ONE_TIME:
            assert domain.fees.accrue(old, DateRange(old.start, effective)) == domain.fees.accrue(
                new, DateRange(new.start, effective)
            )
            (start,) = {
                period.dates.start
                for period in (next(domain.fees.periods_from(plan, effective)) for plan in (old, new))
            }
            assert domain.fees.total_due(old, start) == domain.fees.total_due(new, start)

    @given(changes())
    def test_total_value_changes_with_the_fees(self, case: tuple[ContractTerms, TermValues, date]) -> None:
        before, after, effective = case
        changed = domain.amendments.amend(before, after, effective)
        if before.billing_frequency is BillingFrequency.ONE_TIME:
            assert changed.total_value == after.get("fee", before.total_value)
        elif before.end_date and changed.end_date:
            more = domain.fees.total_due(domain.fees.build_plan(changed), changed.end_date) - domain.fees.total_due(
                domain.fees.build_plan(before), before.end_date
            )
            assert changed.total_value == max(before.total_value + more, eur("0"))
            if not before.phases:
                assert changed.total_value == domain.fees.total_due(domain.fees.build_plan(changed), changed.end_date)

    @given(changes())
    def test_consistent_terms_stay_consistent(self, case: tuple[ContractTerms, TermValues, date]) -> None:
        before, after, effective = case
        of_phases = {
            violation.field.partition("[")[0]
            for violation in domain.contracts.violations(domain.amendments.amend(before, after, effective))
        }
        assert of_phases <= {"phases", "renewal_notice_days"}
        if "phases" in of_phases:  # requested phases after the end date
            end = after.get("end_date", before.end_date)
            assert any(end and phase.start_date >= end for phase in after.get("phases", ()))

    @given(changes())
    def test_difference_falls_due_on_the_effective_date(self, case: tuple[ContractTerms, TermValues, date]) -> None:
        before, after, effective = case
        changed = domain.amendments.amend(before, {**after, "end_date": before.end_date}, effective)
        if before.billing_frequency is BillingFrequency.ONE_TIME or "fee" not in after or after["phases"]:
            return
        old, new = domain.fees.build_plan(before), domain.fees.build_plan(changed)
        steps = any(phase.start_date > effective for phase in before.phases)
        period = next(domain.fees.periods_from(new, effective))
        if not steps and period.dates.start < effective and not old.remainder.amount:
            effect = domain.amendments.compute_effect(before, changed, None, effective)
            day_of = DateRange(effective, effective + timedelta(1))
            due = sum((fee.amount.amount for fee in domain.fees.fees_due(new, day_of)), Decimal(0))
            due -= sum((fee.amount.amount for fee in domain.fees.fees_due(old, day_of)), Decimal(0))
            assert due == (effect.new_part - effect.old_part).amount

    @given(changes(), st.integers(61, 900))
    def test_effect_ends_at_the_termination_date(self, case: tuple[ContractTerms, TermValues, date], days: int) -> None:
        before, after, effective = case
        terminated = before.start_date + timedelta(days)
        effect = domain.amendments.compute_effect(
            before, domain.amendments.amend(before, after, effective), terminated, effective
        )
        assert all(fee.dates.end <= terminated for fee in effect.fees)


class TestExtension:
    def test_extension_leaves_the_remainder_in_its_period(self) -> None:
        before = terms("2027-01-01", "2028-01-01", total="1000.00")
        changed = domain.amendments.amend(before, {"end_date": day("2028-03-01")}, day("2027-12-15"))
        old, new = (list(domain.fees.fees_due(domain.fees.build_plan(each), ALWAYS)) for each in (before, changed))
        assert old[-1].amount == eur("83.37")
        assert new[:12] == old
        assert [fee.amount for fee in new[12:]] == [eur("83.33")] * 2
        assert changed.total_value == eur("1166.66")

    def test_second_extension_keeps_the_remainder(self) -> None:
        contract = terms("2027-01-01", "2028-01-01", total="1000.00")
        for end in ("2028-03-01", "2029-01-01"):
            contract = domain.amendments.amend(contract, {"end_date": day(end)}, day("2027-12-15"))
        due = list(domain.fees.fees_due(domain.fees.build_plan(contract), ALWAYS))
        assert [fee.amount for fee in due] == [eur("83.33")] * 11 + [eur("83.37")] + [eur("83.33")] * 12
        assert contract.total_value == eur("1999.96")

    def test_extension_to_an_evergreen_contract_keeps_the_remainder(self) -> None:
        before = terms("2027-01-01", "2028-01-01", total="1000.00")
        changed = domain.amendments.amend(before, {"end_date": None}, day("2027-12-15"))
        assert domain.fees.total_due(domain.fees.build_plan(changed), day("2028-01-01")) == eur("1000.00")

    @pytest.mark.parametrize("after", [{"end_date": day("2029-07-01")}, {"fee": eur("90.00"), "phases": ()}])
    def test_past_years_of_an_evergreen_contract_keep_their_remainders(self, after: TermValues) -> None:
        before = terms("2027-01-01", "", total="1000.00")
        changed = domain.amendments.amend(before, after, day("2029-02-01"))
        plan = domain.fees.build_plan(changed)
        assert domain.fees.total_due(plan, day("2029-01-01")) == eur("2000.00")

    def test_shorter_term_drops_the_remainder(self) -> None:
        before = terms("2027-01-01", "2028-01-01", total="1000.00")
        changed = domain.amendments.amend(before, {"end_date": day("2027-12-01")}, day("2027-02-01"))
        assert (changed.total_value, changed.remainders) == (eur("916.63"), ())

    def test_termination_before_the_end_of_its_period_drops_the_remainder(self) -> None:
        before = terms("2027-01-01", "2028-01-01", total="1000.00")
        changed = domain.amendments.amend(before, {"end_date": day("2028-03-01")}, day("2027-02-01"))
        for end, total in (("2028-01-01", "1000.00"), ("2027-12-31", "997.27"), ("2027-12-01", "916.63")):
            plan = domain.fees.build_plan(changed, day(end))
            assert domain.fees.total_due(plan, day("2029-01-01")) == eur(total)

    def test_renewal_starts_without_remainders(self) -> None:
        before = terms("2027-01-01", "2028-01-01", total="1000.00")
        changed = domain.amendments.amend(before, {"end_date": day("2028-03-01")}, day("2027-02-01"))
        assert changed.remainders
        assert domain.renewals.renewal_terms(changed).remainders == ()

    def test_extension_within_a_billing_period_bills_the_further_days_from_the_former_end_on(self) -> None:
        before = terms("2027-01-01", "2027-06-16", phases={"2027-01-01": "100.00"})
        changed = domain.amendments.amend(before, {"end_date": day("2027-08-01")}, day("2027-06-10"))
        old, new = (list(domain.fees.fees_due(domain.fees.build_plan(each), ALWAYS)) for each in (before, changed))
        assert old[-1] == Fee(day("2027-06-01"), eur("50.00"))
        assert new == [*old, Fee(day("2027-06-16"), eur("50.00")), Fee(day("2027-07-01"), eur("100.00"))]
        again = domain.amendments.amend(changed, {"end_date": day("2027-08-11")}, day("2027-06-20"))
        assert list(domain.fees.fees_due(domain.fees.build_plan(again), ALWAYS))[: len(new)] == new

    def test_extension_before_the_period_bills_it_on_its_first_day(self) -> None:
        before = terms("2027-01-01", "2027-06-16", phases={"2027-01-01": "100.00"})
        changed = domain.amendments.amend(before, {"end_date": day("2027-07-01")}, day("2027-06-01"))
        due = list(domain.fees.fees_due(domain.fees.build_plan(changed), ALWAYS))
        assert due[-1] == Fee(day("2027-06-01"), eur("100.00"))

    @given(contract_terms(), st.integers(1, 59), st.integers(1, 400))
    def test_extension_leaves_what_fell_due_before_as_it_is(self, before: ContractTerms, left: int, days: int) -> None:
        if before.end_date is None or before.billing_frequency is BillingFrequency.ONE_TIME:
            return
        effective = before.end_date - timedelta(left)
        changed = domain.amendments.amend(before, {"end_date": before.end_date + timedelta(days)}, effective)
        old, new = (domain.fees.build_plan(each) for each in (before, changed))
        billed = DateRange(before.start_date, effective)
        assert list(domain.fees.fees_due(new, billed)) == list(domain.fees.fees_due(old, billed))
        whole = domain.fees.accrue(new, DateRange(new.start, new.schedule_end))
        assert domain.fees.total_due(new, new.schedule_end) == whole

    @given(changes())
    def test_extension_never_changes_fees_of_earlier_periods(
        self, case: tuple[ContractTerms, TermValues, date]
    ) -> None:
        before, _, effective = case
        if before.end_date is None or before.billing_frequency is BillingFrequency.ONE_TIME:
            return
        after = {"end_date": before.end_date + timedelta(400)}
        old, new = (
            domain.fees.build_plan(each) for each in (before, domain.amendments.amend(before, after, effective))
        )
        for period in domain.fees.periods_from(old, old.start):
            if period.dates == period.full:
                assert domain.fees.period_fee(old, period) == domain.fees.period_fee(new, period)


class TestStoredValues:
    @given(changes())
    def test_stored_values_are_read_back_unchanged(self, case: tuple[ContractTerms, TermValues, date]) -> None:
        before, after, effective = case
        old = domain.amendments.current_values(before, after.keys(), effective)
        effect = domain.amendments.compute_effect(
            before, domain.amendments.amend(before, after, effective), None, effective
        )
        row = AmendmentRow(currency_code="EUR")
        row.set_changes(old, after)
        row.set_effect(effect)
        assert (row.before, row.after, row.effect) == (old, after, effect)

    def test_sla_terms_and_texts_are_read_back_unchanged(self) -> None:
        after = {"sla_terms": SlaTerms(9990, 4, 500), "license_tier": "gold", "seats": 0, "auto_renew": True}
        row = AmendmentRow(currency_code="EUR")
        row.set_changes({"sla_terms": None}, after)
        assert (row.before, row.after) == ({"sla_terms": None}, after)


class TestStale:
    @given(changes())
    def test_unchanged_terms_are_not_stale(self, case: tuple[ContractTerms, TermValues, date]) -> None:
        before, after, effective = case
        domain.amendments.check_not_stale(
            ID, domain.amendments.current_values(before, after.keys(), effective), before, effective
        )

    @pytest.mark.parametrize(
        ("changed_since", "stale"),
        [
            ({"seats": 7}, ["seats"]),
            ({"seats": 7, "end_date": day("2029-01-01"), "total_value": eur("2400")}, ["end_date", "seats"]),
            ({"phases": (Phase(day("2027-01-01"), eur("101")),)}, ["fee"]),
            ({"phases": (Phase(day("2027-01-01"), eur("100")), Phase(day("2027-09-01"), eur("1")))}, ["phases"]),
            ({"phases": (Phase(day("2027-01-01"), eur("1")), Phase(day("2027-02-01"), eur("100")))}, []),
            ({"name": "Other", "total_value": Money(Decimal(1200), "EUR")}, []),
        ],
    )
    def test_changed_terms_are_named(self, changed_since: dict[str, Any], stale: list[str]) -> None:
        effective, names = day("2027-06-01"), ("fee", "phases", "end_date", "seats")
        before = domain.amendments.current_values(terms(), names, effective)
        now = replace(terms(), **changed_since)
        if stale:
            with pytest.raises(AmendmentStale) as error:
                domain.amendments.check_not_stale(ID, before, now, effective)
            assert error.value.metadata["changed"] == ", ".join(stale)
        else:
            domain.amendments.check_not_stale(ID, before, now, effective)


@pytest.mark.parametrize(("state", "action"), list(product(AmendmentState, AmendmentAction)))
def test_every_action_in_every_state(state: AmendmentState, action: AmendmentAction) -> None:
    allowed = {
        AmendmentAction.APPROVE: {AmendmentState.DRAFT: AmendmentState.APPROVED},
        AmendmentAction.APPLY: {AmendmentState.APPROVED: AmendmentState.APPLIED},
        AmendmentAction.REJECT: {
            AmendmentState.DRAFT: AmendmentState.REJECTED,
            AmendmentState.APPROVED: AmendmentState.REJECTED,
        },
    }
    assert AMENDMENT_TRANSITIONS.get((state, action)) == allowed[action].get(state)
    if state not in allowed[action]:
        with pytest.raises(AmendmentStateForbids):
            domain.amendments.advance(ID, state, action)
