"""The rules of budgets, without I/O: every state and action, periods, and charges against a small model."""

from calendar import monthrange
from datetime import UTC, date, datetime
from decimal import Decimal
from itertools import product
from typing import ClassVar
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.money import Money
from services.budgets import domain
from services.budgets.domain import (
    Action,
    AlertType,
    AvailabilityVerdict,
    Balance,
    ChargeVerdict,
    Mark,
    OverspendPolicy,
    PeriodType,
    State,
)
from services.budgets.errors import (
    ApprovalRequired,
    BudgetExceeded,
    BudgetStateForbids,
    CurrencyMismatch,
    OutsidePeriod,
)

NOW = datetime(2026, 6, 1, tzinfo=UTC)


def eur(amount: str | Decimal) -> Money:
    return Money(Decimal(amount), "EUR")


def balance(
    amount: str | Decimal = "100",
    spent: str | Decimal = "0",
    policy: OverspendPolicy = OverspendPolicy.BLOCK,
    state: State = State.ACTIVE,
    thresholds_bp: tuple[int, ...] = domain.THRESHOLDS_DEFAULT_BP,
    tolerance_bp: int = 0,
) -> Balance:
    return Balance(
        id=uuid4(),
        name="Cloud",
        state=state,
        policy=policy,
        tolerance_bp=tolerance_bp,
        amount=eur(amount),
        spent=eur(spent),
        starts=datetime(2026, 1, 1, tzinfo=UTC),
        ends=datetime(2027, 1, 1, tzinfo=UTC),
        thresholds_bp=thresholds_bp,
    )


class TestStates:
    ALLOWED: ClassVar = {
        Action.ACTIVATE: {State.DRAFT: State.ACTIVE},
        Action.CLOSE: {State.DRAFT: State.CLOSED, State.ACTIVE: State.CLOSED},
        Action.REOPEN: {State.CLOSED: State.ACTIVE},
        Action.CHANGE: {State.DRAFT: State.DRAFT, State.ACTIVE: State.ACTIVE},
        Action.CHARGE: {State.ACTIVE: State.ACTIVE},
        Action.ADOPT: {State.DRAFT: State.DRAFT, State.ACTIVE: State.ACTIVE},
    }

    @pytest.mark.parametrize(("state", "action"), list(product(State, Action)))
    def test_every_state_and_action(self, state: State, action: Action) -> None:
        after = self.ALLOWED[action].get(state)
        if after is not None:
            assert domain.advance(uuid4(), state, action) is after
            return
        with pytest.raises(BudgetStateForbids) as refused:
            domain.advance(uuid4(), state, action)
        assert refused.value.metadata["state"] == state
        assert set(refused.value.metadata["allowed"].split(", ")) == set(self.ALLOWED[action])


class TestPeriods:
    @pytest.mark.parametrize(
        ("period_type", "start", "end"),
        [
            (PeriodType.MONTHLY, date(2026, 1, 31), date(2026, 2, 28)),
            (PeriodType.MONTHLY, date(2028, 1, 31), date(2028, 2, 29)),
            (PeriodType.MONTHLY, date(2026, 12, 1), date(2027, 1, 1)),
            (PeriodType.QUARTERLY, date(2026, 11, 30), date(2027, 2, 28)),
            (PeriodType.ANNUAL, date(2028, 2, 29), date(2029, 2, 28)),
            (PeriodType.ANNUAL, date(2026, 4, 1), date(2027, 4, 1)),
        ],
    )
    def test_the_end_is_the_same_day_or_the_last(self, period_type: PeriodType, start: date, end: date) -> None:
        assert domain.period_end(period_type, start) == end

    @given(
        st.dates(date(1990, 1, 1), date(2100, 1, 1)),
        st.sampled_from([(PeriodType.MONTHLY, 1), (PeriodType.QUARTERLY, 3), (PeriodType.ANNUAL, 12)]),
    )
    def test_a_period_has_its_number_of_months(self, start: date, kind: tuple[PeriodType, int]) -> None:
        period_type, months = kind
        end = domain.period_end(period_type, start)
        assert (end.year * 12 + end.month) - (start.year * 12 + start.month) == months
        assert end.day == min(start.day, monthrange(end.year, end.month)[1])


class TestDecision:
    def test_the_last_cent_is_taken_and_the_next_is_not(self) -> None:
        chain = [balance("100", "99.99")]
        assert domain.decide(chain, eur("0.01"), NOW).after[0].available == eur("0")
        with pytest.raises(BudgetExceeded) as refused:
            domain.decide(chain, eur("0.02"), NOW)
        assert refused.value.metadata["short"] == "0.01"
        assert refused.value.metadata["available"] == "0.01"

    def test_of_two_that_refuse_the_tighter_one_is_named(self) -> None:
        own, above = balance("100", "95"), balance("1000", "999")
        with pytest.raises(BudgetExceeded) as refused:
            domain.decide([own, above], eur("10"), NOW)
        assert refused.value.id == above.id

    def test_an_ancestor_that_only_warns_does_not_refuse(self) -> None:
        decision = domain.decide([balance("100"), balance("5", policy=OverspendPolicy.WARN)], eur("10"), NOW)
        assert decision.verdict is ChargeVerdict.ACCEPTED_OVERSPENT

    def test_the_period_has_its_start_and_not_its_end(self) -> None:
        chain = [balance()]
        assert domain.decide(chain, eur("1"), chain[0].starts)
        with pytest.raises(OutsidePeriod):
            domain.decide(chain, eur("1"), chain[0].ends)

    def test_another_currency_is_refused(self) -> None:
        with pytest.raises(CurrencyMismatch):
            domain.decide([balance()], Money(Decimal(1), "USD"), NOW)

    @given(
        st.lists(
            st.tuples(
                st.decimals("0.01", "1000", places=2),
                st.decimals("0", "1000", places=2),
                st.sampled_from([OverspendPolicy.BLOCK, OverspendPolicy.WARN]),
            ),
            min_size=1,
            max_size=5,
        ),
        st.decimals("0.01", "1500", places=2),
    )
    def test_a_chain_takes_a_charge_exactly_when_every_blocking_budget_has_room(
        self, budgets: list[tuple[Decimal, Decimal, OverspendPolicy]], amount: Decimal
    ) -> None:
        chain = [
            balance(limit, min(spent, limit) if policy is OverspendPolicy.BLOCK else spent, policy)
            for limit, spent, policy in budgets
        ]
        fits = all(b.policy is OverspendPolicy.WARN or b.spent.amount + amount <= b.amount.amount for b in chain)
        seen = domain.availability(chain, eur(amount), NOW)
        try:
            decision = domain.decide(chain, eur(amount), NOW)
        except BudgetExceeded as refused:
            assert not fits
            assert seen.verdict is AvailabilityVerdict.EXCEEDED
            assert seen.binding == refused.id
            return
        assert fits
        assert [
            after.spent.amount - before.spent.amount for before, after in zip(chain, decision.after, strict=True)
        ] == [amount] * len(chain)
        overspent = any(b.spent.amount + amount > b.amount.amount for b in chain)
        assert (decision.verdict is ChargeVerdict.ACCEPTED_OVERSPENT) == overspent
        assert (seen.verdict is AvailabilityVerdict.AVAILABLE_OVERSPENT) == overspent


class TestPolicies:
    TOLERANT = OverspendPolicy.ALLOW_WITHIN_TOLERANCE
    APPROVED = OverspendPolicy.REQUIRE_APPROVAL

    def test_a_tolerance_is_taken_to_its_last_cent(self) -> None:
        chain = [balance("100.01", "100", self.TOLERANT, tolerance_bp=500)]
        assert chain[0].limit == eur("105.01")  # 105.0105
        decision = domain.decide(chain, eur("5.01"), NOW)
        assert decision.verdict is ChargeVerdict.ACCEPTED_OVERSPENT
        with pytest.raises(BudgetExceeded) as refused:
            domain.decide(chain, eur("5.02"), NOW)
        assert (refused.value.metadata["available"], refused.value.metadata["short"]) == ("5.01", "0.01")

    def test_within_its_amount_a_tolerant_budget_is_not_overspent(self) -> None:
        decision = domain.decide([balance("100", "0", self.TOLERANT, tolerance_bp=500)], eur("100"), NOW)
        assert decision.verdict is ChargeVerdict.ACCEPTED

    def test_overspending_asks_for_approval(self) -> None:
        chain = [balance("100", "90", self.APPROVED)]
        assert domain.decide(chain, eur("10"), NOW).verdict is ChargeVerdict.ACCEPTED
        with pytest.raises(ApprovalRequired) as refused:
            domain.decide(chain, eur("10.01"), NOW)
        assert refused.value.metadata["short"] == "0.01"
        assert domain.availability(chain, eur("10.01"), NOW).verdict is AvailabilityVerdict.APPROVAL_REQUIRED

    def test_no_approval_is_asked_for_where_it_would_not_help(self) -> None:
        asks, blocks = balance("100", "100", self.APPROVED), balance("100", "95")
        with pytest.raises(BudgetExceeded) as refused:
            domain.decide([asks, blocks], eur("10"), NOW)
        assert refused.value.id == blocks.id

    @given(st.decimals("0.01", "100000", places=2), st.integers(0, 10_000), st.decimals("0.01", "300000", places=2))
    def test_the_database_agrees_about_the_tolerance(self, amount: Decimal, tolerance_bp: int, spent: Decimal) -> None:
        """The CHECK constraint multiplies instead of rounding; of cents both say the same."""
        tolerant = balance(amount, spent, self.TOLERANT, tolerance_bp=tolerance_bp)
        assert tolerant.beyond_policy == (spent * 10_000 > amount * (10_000 + tolerance_bp))


class TestMarks:
    def test_a_mark_is_passed_when_it_is_reached_and_not_a_cent_before(self) -> None:
        assert Mark(AlertType.THRESHOLD, 8000) not in domain.marks_passed(balance("100", "79.99"))
        assert Mark(AlertType.THRESHOLD, 8000) in domain.marks_passed(balance("100", "80"))

    def test_overspending_is_a_mark_of_its_own(self) -> None:
        exactly, over = balance("100", "100"), balance("100", "100.01", OverspendPolicy.WARN)
        assert Mark(AlertType.OVERSPEND, 10000) not in domain.marks_passed(exactly)
        assert Mark(AlertType.OVERSPEND, 10000) in domain.marks_passed(over)
