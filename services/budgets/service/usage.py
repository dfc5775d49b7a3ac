"""Usage: allocated costs are charged to the budgets they belong to, each once; what no budget takes is recorded.

An allocation has one key, whoever hears of it and however often. What is done about it is kept under that key in the
same transaction: a budget is charged, or the cost is recorded as unbudgeted, or it was taken back before it came. Who
comes second finds that it is done.
"""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final
from uuid import UUID

from prometheus_client import Counter

from eventing import outbox
from kit import clock, ids
from kit.batching import Batcher
from kit.db import Database, WriteSession
from kit.errors import BillingError, Conflict, FailedPrecondition, IdempotencyMismatch
from kit.origin import Origin
from kit.settings import Settings
from services.budgets import convert, domain, events, store
from services.budgets.domain.entries import EntryType
from services.budgets.domain.usage import NO_BUDGET, Candidate, Cost, Reversal
from services.budgets.errors.charges import RefundExceedsCharge
from services.budgets.models.unbudgeted import UnbudgetedRow
from services.budgets.service.moves import Line
from services.budgets.store.group import Engine, RequestKey
from services.budgets.store.keys import Kept
from services.budgets.store.usage import CALLED_OFF, Match, Unbudgeted

if TYPE_CHECKING:  # the ledger imports service.moves
    from services.budgets.ledger import Ledger

ALLOCATED: Final = "billing.entities.v1.CostAllocated"
REVERSED: Final = "billing.entities.v1.AllocationReversed"
"""Under these names the keys are kept."""

UNBUDGETED = Counter("billing_unbudgeted_spend", "Allocated costs that no budget took, by reason.", ("reason",))


def _key(allocation_id: UUID) -> str:
    return f"allocation:{ids.ALLOCATION.format(allocation_id)}"


class Usage:
    """Charges allocated costs, and gives back those that are reversed."""

    def __init__(self, settings: Settings, db: Database, ledger: "Ledger") -> None:
        self._db = db
        self._ledger = ledger
        self._engines = Engine(settings), Engine(settings)
        self._matches = Batcher[tuple[RequestKey, Cost], Match](self._match)
        self._records = Batcher[Unbudgeted, bool](self._record)

    async def charge(self, origin: Origin, cost: Cost) -> None:
        """Charge the budget that fits the cost best, or record that none took it; done before, it does nothing.

        Raises IdempotencyMismatch where the allocation was another cost before, and what passes: Unavailable,
        DeadlineExceeded, Conflict or Overloaded.
        """
        request = origin.tenant_id, ALLOCATED, _key(cost.allocation_id)
        match = await self._matches.submit(origin.tenant_id, (request, cost))
        if match.kept:
            if match.kept.fingerprint != CALLED_OFF:
                _check_same(match.kept, cost.digest, request)
            return
        budget = domain.usage.budget_for(cost, match.candidates)
        try:
            refusal = await self._refused(origin, cost, budget, request) if budget else None
        except IdempotencyMismatch:
            await self.charge(origin, cost)  # something else was done about it at this very moment: now it is found
            return
        if budget is None or refusal:
            row = _unbudgeted(origin, cost, budget, refusal)
            event = outbox.new_row(origin, events.published.unbudgeted_spend_recorded(row))
            if await self._records.submit(origin.tenant_id, Unbudgeted(request, cost.digest, row, event)):
                UNBUDGETED.labels(row.reason).inc()

    async def _refused(
        self, origin: Origin, cost: Cost, budget: Candidate, request: RequestKey
    ) -> FailedPrecondition | None:
        """Charge the budget; gives why it would not take the cost."""
        line = Line(
            origin=origin,
            entry_type=EntryType.CHARGE,
            budget_id=budget.id,
            amount=cost.amount,
            request=request,
            fingerprint=cost.digest,
            description=cost.description,
            reference=ids.ALLOCATION.format(cost.allocation_id),
            charge_time=domain.usage.charge_time(cost.day, budget.time_zone),
            answer=convert.movements.charge_to_proto,
        )
        (outcome,) = await self._ledger.submit([line])
        if isinstance(outcome, FailedPrecondition):
            return outcome
        if isinstance(outcome, BillingError):
            raise outcome
        return None

    async def give_back(self, origin: Origin, reversal: Reversal) -> None:
        """Give back what was charged for an allocation, or take back that it is unbudgeted; done before, nothing.

        Of an allocation that was not heard of yet nothing will be charged. Raises as `charge`.
        """
        key = _key(reversal.reversed_id)
        async with self._db.write(origin) as tx:
            kept = await store.keys.find_kept(tx, ALLOCATED, key)
            if kept is None and not await store.keys.keep(tx, ALLOCATED, key, CALLED_OFF):
                kept = await store.keys.find_kept(tx, ALLOCATED, key)  # it was heard of at this very moment
            if kept and not kept.reply and kept.fingerprint != CALLED_OFF:
                await _take_back(tx, reversal)
        if kept and kept.reply:
            await self._refund(origin, reversal, kept)

    async def _refund(self, origin: Origin, reversal: Reversal, kept: Kept) -> None:
        budget_id, charge_id = convert.usage.charge_from_reply(kept.reply)
        line = Line(
            origin=origin,
            entry_type=EntryType.REFUND,
            budget_id=budget_id,
            charge_id=charge_id,
            request=(origin.tenant_id, REVERSED, _key(reversal.reversed_id)),
            fingerprint=reversal.digest,
            description=reversal.reason,
            reference=ids.ALLOCATION.format(reversal.allocation_id),
            answer=convert.movements.refund_to_proto,
        )
        (outcome,) = await self._ledger.submit([line])
        if isinstance(outcome, BillingError) and not isinstance(outcome, RefundExceedsCharge):
            raise outcome  # but for that: all of it was refunded by hand before

    async def _match(self, asked: Sequence[tuple[RequestKey, Cost]]) -> Sequence[Match]:
        async with self._engines[0].begin({request[0] for request, _ in asked}) as group:
            return await store.usage.match(group, asked)

    async def _record(self, spends: Sequence[Unbudgeted]) -> Sequence[bool]:
        async with self._engines[1].begin({spend.request[0] for spend in spends}) as group:
            recorded = await store.usage.record(group, spends)
        if recorded:
            self._db.appended.set()
        return [spend.row.id in recorded for spend in spends]

    async def run(self) -> None:
        """Until cancelled: lets the connections go at the end."""
        try:
            await asyncio.Event().wait()
        finally:
            await self._matches.close()
            await self._records.close()
            for engine in self._engines:
                await engine.close()


async def _take_back(tx: WriteSession, reversal: Reversal) -> None:
    """Follow the row of an unbudgeted allocation by one of the opposite amount."""
    key = _key(reversal.reversed_id)
    done = await store.keys.find_kept(tx, REVERSED, key)
    if done:
        _check_same(done, reversal.digest, (tx.tenant_id, REVERSED, key))
        return
    if not await store.keys.keep(tx, REVERSED, key, reversal.digest):
        raise Conflict
    taken = await store.usage.get_unbudgeted(tx, reversal.reversed_id)
    row = UnbudgetedRow(
        id=ids.new(),
        allocation_id=reversal.allocation_id,
        reversed_allocation_id=taken.allocation_id,
        entity_id=taken.entity_id,
        department_id=taken.department_id,
        category=taken.category,
        gl_code=taken.gl_code,
        amount=-taken.amount,
        currency_code=taken.currency_code,
        allocation_date=taken.allocation_date,  # as its refund would go to the budget of that day
        reason=taken.reason,
        detail=reversal.reason,
        budget_id=taken.budget_id,
        create_time=clock.now(),
    )
    tx.add(row)
    outbox.append(tx, events.published.unbudgeted_spend_recorded(row))


def _check_same(kept: Kept, fingerprint: bytes, request: RequestKey) -> None:
    if kept.fingerprint != fingerprint:
        raise IdempotencyMismatch(request[2])


def _unbudgeted(
    origin: Origin, cost: Cost, budget: Candidate | None, refusal: FailedPrecondition | None
) -> UnbudgetedRow:
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
        detail=refusal.message if refusal else f"No active budget fits it on {cost.day}.",
        budget_id=budget.id if budget else None,
        create_time=clock.now(),
    )
