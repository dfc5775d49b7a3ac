"""A batch in memory: requests are applied in order, and an atomic submission that is refused leaves no trace."""

from dataclasses import fields
from typing import Any
from uuid import uuid4

import pytest

from kit.errors import IdempotencyMismatch
from kit.money import Money
from kit.origin import Origin
from kit.telemetry import Trace
from services.budgets import convert, events
from services.budgets.domain.balances import Balance
from services.budgets.domain.entries import EntryType
from services.budgets.domain.holds import HoldDraft
from services.budgets.domain.postings import PostingRequest, Replayed
from services.budgets.errors.budgets import BudgetExceeded, CurrencyMismatch
from services.budgets.errors.charges import BatchRefused
from services.budgets.ledger import LedgerCodec
from services.budgets.ledger.posting import PostingBatch, Submission
from services.budgets.ledger.store import LedgerSnapshot
from tests.budgets.test_domain import NOW, balance

CODEC = LedgerCodec(events.published.ledger_event, convert.postings)
TENANT = uuid4()
ORIGIN = Origin(tenant_id=TENANT, actor="alice", trace=Trace.from_header(None), deadline=0)


def batch_of(*budgets: Balance) -> PostingBatch:
    """Return a batch of budgets without parents."""
    keys = [(TENANT, budget.terms.id) for budget in budgets]
    snapshot = LedgerSnapshot(dict(zip(keys, budgets, strict=True)), dict.fromkeys(keys, ()), {}, NOW)
    return PostingBatch(snapshot, {}, {}, CODEC)


def budget_of(amount: str) -> Balance:
    return balance(amount, tenant_id=TENANT)


def request(
    budget: Balance, amount: str, key: str = "", entry_type: EntryType = EntryType.CHARGE, **given: Any
) -> PostingRequest:
    return PostingRequest(
        entry_type=entry_type,
        budget_id=budget.terms.id,
        amount=Money.parse(amount, "EUR"),
        request_key=(TENANT, "Charge", key or uuid4().hex),
        fingerprint=b"same",
        hold=HoldDraft() if entry_type is EntryType.HOLD else None,
        **given,
    )


def state_of(batch: PostingBatch) -> dict[str, Any]:
    """Return a copy of everything that the batch would write or that later requests depend on."""
    return {field.name: getattr(batch._state, field.name).copy() for field in fields(batch._state)}


def one_by_one(batch: PostingBatch, *requests: PostingRequest) -> list[Any]:
    return [batch.post(Submission(ORIGIN, [each]))[0] for each in requests]


class TestOrder:
    def test_each_request_is_decided_on_the_balances_after_those_before_it(self) -> None:
        budget = budget_of("100")
        outcomes = one_by_one(
            batch_of(budget), request(budget, "60"), request(budget, "41"), request(budget, "40"), request(budget, "1")
        )
        assert [type(outcome) for outcome in outcomes] == [bytes, BudgetExceeded, bytes, BudgetExceeded]

    def test_a_key_that_was_used_in_the_batch_is_replayed(self) -> None:
        budget = budget_of("100")
        batch, first = batch_of(budget), request(budget, "60", "k")
        other = request(budget, "60", "k")
        other.fingerprint = b"another"
        reply, replayed, refused = one_by_one(batch, first, request(budget, "60", "k"), other)
        assert replayed == Replayed(reply)
        assert isinstance(refused, IdempotencyMismatch)
        assert batch.refused == set()

    def test_keys_of_refused_requests_are_looked_up_again(self) -> None:
        budget = budget_of("100")
        batch = batch_of(budget)
        one_by_one(batch, request(budget, "101", "k1"), request(budget, "10", "k2"))
        assert batch.refused == {(TENANT, "Charge", "k1")}


class TestAtomic:
    @pytest.mark.parametrize("before", [(), ("30",)])
    def test_a_refused_submission_leaves_no_trace(self, before: tuple[str, ...]) -> None:
        first, second = budget_of("100"), budget_of("10")
        batch = batch_of(first, second)
        one_by_one(batch, *(request(first, amount) for amount in before))
        saved = state_of(batch)
        requests = [
            request(first, "60", "k1"),  # crosses a threshold
            request(second, "10", "k2"),  # exhausts its budget
            request(first, "5", "k3", EntryType.HOLD),
            request(first, "10", "k4"),  # too much
        ]
        requests[3].amount = Money.parse("100", "EUR")
        outcomes = batch.post(Submission(ORIGIN, requests, atomic=True))
        assert [type(outcome) for outcome in outcomes] == [BatchRefused] * 4
        (refused, *_) = outcomes
        assert isinstance(refused, BatchRefused)
        assert (refused.index, type(refused.refusal)) == (3, BudgetExceeded)
        assert state_of(batch) == saved
        assert batch.refused == {(TENANT, "Charge", key) for key in ("k1", "k2", "k3", "k4")}
        after = one_by_one(batch, *requests[:3])
        assert [type(outcome) for outcome in after] == [bytes] * 3
        assert batch.refused == {(TENANT, "Charge", "k4")}

    def test_an_accepted_submission_has_the_results_of_its_requests_one_by_one(self) -> None:
        budget = budget_of("100")
        requests = [request(budget, "50", "k1"), request(budget, "50", "k2")]
        together, apart = batch_of(budget), batch_of(budget)
        assert all(isinstance(outcome, bytes) for outcome in together.post(Submission(ORIGIN, requests, atomic=True)))
        one_by_one(apart, *requests)
        assert together._state.balances == apart._state.balances
        assert [alert.threshold_bp for alert, _ in together._state.raised.values()] == [5000, 8000, 9000, 10000]


class TestAlerts:
    def test_a_threshold_that_is_crossed_and_left_in_one_batch_raises_no_alert(self) -> None:
        budget = budget_of("100")
        batch = batch_of(budget)
        one_by_one(batch, request(budget, "60", "k", EntryType.HOLD))
        (hold,) = batch._state.holds.values()
        assert len(batch._state.raised) == 1
        release = PostingRequest(entry_type=EntryType.RELEASE, budget_id=None, hold_id=hold.id)
        assert one_by_one(batch, release) != []
        assert (batch._state.raised, batch._state.resolved) == ({}, {})


def test_an_amount_in_another_currency_is_refused_unless_it_was_converted() -> None:
    budget = budget_of("100")
    posting = request(budget, "1")
    posting.amount = Money.parse("1", "USD")
    (outcome,) = one_by_one(batch_of(budget), posting)
    assert isinstance(outcome, CurrencyMismatch)
