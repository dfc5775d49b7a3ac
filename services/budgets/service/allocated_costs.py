"""Allocated costs: each is charged once to the budget it belongs to; what no budget accepts is recorded.

An allocation has one idempotency key, however often its event arrives. Its outcome is stored under that key in the
same transaction: a budget is charged, the cost is recorded as unbudgeted, or it was reversed before it arrived.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final
from uuid import UUID

from prometheus_client import Counter

from eventing import outbox
from kit import clock, idempotency, ids
from kit.batching import Batcher
from kit.db import Database, WriteSession
from kit.errors import BillingError, Conflict, DeadlineExceeded, IdempotencyMismatch, Overloaded, Unavailable
from kit.money import Money
from kit.origin import Origin
from kit.settings import Settings
from services.budgets import domain, events, store
from services.budgets.domain.allocated_costs import NO_BUDGET, Candidate, Cost, CostAttributes, Credit, Reversal
from services.budgets.domain.entries import EntryType
from services.budgets.domain.postings import PostingRequest, RequestKey
from services.budgets.errors.budgets import OwnerNotFound
from services.budgets.errors.charges import RefundExceedsCharge
from services.budgets.ledger import Ledger, LedgerConnection
from services.budgets.models.budgets import BudgetRow
from services.budgets.models.unbudgeted import UnbudgetedRow
from services.budgets.store.allocated_costs import Match, Unbudgeted
from services.budgets.store.idempotency import CANCELLED, StoredReply

ALLOCATED: Final = "billing.entities.v1.CostAllocated"
REVERSED: Final = "billing.entities.v1.AllocationReversed"
CREDITED: Final = "billing.entities.v1.AllocationCredited"
"""The methods under which the keys are stored."""

UNBUDGETED = Counter("billing_unbudgeted_spend", "Allocated costs that no budget accepted, by reason.", ("reason",))


_RETRIED: Final = (IdempotencyMismatch, Conflict, Overloaded, Unavailable, DeadlineExceeded)
"""Errors that may pass, or that another attempt at the same moment explains; all others are why a budget refuses."""
FAILED: Final = "FAILED"
"""Reason of unbudgeted spend whose event became a dead letter."""


def _key(allocation_id: UUID) -> str:
    return f"allocation:{ids.ALLOCATION.format(allocation_id)}"


@dataclass(frozen=True, slots=True)
class BudgetPreview:
    """The budget that a cost would be charged to."""

    budget: BudgetRow | None
    """None if no budget fits, or if the caller may not see it."""
    explanation: str
    matches: Sequence[tuple[BudgetRow, str]]
    """All budgets that fit and that the caller may see, with an explanation, in order of preference."""


class AllocatedCosts:
    """Charges allocated costs to budgets, and refunds those that are reversed or credited."""

    def __init__(self, settings: Settings, db: Database, ledger: Ledger) -> None:
        self._db = db
        self._ledger = ledger
        self._connections = LedgerConnection(settings), LedgerConnection(settings)
        self._matches = Batcher[tuple[RequestKey, CostAttributes], Match](self._match)
        self._records = Batcher[Unbudgeted, bool](self._record)

    async def preview(self, origin: Origin, cost: CostAttributes) -> BudgetPreview:
        """Return the budget that a cost would be charged to.

        Raises OwnerNotFound if the caller may not see the department of the cost, or its entity.
        """
        if origin.scope and not origin.scope.covers(cost.entity_id, cost.department_id):
            raise OwnerNotFound.of(cost.entity_id, cost.department_id)
        no_key = origin.tenant_id, ALLOCATED, ""  # nothing is stored under it
        match = await self._matches.submit(origin.tenant_id, (no_key, cost))
        fitting = domain.allocated_costs.ranked(cost, match.candidates)
        async with self._db.read(origin) as tx:
            visible = await store.budgets.list_by_ids(tx, [candidate.id for candidate in fitting])
        matches = [
            (visible[each.id], domain.allocated_costs.explain(cost, each, fitting))
            for each in fitting
            if each.id in visible
        ]
        if not fitting:
            return BudgetPreview(
                None, f"No budget that accepts charges fits it on {cost.day}; it would be unbudgeted spend.", matches
            )
        if fitting[0].id not in visible:
            return BudgetPreview(None, "It would be charged to a budget that you may not see.", matches)
        return BudgetPreview(*matches[0], matches)

    async def charge(self, origin: Origin, cost: Cost) -> None:
        """Charge the budget that fits the cost best, or record that none accepted it. Has no effect if done before.

        Raises IdempotencyMismatch if the allocation had other contents before, and transient errors: Unavailable,
        DeadlineExceeded, Conflict or Overloaded.
        """
        request = origin.tenant_id, ALLOCATED, _key(cost.allocation_id)
        match = await self._matches.submit(origin.tenant_id, (request, cost))
        if match.stored:
            if match.stored.fingerprint != CANCELLED:
                _check_same(match.stored, cost.digest, request[2])
            return
        budget = domain.allocated_costs.budget_for(cost, match.candidates)
        try:
            refusal = await self._post(origin, cost, budget, request) if budget else None
        except IdempotencyMismatch:
            await self.charge(origin, cost)  # the key was used at the same moment: the next lookup finds it
            return
        if budget is None or refusal:
            row = _unbudgeted(origin, cost, budget, refusal)
            event = outbox.new_row(origin, events.published.unbudgeted_spend_recorded(row))
            if await self._records.submit(origin.tenant_id, Unbudgeted(request, cost.digest, row, event)):
                UNBUDGETED.labels(row.reason).inc()

    async def _post(self, origin: Origin, cost: Cost, budget: Candidate, request: RequestKey) -> BillingError | None:
        """Charge a budget. Return why it refused the cost, or None."""
        posting = PostingRequest(
            entry_type=EntryType.CHARGE,
            budget_id=budget.id,
            amount=cost.amount,
            request_key=request,
            fingerprint=cost.digest,
            description=cost.description,
            reference=ids.ALLOCATION.format(cost.allocation_id),
            charge_time=domain.allocated_costs.charge_time(cost.day, budget.time_zone),
        )
        (outcome,) = await self._ledger.post_many(origin, [posting])
        if isinstance(outcome, _RETRIED):
            raise outcome
        return outcome if isinstance(outcome, BillingError) else None

    async def reverse(self, origin: Origin, reversal: Reversal) -> None:
        """Refund the charge of an allocation, or reverse its unbudgeted spend. Has no effect if done before.

        An allocation that has not arrived yet will have no effect. Raises the same errors as `charge`.
        """
        key = _key(reversal.reversed_id)
        async with self._db.write(origin) as tx:
            stored = await store.idempotency.claim_or_find(tx, ALLOCATED, key, CANCELLED)
            if stored and not stored.reply and stored.fingerprint != CANCELLED:
                await _reverse_unbudgeted(tx, reversal)
        if stored and stored.reply:
            request = origin.tenant_id, REVERSED, key
            await self._refund(origin, reversal, stored.reply, request, None)

    async def credit(self, origin: Origin, credit: Credit) -> None:
        """Refund a part of the charge of an allocation, or reduce its unbudgeted spend. Has no effect if done before.

        Never more than what is left is refunded. Raises Conflict if the allocation has not arrived yet, and the same
        errors as `charge`.
        """
        async with self._db.write(origin) as tx:
            stored = await store.idempotency.find(tx, ALLOCATED, _key(credit.credited_id))
            if stored is None:
                raise Conflict
            if not stored.reply and stored.fingerprint != CANCELLED:
                await _credit_unbudgeted(tx, credit)
        if stored.reply:
            request = origin.tenant_id, CREDITED, _key(credit.allocation_id)
            await self._refund(origin, credit, stored.reply, request, credit.amount)

    async def _refund(
        self, origin: Origin, correction: Reversal | Credit, reply: bytes, request: RequestKey, amount: Money | None
    ) -> None:
        """Refund an amount of a charge, or all that is left of it (None)."""
        budget_id, charge_id = self._ledger.codec.replies.ids_from_reply(EntryType.CHARGE, reply)
        posting = PostingRequest(
            entry_type=EntryType.REFUND,
            budget_id=budget_id,
            charge_id=charge_id,
            amount=amount,
            request_key=request,
            fingerprint=correction.digest,
            description=correction.reason,
            reference=ids.ALLOCATION.format(correction.allocation_id),
        )
        (outcome,) = await self._ledger.post_many(origin, [posting])
        if isinstance(outcome, RefundExceedsCharge):  # a user has refunded a part or all of the charge before
            if amount is not None:
                await self._refund(origin, correction, reply, request, None)
        elif isinstance(outcome, BillingError):
            raise outcome

    async def _match(self, costs: Sequence[tuple[RequestKey, CostAttributes]]) -> Sequence[Match]:
        async with self._connections[0].begin({request[0] for request, _ in costs}) as transaction:
            return await store.allocated_costs.match(transaction, costs)

    async def _record(self, spends: Sequence[Unbudgeted]) -> Sequence[bool]:
        async with self._connections[1].begin({spend.request[0] for spend in spends}) as transaction:
            recorded = await store.allocated_costs.record(transaction, spends)
        if recorded:
            self._db.appended.set()
        return [spend.row.id in recorded for spend in spends]

    async def run(self) -> None:
        """Run until cancelled, then close the connections."""
        try:
            await asyncio.Event().wait()
        finally:
            await self._matches.close()
            await self._records.close()
            for connection in self._connections:
                await connection.close()


async def record_failed(tx: WriteSession, cost: Cost) -> None:
    """Record a cost whose event became a dead letter as unbudgeted spend, unless something was done about it."""
    if await store.idempotency.claim(tx, ALLOCATED, _key(cost.allocation_id), cost.digest):
        row = _unbudgeted(tx.origin, cost, None, None)
        row.reason, row.detail = FAILED, "It could not be processed; see the dead letters of the budgets service."
        await store.allocated_costs.insert(tx, row)
        outbox.append(tx, events.published.unbudgeted_spend_recorded(row))
        UNBUDGETED.labels(FAILED).inc()


async def _reverse_unbudgeted(tx: WriteSession, reversal: Reversal) -> None:
    """Insert a row with the opposite of what is left of an unbudgeted allocation, once."""
    if await _is_new(tx, REVERSED, _key(reversal.reversed_id), reversal.digest):
        spend, left = await store.allocated_costs.lock_unbudgeted(tx, reversal.reversed_id)
        if left:
            await _correct_unbudgeted(tx, reversal, spend, left)


async def _credit_unbudgeted(tx: WriteSession, credit: Credit) -> None:
    """Insert a row that reduces an unbudgeted allocation, once."""
    if await _is_new(tx, CREDITED, _key(credit.allocation_id), credit.digest):
        spend, left = await store.allocated_costs.lock_unbudgeted(tx, credit.credited_id)
        if left:
            await _correct_unbudgeted(tx, credit, spend, min(credit.amount.amount, left))


async def _is_new(tx: WriteSession, method: str, key: str, digest: bytes) -> bool:
    """Claim the key of a correction; return False if it was made before. Raises IdempotencyMismatch or Conflict."""
    stored = await store.idempotency.find(tx, method, key)
    if stored:
        _check_same(stored, digest, key)
        return False
    if not await store.idempotency.claim(tx, method, key, digest):
        raise Conflict
    return True


async def _correct_unbudgeted(
    tx: WriteSession, correction: Reversal | Credit, spend: UnbudgetedRow, amount: Decimal
) -> None:
    reversal = isinstance(correction, Reversal)
    row = UnbudgetedRow(
        id=ids.new(),
        allocation_id=correction.allocation_id,
        reversed_allocation_id=spend.allocation_id if reversal else None,
        credited_allocation_id=None if reversal else spend.allocation_id,
        entity_id=spend.entity_id,
        department_id=spend.department_id,
        category=spend.category,
        gl_code=spend.gl_code,
        amount=-amount,
        currency_code=spend.currency_code,
        allocation_date=spend.allocation_date,  # a refund would go to the budget of that day as well
        reason=spend.reason,
        detail=correction.reason,
        budget_id=spend.budget_id,
        create_time=clock.now(),
    )
    await store.allocated_costs.insert(tx, row)
    outbox.append(tx, events.published.unbudgeted_spend_recorded(row))


def _check_same(stored: StoredReply, fingerprint: bytes, key: str) -> None:
    if error := idempotency.mismatch(stored.fingerprint, fingerprint, key):
        raise error


def _unbudgeted(origin: Origin, cost: Cost, budget: Candidate | None, refusal: BillingError | None) -> UnbudgetedRow:
    return UnbudgetedRow(
        tenant_id=origin.tenant_id,
        id=ids.new(),
        allocation_id=cost.allocation_id,
        entity_id=cost.entity_id,
        department_id=cost.department_id,
        category=cost.category,
        gl_code=cost.gl_code,
        amount=cost.amount.amount,
        currency_code=cost.amount.currency,
        allocation_date=cost.day,
        reason=refusal.reason if refusal else NO_BUDGET,
        detail=refusal.message if refusal else f"No budget that accepts charges fits it on {cost.day}.",
        budget_id=budget.id if budget else None,
        create_time=clock.now(),
    )
