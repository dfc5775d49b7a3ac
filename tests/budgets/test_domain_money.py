"""The rules of holds, refunds and foreign currencies, without I/O."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.money import Money, exponent
from kit.rates import Rate
from services.budgets import domain
from services.budgets.domain.balances import Movement
from services.budgets.domain.entries import EntryType
from services.budgets.domain.holds import Change, Hold, HoldState
from services.budgets.domain.refunds import Charged, Refund
from services.budgets.domain.summaries import Summary
from services.budgets.errors.budgets import CurrencyMismatch
from services.budgets.errors.charges import RefundExceedsCharge
from services.budgets.errors.holds import HoldExceeded, HoldExpired, HoldStateForbids
from services.budgets.errors.rates import AmountTooSmall
from tests.budgets.test_domain import balance

NOW = datetime(2026, 6, 1, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)
HELD, COMMITTED = HoldState.HELD, HoldState.COMMITTED


def hold(state: HoldState = HELD, captured: int = 0, released: int = 0, expires: datetime | None = LATER) -> Hold:
    budget_id = uuid4()
    return Hold(
        tenant_id=uuid4(), id=uuid4(), budget_id=budget_id, opened_budget_id=budget_id, currency_code="EUR",
        amount=Decimal(100), captured=Decimal(captured), released=Decimal(released), state=state, expire_time=expires,
        create_time=NOW, update_time=NOW,
    )  # fmt: skip


def euros(**given: int) -> Movement:
    return Movement(**{name: Decimal(amount) for name, amount in given.items()})


def parts(hold: Hold) -> tuple[HoldState, int, int, int]:
    """Return the state, and the captured, released and open amounts in whole euros."""
    parts = hold.captured, hold.released, hold.open
    assert all(part == int(part) for part in parts)
    return hold.state, int(hold.captured), int(hold.released), int(hold.open)


class TestHolds:
    def test_commit_moves_what_is_left_and_removes_the_expiry(self) -> None:
        movement, after = domain.holds.commit(hold(captured=30), NOW)
        assert movement == euros(held=-70, committed=70)
        assert (parts(after), after.expire_time) == ((COMMITTED, 30, 0, 70), None)

    @pytest.mark.parametrize(("state", "number"), [(HELD, "held"), (COMMITTED, "committed")])
    def test_capture_spends_a_part_and_keeps_the_rest(self, state: HoldState, number: str) -> None:
        movement, after = domain.holds.capture(hold(state), Decimal(30), NOW, release_rest=False)
        assert movement == euros(spent=30, captured=30, **{number: -30})
        assert parts(after) == (state, 30, 0, 70)

    @pytest.mark.parametrize(("state", "number"), [(HELD, "held"), (COMMITTED, "committed")])
    def test_capture_can_release_the_rest(self, state: HoldState, number: str) -> None:
        movement, after = domain.holds.capture(hold(state, captured=20), Decimal(30), NOW, release_rest=True)
        assert movement == euros(spent=30, captured=30, **{number: -80})
        assert parts(after) == (HoldState.CAPTURED, 50, 50, 0)

    def test_a_hold_captured_to_the_last_cent_has_ended(self) -> None:
        _, after = domain.holds.capture(hold(captured=60), Decimal(40), NOW, release_rest=False)
        assert parts(after) == (HoldState.CAPTURED, 100, 0, 0)

    def test_an_amount_above_the_rest_is_not_captured_or_released(self) -> None:
        acts: list[Callable[[], Change]] = [
            lambda: domain.holds.capture(hold(captured=60), Decimal("40.01"), NOW, release_rest=False),
            lambda: domain.holds.release(hold(captured=60), Decimal("40.01")),
        ]
        for act in acts:
            with pytest.raises(HoldExceeded) as refused:
                act()
            assert (refused.value.metadata["available"], refused.value.metadata["requested"]) == ("40.00", "40.01")

    def test_a_hold_released_in_parts_ends_with_the_last(self) -> None:
        movement, after = domain.holds.release(hold(COMMITTED), Decimal(30))
        assert (movement, parts(after)) == (euros(committed=-30), (COMMITTED, 0, 30, 70))
        movement, after = domain.holds.release(after, None)
        assert (movement, parts(after)) == (euros(committed=-70), (HoldState.RELEASED, 0, 100, 0))

    def test_a_partly_captured_hold_that_is_released_ends_as_captured(self) -> None:
        assert domain.holds.release(hold(captured=1), None)[1].state is HoldState.CAPTURED

    def test_a_hold_expires_at_its_expire_time(self) -> None:
        last = LATER - timedelta(microseconds=1)
        assert domain.holds.commit(hold(), last)
        assert not domain.holds.is_due(hold(), last)
        assert domain.holds.is_due(hold(), LATER)
        acts: list[Callable[[], Change]] = [
            lambda: domain.holds.commit(hold(), LATER),
            lambda: domain.holds.capture(hold(), Decimal(1), LATER, release_rest=False),
        ]
        for act in acts:
            with pytest.raises(HoldExpired):
                act()
        assert domain.holds.release(hold(), None)  # as its expiry would do

    def test_expire_releases_what_is_left(self) -> None:
        movement, after = domain.holds.expire(hold(captured=30, released=10))
        assert (movement, parts(after)) == (euros(held=-60), (HoldState.EXPIRED, 30, 70, 0))
        with pytest.raises(HoldStateForbids):
            domain.holds.expire(hold(COMMITTED))
        assert not domain.holds.is_due(hold(COMMITTED, expires=NOW), LATER)

    @given(
        st.lists(st.tuples(st.sampled_from(["commit", "capture", "release", "rest"]), st.integers(1, 60)), max_size=12)
    )
    def test_the_movements_of_a_hold_add_up_to_its_open_amount(self, steps: list[tuple[str, int]]) -> None:
        at, sums = hold(expires=None), Movement(held=Decimal(100))
        for step, amount in steps:
            try:
                if step == "commit":
                    movement, at = domain.holds.commit(at, NOW)
                elif step == "release":
                    movement, at = domain.holds.release(at, Decimal(amount))
                else:
                    movement, at = domain.holds.capture(at, Decimal(amount), NOW, release_rest=step == "rest")
            except (HoldStateForbids, HoldExceeded):
                continue
            sums = Movement(*(had + by for had, by in zip(sums, movement, strict=True)))
        reserved = {HELD: (at.open, 0), COMMITTED: (0, at.open)}.get(at.state, (0, 0))
        assert (sums.spent, sums.captured, (sums.held, sums.committed)) == (at.captured, at.captured, reserved)
        assert (at.state in {HELD, COMMITTED}) == (at.open > 0)


class TestHoldsInAForeignCurrency:
    @given(
        st.integers(1, 10**6), st.integers(1, 10**6),
        st.lists(
            st.tuples(st.sampled_from(["capture", "own", "release", "rest"]), *[st.integers(1, 10**6)] * 2),
            max_size=12,
        ),
    )  # fmt: skip
    def test_it_ends_exactly_when_all_of_the_original_is_used(
        self, amount: int, original: int, steps: list[tuple[str, int, int]]
    ) -> None:
        """`amount` and `original` in cents; each step has a part of the original and its value on its day."""
        whole = Decimal(amount) / 100
        at = replace(
            hold(expires=None), amount=whole,
            original_amount=Decimal(original) / 100, original_currency="USD", original_open=Decimal(original) / 100,
        )  # fmt: skip
        sums = Movement(held=whole)
        for step, part, value in steps:
            before, usd = at, money(Decimal(part) / 100, "USD")
            try:
                if step == "release":
                    movement, at = domain.holds.release(at, None, usd)
                else:
                    given = None if step == "own" else usd
                    euro, rest = Decimal(value) / 100, step == "rest"
                    movement, at = domain.holds.capture(at, euro, NOW, release_rest=rest, original=given)
            except (HoldStateForbids, HoldExceeded):
                continue
            sums = Movement(*(had + by for had, by in zip(sums, movement, strict=True)))
            assert at.open <= before.open
        assert at.original_open is not None
        assert (at.open == 0) == (at.original_open == 0) == (at.state not in {HELD, COMMITTED})
        assert min(at.open, at.original_open, at.captured, at.released) >= 0
        assert (sums.spent, sums.captured, sums.held) == (at.captured, at.captured, at.open)
        # The held amount, with what the budget added at higher rates, is captured, released or still open.
        assert at.amount >= whole
        assert at.amount == at.captured + at.released + at.open


def charged(amount: Money, original: Money | None = None, entry_type: EntryType = EntryType.CHARGE) -> Charged:
    return Charged(uuid4(), uuid4(), entry_type, amount, original or amount, Decimal(0), Decimal(0))


def money(amount: Any, currency: str = "EUR") -> Money:
    return Money(Decimal(amount), currency)


def after_refund(of: Charged, refund: Refund) -> Charged:
    return replace(
        of,
        refunded=of.refunded + refund.amount.amount,
        original_refunded=of.original_refunded + refund.original.amount,
    )


class TestRefunds:
    def test_a_part_is_refunded_and_then_the_rest(self) -> None:
        whole = charged(money(100))
        part = domain.refunds.refund(whole, money(30))
        assert (part.amount, part.movement) == (money(30), Movement(spent=Decimal(-30)))
        assert domain.refunds.refund(after_refund(whole, part), None).amount == money(70)

    def test_the_refund_of_a_capture_reduces_what_was_captured(self) -> None:
        refund = domain.refunds.refund(charged(money(100), entry_type=EntryType.CAPTURE), money(30))
        assert refund.movement == Movement(spent=Decimal(-30), captured=Decimal(-30))

    def test_no_more_is_refunded_than_was_charged(self) -> None:
        whole = charged(money(100))
        with pytest.raises(RefundExceedsCharge):
            domain.refunds.refund(whole, money("100.01"))
        left = after_refund(whole, domain.refunds.refund(whole, money(60)))
        with pytest.raises(RefundExceedsCharge) as refused:
            domain.refunds.refund(left, money("40.01"))
        assert refused.value.metadata["available"] == "40.00"
        with pytest.raises(RefundExceedsCharge):
            domain.refunds.refund(after_refund(left, domain.refunds.refund(left, None)), None)

    def test_a_charge_in_a_foreign_currency_is_refunded_at_its_rate(self) -> None:
        whole = charged(money(90), money(100, "USD"))
        part = domain.refunds.refund(whole, money(30, "USD"))
        assert (part.amount, part.original) == (money(27), money(30, "USD"))
        part = domain.refunds.refund(whole, money(27))
        assert (part.amount, part.original) == (money(27), money(30, "USD"))

    def test_an_amount_worth_nothing_in_the_budgets_currency_is_rejected_once_all_is_refunded(self) -> None:
        whole = charged(money("6.10", "USD"), money(100_000, "IDR"))
        refunded = after_refund(whole, domain.refunds.refund(whole, None))
        with pytest.raises(RefundExceedsCharge) as refused:
            domain.refunds.refund(refunded, money("0.50", "IDR"))  # 0.00 USD, of which 0.00 are left
        assert (refused.value.metadata["available"], refused.value.metadata["currency_code"]) == ("0.00", "IDR")

    def test_a_refund_in_a_third_currency_is_refused(self) -> None:
        with pytest.raises(CurrencyMismatch):
            domain.refunds.refund(charged(money(90), money(100, "USD")), money(1, "JPY"))

    def test_what_is_available_is_returned_in_the_requested_currency(self) -> None:
        whole = charged(money(90), money(100, "USD"))
        for requested, available in ((money(91), "90.00"), (money(101, "USD"), "100.00")):
            with pytest.raises(RefundExceedsCharge) as refused:
                domain.refunds.refund(whole, requested)
            metadata = refused.value.metadata
            assert (metadata["available"], metadata["currency_code"]) == (available, requested.currency)

    @given(
        st.sampled_from([("EUR", "USD"), ("EUR", "JPY"), ("JPY", "USD"), ("BHD", "JPY"), ("EUR", "EUR")]),
        st.integers(1, 5_000), st.integers(1, 5_000),
        st.lists(st.tuples(st.booleans(), st.integers(1, 3_000)), max_size=12),
    )  # fmt: skip
    def test_refunds_in_either_currency_add_up_to_the_charge_and_never_exceed_it(
        self, pair: tuple[str, str], units: int, original_units: int, parts: list[tuple[bool, int]]
    ) -> None:
        def of(number: int, currency: str) -> Money:
            return Money(Decimal(number).scaleb(-(exponent(currency) or 0)), currency)

        budgets, callers = pair
        original = original_units if callers != budgets else units
        left = charged(of(units, budgets), of(original, callers))
        for in_callers, part in parts:
            requested = of(part, callers if in_callers else budgets)
            available = (
                left.original.amount - left.original_refunded if in_callers else left.amount.amount - left.refunded
            )
            if requested.amount > available:
                with pytest.raises(RefundExceedsCharge):
                    domain.refunds.refund(left, requested)
                continue
            refund = domain.refunds.refund(left, requested)
            assert requested in {refund.amount, refund.original}
            assert min(refund.amount.amount, refund.original.amount) >= 0
            left = after_refund(left, refund)
            assert left.refunded <= left.amount.amount
            assert left.original_refunded <= left.original.amount
            if in_callers:  # no drift, however many parts there were
                exact = left.amount.amount * left.original_refunded / left.original.amount
                assert abs(left.refunded - exact) <= Decimal("0.5").scaleb(-(exponent(budgets) or 0))
        if (left.refunded, left.original_refunded) != (left.amount.amount, left.original.amount):
            left = after_refund(left, domain.refunds.refund(left, None))
        assert (left.refunded, left.original_refunded) == (left.amount.amount, left.original.amount)
        with pytest.raises(RefundExceedsCharge):
            domain.refunds.refund(left, None)


class TestRates:
    TODAY = Rate(Decimal("0.9"), date(2026, 6, 1))
    PLAN = Rate(Decimal("0.8"), date(2026, 1, 1))

    def test_an_amount_is_converted_at_the_rates_of_its_day_and_of_the_plan(self) -> None:
        conversion = domain.rates.convert(money(100, "USD"), "EUR", self.TODAY, self.PLAN)
        assert (conversion.amount, conversion.rate, conversion.rate_date) == (
            money(90),
            Decimal("0.9"),
            date(2026, 6, 1),
        )
        assert conversion.plan_amount == 80
        assert domain.rates.convert(money(100, "USD"), "EUR", self.TODAY, None).plan_amount is None

    @pytest.mark.parametrize(
        ("amount", "currency", "rate", "converted"),
        [
            ("0.05", "EUR", "0.1", None),  # 0.005: half to even, which is nothing
            ("0.15", "EUR", "0.1", "0.02"),
            ("0.25", "EUR", "0.1", "0.02"),
            ("1", "JPY", "150.5", "150"),
            ("1", "JPY", "151.5", "152"),
            ("1", "BHD", "0.3765", "0.376"),
        ],
    )
    def test_halves_are_rounded_to_even(self, amount: str, currency: str, rate: str, converted: str | None) -> None:
        of_day = Rate(Decimal(rate), date(2026, 6, 1))
        if converted is None:
            with pytest.raises(AmountTooSmall):
                domain.rates.convert(money(amount, "USD"), currency, of_day, None)
        else:
            assert domain.rates.convert(money(amount, "USD"), currency, of_day, None).amount == money(
                converted, currency
            )

    def test_the_day_is_that_of_the_budgets_time_zone(self) -> None:
        terms = balance(time_zone="Pacific/Auckland").terms
        assert domain.rates.days(terms, datetime(2026, 5, 31, 12, tzinfo=UTC)) == (date(2026, 6, 1), date(2026, 1, 1))
        assert domain.rates.days(terms, datetime(2026, 5, 31, 11, 59, tzinfo=UTC))[0] == date(2026, 5, 31)


def effect(amount: str, currency: str = "EUR") -> Summary:
    zero = Decimal(0)
    return Summary(uuid4(), None, None, currency, 1, 0, zero, zero, zero, zero, zero, zero, Decimal(amount), 0)


def test_fx_effects_sum_to_the_same_total_for_every_grouping() -> None:
    """Of a refund in parts, the FX effect has more digits than the currency."""
    by_entity = [effect("0.333"), effect("7.4", "JPY"), effect("0.333"), effect("0.338"), effect("0.3", "JPY")]
    rounded = domain.summaries.round_effects(by_entity)
    assert [str(each.fx_effect) for each in rounded] == ["0.33", "8", "0.33", "0.34", "0"]
    assert [each.entity_id for each in rounded] == [each.entity_id for each in by_entity]
    by_currency = domain.summaries.round_effects([effect("1.004"), effect("7.7", "JPY")])
    assert [str(each.fx_effect) for each in by_currency] == ["1.00", "8"]
