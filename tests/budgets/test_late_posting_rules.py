"""Random postings on a series of periods: carried and spent equal a recomputation from all of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from kit import ids
from kit.money import Money
from services.budgets.domain.balances import Balance
from services.budgets.domain.budgets import BudgetState, OverspendPolicy, Rollover
from services.budgets.domain.entries import EntryType, LedgerSums
from services.budgets.domain.late_postings import RolledOver
from services.budgets.domain.postings import Key
from services.budgets.domain.refunds import Charged
from services.budgets.domain.verification import verify
from services.budgets.ledger.posting import PostingBatch, Submission
from services.budgets.ledger.store import LedgerSnapshot
from tests.budgets.test_domain import NOW, balance
from tests.budgets.test_posting import CODEC, ORIGIN, TENANT, request

AMOUNT = 1000
POLICIES = st.sampled_from([OverspendPolicy.BLOCK, OverspendPolicy.WARN])
AMOUNTS = st.integers(1, 700)


@dataclass(frozen=True, slots=True)
class Terms:
    """Terms of the rollover of a period."""

    rollover: Rollover
    cap: int
    carry_overspend: bool

    def carries(self, rest: int) -> int:
        """Return the amount that is carried forward to the next period."""
        if rest < 0:
            return rest if self.carry_overspend else 0
        return {Rollover.NONE: 0, Rollover.CAPPED: min(rest, self.cap), Rollover.FULL: rest}[self.rollover]


TERMS = st.builds(Terms, st.sampled_from(Rollover), st.integers(1, 1500), st.booleans())
POSTINGS = st.lists(st.tuples(st.integers(0, 3), AMOUNTS, st.booleans()), max_size=25)


def recomputed(terms: Sequence[Terms], spent: Sequence[int]) -> list[tuple[int, int]]:
    """Return what each period receives and carries forward, the last of which is open."""
    received, result = 0, []
    for each, used in zip(terms, spent, strict=False):
        forwarded = each.carries(AMOUNT + received - used)
        result.append((received, forwarded))
        received = forwarded
    return [*result, (received, 0)]


class Series:
    """Periods of one budget, of which all but the last were rolled over; each posting is a batch of its own."""

    def __init__(self, policy: OverspendPolicy, terms: Sequence[Terms], spent: Sequence[int]) -> None:
        self.policy, self.terms, self.spent = policy, terms, [*spent]
        carried = recomputed(terms, spent)
        states = [BudgetState.CLOSING] * len(terms) + [BudgetState.ACTIVE]
        budgets = [
            balance(Decimal(AMOUNT), Decimal(used), tenant_id=TENANT, id=ids.new(), policy=policy, state=state,
                    carried=received - forwarded)
            for used, state, (received, forwarded) in zip(spent, states, carried, strict=True)
        ]  # fmt: skip
        self.keys: list[Key] = [(TENANT, each.terms.id) for each in budgets]
        self.balances: dict[Key, Balance] = dict(zip(self.keys, budgets, strict=True))
        self.opening = dict(self.balances)
        self.received = [Decimal(received) for received, _ in carried]
        self.forwarded = [Decimal(forwarded) for _, forwarded in carried]
        self.rollovers = {
            key: RolledOver(
                self.keys[number + 1][1], each.rollover, Decimal(each.cap), each.carry_overspend,
                self.forwarded[number], Decimal(0), Decimal(AMOUNT),
            )
            for number, (key, each) in enumerate(zip(self.keys, terms, strict=False))
        }  # fmt: skip
        self.charges: dict[Key, Charged] = {}
        self.counts = [3] * len(self.keys)

    def post(self, number: int, amount: int, *, refund: bool) -> None:
        """Post to a period and check the outcome against the recomputation."""
        budget = self.balances[self.keys[number]]
        posting = request(budget, str(amount))
        signed = amount
        if refund:
            charge = next((each for each in self.charges.values() if each.budget_id == budget.terms.id), None)
            left = charge.amount.amount - charge.refunded if charge else 0
            if charge is None or not left:
                return
            signed = -min(amount, int(left))
            posting = request(budget, str(-signed), entry_type=EntryType.REFUND, charge_id=charge.id)
        snapshot = LedgerSnapshot(
            dict(self.balances), dict.fromkeys(self.keys, ()), {}, NOW, rollovers=dict(self.rollovers)
        )
        batch = PostingBatch(snapshot, {}, dict(self.charges), CODEC)
        (outcome,) = batch.post(Submission(ORIGIN, [posting]))
        spent = [used + signed * (each == number) for each, used in enumerate(self.spent)]
        assert isinstance(outcome, bytes) == self._has_room(number, spent, charge=not refund)
        if isinstance(outcome, bytes):
            self.spent = spent
            self._take(batch, number)
        self.check()

    def _has_room(self, number: int, spent: Sequence[int], *, charge: bool) -> bool:
        if self.policy is OverspendPolicy.WARN or not charge:
            return True
        before, after = recomputed(self.terms, self.spent), recomputed(self.terms, spent)
        for each in range(number, len(spent)):
            total_before, total = (AMOUNT + carried[each][0] - carried[each][1] for carried in (before, after))
            if spent[each] > max(total, 0) and (each == number or total < total_before):
                return False
        return True

    def _take(self, batch: PostingBatch, number: int) -> None:
        state: Any = batch._state
        self.balances, self.rollovers, self.charges = state.balances, state.rollovers, state.charges
        for entry in state.entries:
            position = self.keys.index((TENANT, entry.budget_id))
            self.counts[position] += 1
            assert entry.chain[0].version == self.counts[position]
            if entry.entry_type is EntryType.ROLLOVER_IN:
                self.received[position] += entry.moved_amount
            elif entry.entry_type is EntryType.ROLLOVER_OUT:
                self.forwarded[position] -= entry.moved_amount
            elif entry.entry_type is EntryType.CHARGE:
                amount = Money(entry.amount, "EUR")
                self.charges[TENANT, entry.id] = Charged(
                    entry.id, entry.budget_id, entry.entry_type, amount, amount, Decimal(0), Decimal(0)
                )

    def check(self) -> None:
        """Compare balances and ledgers of all periods with the recomputation; each is verified."""
        for number, (received, forwarded) in enumerate(recomputed(self.terms, self.spent)):
            key = self.keys[number]
            row, rolled_over = self.balances[key], self.rollovers.get(key)
            assert [row.spent, row.carried] == [self.spent[number], received - forwarded]
            assert [self.received[number], self.forwarded[number]] == [received, forwarded]
            assert (rolled_over.carried if rolled_over else 0) == forwarded
            sums = LedgerSums(
                opening=Decimal(AMOUNT), amount=self.received[number] - self.forwarded[number], spent=row.spent,
                held=Decimal(0), committed=Decimal(0), captured=Decimal(0), entries=self.counts[number],
                carried_in=self.received[number], carried_out=self.forwarded[number],
                received_by_next=self.received[number + 1] if rolled_over else Decimal(0), open_holds=Decimal(0),
            )  # fmt: skip
            assert verify(row, rolled_over, sums).verified
            assert not verify(row._replace(carried=row.carried + 1), rolled_over, sums).verified
            if rolled_over:
                assert not verify(row, rolled_over._replace(carried=rolled_over.carried + 1), sums).verified


@given(policy=POLICIES, terms=st.lists(TERMS, min_size=1, max_size=3), data=st.data(), postings=POSTINGS)
def test_carried_and_spent_equal_a_recomputation_after_random_late_postings(
    policy: OverspendPolicy, terms: list[Terms], data: st.DataObject, postings: list[tuple[int, int, bool]]
) -> None:
    spent = data.draw(st.lists(st.integers(0, AMOUNT), min_size=len(terms) + 1, max_size=len(terms) + 1))
    if policy is OverspendPolicy.BLOCK:
        terms = [Terms(each.rollover, each.cap, carry_overspend=False) for each in terms]
    series = Series(policy, terms, spent)
    series.check()
    for number, amount, refund in postings:
        series.post(number % len(series.keys), amount, refund=refund)
