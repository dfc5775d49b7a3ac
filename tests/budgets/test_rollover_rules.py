"""Carried forward: never more than the rollover rule allows, and enough for the moved holds."""

from datetime import UTC, date, datetime
from decimal import Decimal
from uuid import uuid4

from hypothesis import given
from hypothesis import strategies as st

from services.budgets import domain
from services.budgets.domain.balances import Balance, Terms
from services.budgets.domain.budgets import BudgetState, OverspendPolicy, PeriodType, Rollover
from services.budgets.domain.periods import Period

amounts = st.decimals(0, 1000, places=2)


@st.composite
def balances(draw: st.DrawFn) -> tuple[Balance, Decimal]:
    """Return a budget within its policy after its open holds have moved, and the sum of these holds."""
    policy, tolerance = draw(st.sampled_from(OverspendPolicy)), draw(st.integers(0, 10000))
    terms = Terms(
        uuid4(), uuid4(), uuid4(), None, "B", BudgetState.ACTIVE, "EUR", policy, tolerance,
        datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC), [], date(2026, 1, 1), "UTC",
    )  # fmt: skip
    carried = draw(st.decimals(-500, 1000, places=2))
    full = Balance(terms, draw(amounts) + 1, carried, draw(amounts), draw(amounts), Decimal(0), Decimal(0), 1)
    held = draw(amounts)
    used = full._replace(committed=held)
    if used.beyond_policy and policy in {OverspendPolicy.BLOCK, OverspendPolicy.ALLOW_WITHIN_TOLERANCE}:
        full, held = full._replace(spent=Decimal(0), held=Decimal(0)), Decimal(0)
    return full, held


class TestCarriedForward:
    @given(balances(), st.sampled_from(Rollover), amounts, st.booleans(), st.decimals("0.01", 1000, places=2))
    def test_carried_amount_is_within_its_bounds(
        self,
        case: tuple[Balance, Decimal],
        rollover: Rollover,
        cap: Decimal,
        carry_overspend: bool,  # noqa: FBT001 - drawn
        next_amount: Decimal,
    ) -> None:
        balance, held = case
        capped = cap if rollover is Rollover.CAPPED else None
        carried = domain.rollovers.carried_forward(
            balance,
            rollover=rollover,
            cap=capped,
            carry_overspend=carry_overspend,
            moved_holds=held,
            next_amount=next_amount,
        )
        rest, needed = balance.available, held - next_amount
        if not carry_overspend:
            assert carried >= 0
        if carried < 0:
            assert carried >= rest
        if carried > 0:
            allowed = {Rollover.NONE: Decimal(0), Rollover.FULL: rest, Rollover.CAPPED: min(rest, cap)}[rollover]
            assert carried <= max(allowed, needed)
        if rest >= 0 and held > 0:
            assert carried >= min(rest, needed)
        self.check_constraint_holds(balance, held, carried, next_amount)

    @staticmethod
    def check_constraint_holds(balance: Balance, held: Decimal, carried: Decimal, next_amount: Decimal) -> None:
        policy = balance.terms.policy
        factor = {
            OverspendPolicy.BLOCK: 10000,
            OverspendPolicy.ALLOW_WITHIN_TOLERANCE: 10000 + balance.terms.tolerance_bp,
        }
        if policy in factor:
            for used, total in ((balance.used, balance.total - carried), (held, next_amount + carried)):
                assert used == 0 or used * 10000 <= total * factor[policy]

    @given(balances(), amounts)
    def test_transferable_amount_leaves_enough(self, case: tuple[Balance, Decimal], more: Decimal) -> None:
        balance, _ = case
        most = domain.transfers.transferable(balance)
        if most > 0:
            after = balance._replace(amount=balance.amount - most)
            assert after.amount > 0
            assert not after.beyond_policy
            beyond = balance._replace(amount=balance.amount - most - more - Decimal("0.02"))
            assert beyond.amount <= 0 or beyond.beyond_policy


class TestNextPeriod:
    def test_next_period_follows_the_anchor_or_the_custom_end(self) -> None:
        first = Period(0, date(2027, 1, 31), date(2027, 2, 28))
        second = domain.rollovers.next_period(PeriodType.MONTHLY, date(2027, 1, 31), first, None)
        assert second == Period(1, date(2027, 2, 28), date(2027, 3, 31))
        custom = domain.rollovers.next_period(PeriodType.CUSTOM, date(2027, 1, 31), first, date(2027, 3, 5))
        assert custom == Period(1, date(2027, 2, 28), date(2027, 3, 5))
