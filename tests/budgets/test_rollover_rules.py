"""What is carried over, on any budget: never more than its rule allows, and enough for what moves along."""

from datetime import UTC, date, datetime
from decimal import Decimal
from uuid import uuid4

from hypothesis import given as drawn
from hypothesis import strategies as st

from services.budgets import domain
from services.budgets.domain.balances import Balance, Terms
from services.budgets.domain.budgets import BudgetState, OverspendPolicy, PeriodType, Rollover
from services.budgets.domain.periods import Period

amounts = st.decimals(0, 1000, places=2)


@st.composite
def balances(draw: st.DrawFn) -> tuple[Balance, Decimal]:
    """A budget within its policy whose open holds have just left it, and what they are in all."""
    policy, tolerance = draw(st.sampled_from(OverspendPolicy)), draw(st.integers(0, 10000))
    terms = Terms(
        uuid4(), uuid4(), uuid4(), None, "B", BudgetState.ACTIVE, "EUR", policy, tolerance,
        datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC), [], date(2026, 1, 1), "UTC",
    )  # fmt: skip
    carried = draw(st.decimals(-500, 1000, places=2))
    full = Balance(terms, draw(amounts) + 1, carried, draw(amounts), draw(amounts), Decimal(0), Decimal(0), 1)
    aside = draw(amounts)
    used = full._replace(committed=aside)
    if used.beyond_policy and policy in {OverspendPolicy.BLOCK, OverspendPolicy.ALLOW_WITHIN_TOLERANCE}:
        full, aside = full._replace(spent=Decimal(0), held=Decimal(0)), Decimal(0)
    return full, aside


class TestCarriedOver:
    @drawn(balances(), st.sampled_from(Rollover), amounts, st.booleans(), st.decimals("0.01", 1000, places=2))
    def test_it_is_within_its_bounds(
        self,
        given: tuple[Balance, Decimal],
        rule: Rollover,
        cap: Decimal,
        carry_overspend: bool,  # noqa: FBT001 - drawn
        next_amount: Decimal,
    ) -> None:
        left, aside = given
        capped = cap if rule is Rollover.CAPPED else None
        carried = domain.rollovers.carried_forward(
            left, rollover=rule, cap=capped, carry_overspend=carry_overspend, moved_holds=aside, next_amount=next_amount
        )
        rest, needed = left.available, aside - next_amount
        if not carry_overspend:
            assert carried >= 0
        if carried < 0:
            assert carried >= rest
        if carried > 0:
            wanted = {Rollover.NONE: Decimal(0), Rollover.FULL: rest, Rollover.CAPPED: min(rest, cap)}[rule]
            assert carried <= max(wanted, needed)
        if rest >= 0 and aside > 0:
            assert carried >= min(rest, needed)
        self.check_the_database_takes_it(left, aside, carried, next_amount)

    @staticmethod
    def check_the_database_takes_it(left: Balance, aside: Decimal, carried: Decimal, next_amount: Decimal) -> None:
        policy = left.terms.policy
        factor = {OverspendPolicy.BLOCK: 10000, OverspendPolicy.ALLOW_WITHIN_TOLERANCE: 10000 + left.terms.tolerance_bp}
        if policy in factor:
            for used, total in ((left.used, left.total - carried), (aside, next_amount + carried)):
                assert used == 0 or used * 10000 <= total * factor[policy]

    @drawn(balances(), amounts)
    def test_what_may_be_taken_away_leaves_enough(self, given: tuple[Balance, Decimal], more: Decimal) -> None:
        left, _ = given
        most = domain.transfers.transferable(left)
        if most > 0:
            after = left._replace(amount=left.amount - most)
            assert after.amount > 0
            assert not after.beyond_policy
            beyond = left._replace(amount=left.amount - most - more - Decimal("0.02"))
            assert beyond.amount <= 0 or beyond.beyond_policy


class TestNextPeriod:
    def test_it_follows_the_anchor_and_a_custom_one_its_end(self) -> None:
        first = Period(0, date(2027, 1, 31), date(2027, 2, 28))
        second = domain.rollovers.next_period(PeriodType.MONTHLY, date(2027, 1, 31), first, None)
        assert second == Period(1, date(2027, 2, 28), date(2027, 3, 31))
        custom = domain.rollovers.next_period(PeriodType.CUSTOM, date(2027, 1, 31), first, date(2027, 3, 5))
        assert custom == Period(1, date(2027, 2, 28), date(2027, 3, 5))
