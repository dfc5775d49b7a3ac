"""The rules of budgets without I/O: every state and action, and all types of entries on all kinds of chains."""

from collections.abc import Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from itertools import product
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.budgets import domain
from services.budgets.domain.alerts import AlertAction, AlertState, AlertThreshold, AlertType
from services.budgets.domain.balances import LARGEST, RULES, Balance, Decision, Movement, Terms
from services.budgets.domain.budgets import THRESHOLDS_DEFAULT_BP, BudgetAction, BudgetState, OverspendPolicy
from services.budgets.domain.entries import AvailabilityVerdict, ChargeVerdict, EntryType
from services.budgets.domain.holds import HoldAction, HoldState
from services.budgets.errors.alerts import AlertStateForbids
from services.budgets.errors.budgets import (
    ApprovalRequired,
    BudgetExceeded,
    BudgetStateForbids,
    CurrencyMismatch,
    OutsidePeriod,
    UsedTooLarge,
)
from services.budgets.errors.holds import HoldStateForbids

BLOCK, WARN = OverspendPolicy.BLOCK, OverspendPolicy.WARN
TOLERANT, APPROVED = OverspendPolicy.ALLOW_WITHIN_TOLERANCE, OverspendPolicy.REQUIRE_APPROVAL
NOW = datetime(2026, 6, 1, tzinfo=UTC)
CENT = Decimal("0.01")


def balance(amount: str | Decimal = "100", spent: str | Decimal = "0", /, **given: Any) -> Balance:
    """A budget of this year in euros, with other terms and numbers if given."""
    numbers = {name: Decimal(given.pop(name, 0)) for name in ("carried", "held", "committed", "captured")}
    usual: dict[str, Any] = {
        "tenant_id": uuid4(), "id": uuid4(), "entity_id": uuid4(), "department_id": None, "name": "Cloud",
        "state": BudgetState.ACTIVE, "currency": "EUR", "policy": BLOCK, "tolerance_bp": 0,
        "starts": datetime(2026, 1, 1, tzinfo=UTC), "ends": datetime(2027, 1, 1, tzinfo=UTC),
        "thresholds_bp": THRESHOLDS_DEFAULT_BP, "period_start": date(2026, 1, 1), "time_zone": "UTC",
    }  # fmt: skip
    terms = Terms(**{**usual, **given})
    return Balance(terms=terms, amount=Decimal(amount), spent=Decimal(spent), version=3, **numbers)


def charge(chain: list[Balance], amount: str | Decimal) -> Decision:
    return domain.balances.decide(chain, EntryType.CHARGE, Movement(spent=Decimal(amount)), NOW)


BUDGETS: Mapping[Enum, Mapping[Enum, Enum]] = {
    BudgetAction.ACTIVATE: {BudgetState.DRAFT: BudgetState.ACTIVE},
    BudgetAction.CLOSE: dict.fromkeys((BudgetState.DRAFT, BudgetState.ACTIVE, BudgetState.CLOSING), BudgetState.CLOSED),
    BudgetAction.REOPEN: {BudgetState.CLOSED: BudgetState.ACTIVE},
    BudgetAction.REOPEN_PERIOD: {BudgetState.CLOSED: BudgetState.CLOSING},
    BudgetAction.CHANGE: {BudgetState.DRAFT: BudgetState.DRAFT, BudgetState.ACTIVE: BudgetState.ACTIVE},
    BudgetAction.CHARGE: {state: state for state in (BudgetState.ACTIVE, BudgetState.CLOSING)},
    BudgetAction.RESERVE: {BudgetState.ACTIVE: BudgetState.ACTIVE},
    BudgetAction.RETURN: {state: state for state in BudgetState if state is not BudgetState.DRAFT},
    BudgetAction.ADOPT: {BudgetState.DRAFT: BudgetState.DRAFT, BudgetState.ACTIVE: BudgetState.ACTIVE},
    BudgetAction.END_PERIOD: {BudgetState.ACTIVE: BudgetState.CLOSING},
    BudgetAction.ROLL_OVER: dict.fromkeys((BudgetState.ACTIVE, BudgetState.CLOSING), BudgetState.CLOSING),
}
HOLDS: Mapping[Enum, Mapping[Enum, Enum]] = {
    HoldAction.COMMIT: {HoldState.HELD: HoldState.COMMITTED},
    HoldAction.CAPTURE: {HoldState.HELD: HoldState.HELD, HoldState.COMMITTED: HoldState.COMMITTED},
    HoldAction.FINISH: {HoldState.HELD: HoldState.CAPTURED, HoldState.COMMITTED: HoldState.CAPTURED},
    HoldAction.RELEASE: {HoldState.HELD: HoldState.RELEASED, HoldState.COMMITTED: HoldState.RELEASED},
    HoldAction.EXPIRE: {HoldState.HELD: HoldState.EXPIRED},
}
ALERTS: Mapping[Enum, Mapping[Enum, Enum]] = {
    AlertAction.ACKNOWLEDGE: {AlertState.OPEN: AlertState.ACKNOWLEDGED},
    AlertAction.RESOLVE: {
        AlertState.OPEN: AlertState.RESOLVED,
        AlertState.ACKNOWLEDGED: AlertState.RESOLVED,
    },
}


class TestTransitions:
    @pytest.mark.parametrize(
        ("advance", "forbids", "allowed", "state", "action"),
        [
            *(
                (domain.budgets.advance, BudgetStateForbids, BUDGETS, *pair)
                for pair in product(BudgetState, BudgetAction)
            ),
            *((domain.holds.advance, HoldStateForbids, HOLDS, *pair) for pair in product(HoldState, HoldAction)),
            *((domain.alerts.advance, AlertStateForbids, ALERTS, *pair) for pair in product(AlertState, AlertAction)),
        ],
    )
    def test_every_state_and_action(
        self, advance: Any, forbids: Any, allowed: Mapping[Enum, Mapping[Enum, Enum]], state: Enum, action: Enum
    ) -> None:
        after = allowed[action].get(state)
        if after is not None:
            assert advance(uuid4(), state, action) is after
            return
        with pytest.raises(forbids) as refused:
            advance(uuid4(), state, action)
        assert refused.value.metadata["state"] == state.value
        assert set(refused.value.metadata["allowed"].split(", ")) == {from_.value for from_ in allowed[action]}


class TestDecision:
    def test_the_last_cent_is_accepted_and_the_next_is_not(self) -> None:
        chain = [balance("100", "99.99")]
        assert charge(chain, CENT).after[0].available == 0
        with pytest.raises(BudgetExceeded) as refused:
            charge(chain, "0.02")
        assert refused.value.metadata["short"] == "0.01"
        assert refused.value.metadata["available"] == "0.01"

    @pytest.mark.parametrize("policy", [BLOCK, TOLERANT])
    def test_an_approved_overspend_does_not_pass_a_hard_limit(self, policy: OverspendPolicy) -> None:
        movement = Movement(held=Decimal(150))

        def approved(chain: list[Balance]) -> Decision:
            return domain.balances.decide(chain, EntryType.HOLD, movement, NOW, approved=True)

        assert approved([balance("100", policy=APPROVED)]).verdict is ChargeVerdict.ACCEPTED_OVERSPENT
        limited = balance("100", policy=policy)
        for chain in ([limited], [balance("100", policy=APPROVED), limited]):
            with pytest.raises(BudgetExceeded) as refused:
                approved(chain)
            assert refused.value.id == limited.terms.id

    def test_held_committed_and_carried_amounts_count(self) -> None:
        chain = [balance("100", "20", held="30", committed="40", carried="5")]
        assert charge(chain, "15").after[0].available == 0
        with pytest.raises(BudgetExceeded) as refused:
            charge(chain, "15.01")
        assert (refused.value.metadata["available"], refused.value.metadata["amount"]) == ("15.00", "105.00")

    def test_an_overspend_carried_over_leaves_less(self) -> None:
        chain = [balance("100", carried="-100")]
        with pytest.raises(BudgetExceeded):
            charge(chain, CENT)

    def test_every_budget_of_the_chain_changes_once(self) -> None:
        chain = [balance("100", "10"), balance("1000", "500", held="1"), balance("9999")]
        after = charge(chain, "7").after
        assert [(left.terms.id, int(left.spent), left.version) for left in after] == [
            (chain[0].terms.id, 17, 4),
            (chain[1].terms.id, 507, 4),
            (chain[2].terms.id, 7, 4),
        ]

    def test_of_two_refusing_budgets_the_tighter_one_is_named(self) -> None:
        own, above = balance("100", "95"), balance("1000", "999")
        with pytest.raises(BudgetExceeded) as refused:
            charge([own, above], "10")
        assert refused.value.id == above.terms.id

    def test_an_ancestor_with_policy_warn_does_not_refuse(self) -> None:
        assert charge([balance("100"), balance("5", policy=WARN)], "10").verdict is ChargeVerdict.ACCEPTED_OVERSPENT

    def test_a_closed_ancestor_refuses_and_is_named(self) -> None:
        above = balance(state=BudgetState.CLOSED)
        with pytest.raises(BudgetStateForbids) as refused:
            charge([balance(), above], "1")
        assert refused.value.id == above.terms.id

    def test_the_period_includes_its_start_and_excludes_its_end(self) -> None:
        chain = [balance()]
        terms = chain[0].terms
        assert domain.balances.decide(chain, EntryType.CHARGE, Movement(spent=CENT), terms.starts)
        with pytest.raises(OutsidePeriod):
            domain.balances.decide(chain, EntryType.CHARGE, Movement(spent=CENT), terms.ends)

    @pytest.mark.parametrize("entry_type", [EntryType.COMMIT, EntryType.RELEASE, EntryType.EXPIRE, EntryType.REFUND])
    def test_entries_that_spend_nothing_are_accepted_after_the_period(self, entry_type: EntryType) -> None:
        chain = [balance(held="5")]
        assert domain.balances.decide(chain, entry_type, Movement(held=Decimal(-1)), chain[0].terms.ends)

    @pytest.mark.parametrize(("entry_type", "state"), list(product(RULES, BudgetState)))
    def test_each_state_accepts_its_entries_only(self, entry_type: EntryType, state: BudgetState) -> None:
        returns = {EntryType.RELEASE, EntryType.EXPIRE, EntryType.REFUND}
        accepted = {
            BudgetState.DRAFT: set(),
            BudgetState.ACTIVE: set(RULES),
            BudgetState.CLOSING: {EntryType.CHARGE, *returns},
            BudgetState.CLOSED: returns,
        }
        chain = [balance(state=state, held="5")]
        if entry_type in accepted[state]:
            assert domain.balances.decide(chain, entry_type, Movement(), NOW)
        else:
            with pytest.raises(BudgetStateForbids):
                domain.balances.decide(chain, entry_type, Movement(), NOW)

    def test_a_refund_is_accepted_however_overspent_the_budget_is(self) -> None:
        decision = domain.balances.decide([balance("100", "200")], EntryType.REFUND, Movement(spent=Decimal(-1)), NOW)
        assert decision.verdict is ChargeVerdict.ACCEPTED_OVERSPENT

    def test_another_currency_is_refused(self) -> None:
        with pytest.raises(CurrencyMismatch):
            domain.balances.check_currency(balance(), "USD")

    @given(
        st.lists(
            st.tuples(
                st.sampled_from([*OverspendPolicy]),
                st.integers(1, 100_000),
                *(st.integers(0, 40_000) for _ in range(3)),
                st.integers(-20_000, 20_000),
                st.integers(0, 10_000),
            ),
            min_size=1,
            max_size=5,
        ),
        st.integers(1, 150_000),
    )
    def test_a_chain_accepts_a_charge_exactly_if_each_of_its_budgets_does(
        self, budgets: list[tuple[OverspendPolicy, int, int, int, int, int, int]], cents: int
    ) -> None:
        """Compared with a model that calculates in whole cents."""
        chain = [
            balance(amount * CENT, spent * CENT, policy=policy, held=held * CENT, committed=committed * CENT,
                    carried=carried * CENT, tolerance_bp=bp)
            for policy, amount, spent, held, committed, carried, bp in budgets
        ]  # fmt: skip
        refusing, overspent = set(), False
        for policy, amount, spent, held, committed, carried, bp in budgets:
            used, total = spent + held + committed + cents, amount + carried
            overspent = overspent or used > total
            if policy is TOLERANT and used * 10_000 > total * (10_000 + bp):
                refusing.add(policy)
            if policy in {BLOCK, APPROVED} and used > total:
                refusing.add(policy)
        availability = domain.balances.availability(chain, cents * CENT, NOW)
        try:
            decision = charge(chain, cents * CENT)
        except ApprovalRequired as refused:
            assert refusing == {APPROVED}
            assert (availability.verdict, availability.binding) == (AvailabilityVerdict.APPROVAL_REQUIRED, refused.id)
        except BudgetExceeded as refused:
            assert refusing - {APPROVED}
            assert (availability.verdict, availability.binding) == (AvailabilityVerdict.EXCEEDED, refused.id)
        else:
            assert not refusing
            moved = [(after.spent - before.spent) / CENT for before, after in zip(chain, decision.after, strict=True)]
            assert moved == [cents] * len(chain)
            assert (decision.verdict is ChargeVerdict.ACCEPTED_OVERSPENT) == overspent
            assert (availability.verdict is AvailabilityVerdict.AVAILABLE_OVERSPENT) == overspent


class TestPolicies:
    def test_a_tolerance_can_be_used_to_its_last_cent(self) -> None:
        chain = [balance("100.01", "60", held="20", committed="20", policy=TOLERANT, tolerance_bp=500)]
        assert chain[0].limit == Decimal("105.01")  # 105.0105
        assert charge(chain, "5.01").verdict is ChargeVerdict.ACCEPTED_OVERSPENT
        with pytest.raises(BudgetExceeded) as refused:
            charge(chain, "5.02")
        assert (refused.value.metadata["available"], refused.value.metadata["short"]) == ("5.01", "0.01")

    def test_the_tolerance_includes_what_was_carried_forward(self) -> None:
        assert balance("100", carried="100", policy=TOLERANT, tolerance_bp=1000).limit == 220

    def test_a_budget_with_tolerance_is_not_overspent_within_its_amount(self) -> None:
        assert charge([balance("100", policy=TOLERANT, tolerance_bp=500)], "100").verdict is ChargeVerdict.ACCEPTED

    def test_an_overspend_requires_approval(self) -> None:
        chain = [balance("100", "90", policy=APPROVED)]
        assert charge(chain, "10").verdict is ChargeVerdict.ACCEPTED
        with pytest.raises(ApprovalRequired) as refused:
            charge(chain, "10.01")
        assert refused.value.metadata["short"] == "0.01"

    def test_approval_is_not_required_if_a_hard_limit_refuses_as_well(self) -> None:
        approval, hard = balance("100", "100", policy=APPROVED), balance("100", "95")
        with pytest.raises(BudgetExceeded) as refused:
            charge([approval, hard], "10")
        assert refused.value.id == hard.terms.id

    def test_a_budget_with_policy_warn_accepts_at_most_what_its_column_can_store(self) -> None:
        chain = [balance("1", LARGEST - 1, policy=WARN)]
        assert charge(chain, "1").verdict is ChargeVerdict.ACCEPTED_OVERSPENT
        with pytest.raises(UsedTooLarge):
            charge(chain, "1.01")

    @given(
        st.sampled_from([("EUR", 2), ("JPY", 0), ("BHD", 3)]), st.integers(1, 10**7), st.integers(0, 10_000),
        st.tuples(*[st.integers(0, 10**7)] * 3), st.integers(-(10**6), 10**6), st.sampled_from([BLOCK, TOLERANT]),
    )  # fmt: skip
    def test_the_trigger_of_the_database_agrees_with_the_limit(
        self, of: tuple[str, int], amount: int, bp: int, used: tuple[int, ...], carried: int, policy: OverspendPolicy
    ) -> None:
        """The trigger multiplies instead of rounding; for whole units of the currency both agree."""
        currency, places = of
        spent, held, committed = (Decimal(number).scaleb(-places) for number in used)
        whole, over = Decimal(amount).scaleb(-places), Decimal(carried).scaleb(-places)
        numbers = {"held": held, "committed": committed, "carried": over}
        budget = balance(whole, spent, policy=policy, tolerance_bp=bp, currency=currency, **numbers)
        allowed = 10_000 + (bp if policy is TOLERANT else 0)
        takes = sum(used) == 0 or sum(used) * 10_000 <= (amount + carried) * allowed
        assert budget.beyond_policy != takes


class TestAvailability:
    def test_the_tightest_budget_is_named_with_what_would_be_left(self) -> None:
        own, above = balance("1000"), balance("100", "50", held="10", name="Group")
        availability = domain.balances.availability([own, above], Decimal(40), NOW)
        assert (availability.verdict, availability.binding) == (AvailabilityVerdict.AVAILABLE, above.terms.id)
        assert availability.explanation == "It would be accepted; the budget 'Group' would have 0.00 EUR left."
        assert [left.available for left in availability.after] == [960, 0]

    def test_the_verdict_of_each_policy(self) -> None:
        over = balance("100", "105", tolerance_bp=500)
        assert domain.balances.by_policy(over) == {
            BLOCK: AvailabilityVerdict.EXCEEDED,
            WARN: AvailabilityVerdict.AVAILABLE_OVERSPENT,
            TOLERANT: AvailabilityVerdict.AVAILABLE_OVERSPENT,
            APPROVED: AvailabilityVerdict.APPROVAL_REQUIRED,
        }
        assert (
            domain.balances.by_policy(balance("100", "105.01", tolerance_bp=500))[TOLERANT]
            is AvailabilityVerdict.EXCEEDED
        )
        assert set(domain.balances.by_policy(balance("100", "100")).values()) == {AvailabilityVerdict.AVAILABLE}

    @pytest.mark.parametrize("policy", list(OverspendPolicy))
    @pytest.mark.parametrize("amount", ["1", "100", "100.01", "105", "105.01"])
    def test_the_verdict_of_its_own_policy_is_the_verdict(self, policy: OverspendPolicy, amount: str) -> None:
        availability = domain.balances.availability(
            [balance("100", policy=policy, tolerance_bp=500)], Decimal(amount), NOW
        )
        assert availability.by_policy[policy] is availability.verdict


class TestAlertThresholds:
    def test_a_threshold_is_reached_at_its_amount_and_not_a_cent_below(self) -> None:
        at_80 = AlertThreshold(AlertType.THRESHOLD, 8000)
        assert at_80 not in domain.alerts.reached(balance("90", "50", held="20", committed="9.99", carried="10"))
        assert at_80 in domain.alerts.reached(balance("90", "50", held="20", committed="10", carried="10"))

    def test_overspending_is_a_threshold_of_its_own(self) -> None:
        overspent = AlertThreshold(AlertType.OVERSPEND, 10000)
        assert overspent not in domain.alerts.reached(balance("100", "100"))
        assert overspent in domain.alerts.reached(balance("100", "100.01", policy=WARN))

    def test_a_budget_with_a_total_below_zero_has_reached_every_threshold_even_if_it_is_unused(self) -> None:
        assert domain.alerts.reached(balance("100", carried="-100")) == set()
        for used in ("0", CENT):
            reached = domain.alerts.reached(balance("100", used, carried="-150"))
            assert len(reached) == len(THRESHOLDS_DEFAULT_BP) + 1

    @given(
        st.integers(1, 20_000), st.integers(-5_000, 5_000), st.integers(0, 30_000), st.integers(0, 30_000),
        st.lists(st.integers(1, 100_000), max_size=6, unique=True),
    )  # fmt: skip
    def test_within_the_quiet_range_no_threshold_is_crossed(
        self, amount: int, carried: int, used: int, later: int, thresholds: list[int]
    ) -> None:
        def at(cents: int) -> Balance:
            return balance(amount * CENT, cents * CENT, carried=carried * CENT, thresholds_bp=sorted(thresholds))

        low, high = domain.balances.quiet_range(at(used))
        if low <= later * CENT < high:
            assert domain.alerts.reached(at(later)) == domain.alerts.reached(at(used))
            assert at(later).overspent == at(used).overspent
            assert not at(used).available > 0 >= at(later).available  # it is not exhausted within the range either

    def test_the_quiet_range_is_as_wide_as_possible(self) -> None:
        assert domain.balances.quiet_range(balance("100", "60")) == (Decimal(50), Decimal(80))
        assert domain.balances.quiet_range(balance("100", "85")) == (Decimal(80), Decimal(90))
        assert domain.balances.quiet_range(balance("100", "120", thresholds_bp=[5000, 15000])) == (
            Decimal(120),
            Decimal(150),
        )
