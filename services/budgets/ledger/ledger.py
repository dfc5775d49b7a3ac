"""Entry point of the ledger: post charges, holds, captures and refunds, and read balances.

    rpc, consumers, timers ──▶ Ledger ──▶ BulkSeparatingBatcher ──▶ posting.post, in one transaction per batch

Amounts in a foreign currency are converted before the transaction.
"""

import asyncio
from collections.abc import Collection, Coroutine, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any, Final
from uuid import UUID

from clients.rates import RateQuery, Rates
from kit import clock
from kit.batching import BulkSeparatingBatcher
from kit.cache import TtlCache
from kit.db import transaction_span
from kit.errors import BillingError
from kit.idempotency import Replay
from kit.money import Money
from kit.origin import Origin
from kit.rates import AmountTooLarge, RateMissing
from kit.settings import Settings
from services.budgets import domain
from services.budgets.domain.balances import Terms
from services.budgets.domain.entries import EntryType
from services.budgets.domain.postings import Key, PostingRequest, Replayed
from services.budgets.domain.rates import Conversion
from services.budgets.errors.budgets import CurrencyMismatch
from services.budgets.errors.charges import BatchRefused
from services.budgets.errors.rates import AmountTooSmall
from services.budgets.ledger import posting
from services.budgets.ledger.outcomes import LedgerCodec, PostingOutcome
from services.budgets.ledger.posting import Submission
from services.budgets.ledger.store import LedgerConnection, LedgerSnapshot

_CONVERTED: Final = {EntryType.CHARGE, EntryType.HOLD, EntryType.CAPTURE}
_FOREIGN_MAX: Final = 50_000
_SPAN: Final = {"db.system.name": "postgresql", "db.namespace": "budgets"}


class Ledger:
    """Posts to the ledger and reads balances, many concurrent requests in one transaction."""

    def __init__(self, settings: Settings, rates: Rates, codec: LedgerCodec, appended: asyncio.Event) -> None:
        """`appended` is set when a transaction has appended events to the outbox."""
        self._rates = rates
        self.codec = codec
        self._appended = appended
        write, write_bulk, read, read_bulk = self._connections = [LedgerConnection(settings) for _ in range(4)]
        reserve = settings.tenant_reserve
        self._postings = BulkSeparatingBatcher[Submission, Sequence[PostingOutcome]](
            partial(self._post, write), partial(self._post, write_bulk), reserve=reserve
        )
        self._reads = BulkSeparatingBatcher[Collection[Key], LedgerSnapshot](
            partial(self._read, read), partial(self._read, read_bulk), reserve=reserve
        )
        self._foreign_terms = TtlCache[Key, Terms](_FOREIGN_MAX)
        """Terms of budgets with foreign currency charges: the next charge is converted before it is posted."""

    async def post(self, origin: Origin, request: PostingRequest) -> bytes:
        """Post and return the reply. Raises the error of a refused request, or Replay if its key has a stored reply."""
        (outcome,) = await self.post_many(origin, [request])
        if isinstance(outcome, bytes):
            return outcome
        if isinstance(outcome, Replayed):
            raise Replay(outcome.reply)
        raise outcome

    async def post_many(
        self, origin: Origin, requests: Sequence[PostingRequest], *, atomic: bool = False
    ) -> Sequence[PostingOutcome]:
        """Post several requests and return their outcomes in order; all or none of them if `atomic`.

        Raises Overloaded.
        """
        if len(requests) > 1 and len({request.amount.currency for request in requests if request.amount}) > 1:
            # Before the first attempt, because a retry below would not keep the order of the requests.
            await self._remember_foreign(origin, requests)
        outcomes, unconverted = await self._submit(origin, requests, atomic=atomic)
        if not unconverted:
            return outcomes
        await self._remember_foreign(origin, requests)
        if atomic:
            return (await self._submit(origin, requests, atomic=True))[0]
        retried, _ = await self._submit(origin, [requests[index] for index in unconverted], atomic=False)
        for index, outcome in zip(unconverted, retried, strict=True):
            outcomes[index] = outcome
        return outcomes

    async def _submit(
        self, origin: Origin, requests: Sequence[PostingRequest], *, atomic: bool
    ) -> tuple[list[PostingOutcome], list[int]]:
        """Return the outcomes, and the indexes of requests that must be converted to the currency of their budget.

        A request that can't be converted is submitted, too, because its key may have a stored reply.
        """
        errors: dict[int, BillingError] = {}
        if self._foreign_terms:
            requests, errors = await self._convert_all(origin, requests)
        if len(requests) == 1 or atomic:
            outcomes = list(await self._post_part(origin, requests, atomic=atomic))
        else:
            outcomes = await self._post_parts(origin, requests)
        unconverted: list[int] = []
        for index in _currency_mismatches(outcomes):
            if index in errors:
                if atomic:
                    return [BatchRefused(index, errors[index])] * len(requests), []
                outcomes[index] = errors[index]
            elif requests[index].conversion is None and requests[index].entry_type in _CONVERTED:
                unconverted.append(index)
        return outcomes, unconverted

    async def _post_parts(self, origin: Origin, requests: Sequence[PostingRequest]) -> list[PostingOutcome]:
        """Post the requests in order, in several transactions if other tenants would wait for a long one."""
        size = self._postings.part_size(origin.tenant_id)
        parts = [requests[start : start + size] for start in range(0, len(requests), size)]
        posted = await asyncio.gather(*(self._post_part(origin, part, atomic=False) for part in parts))
        return [outcome for outcomes in posted for outcome in outcomes]

    def _post_part(
        self, origin: Origin, requests: Sequence[PostingRequest], *, atomic: bool
    ) -> Coroutine[Any, Any, Sequence[PostingOutcome]]:
        return self._postings.submit(origin.tenant_id, Submission(origin, requests, atomic), len(requests))

    async def _convert_all(
        self, origin: Origin, requests: Sequence[PostingRequest]
    ) -> tuple[Sequence[PostingRequest], dict[int, BillingError]]:
        """Return the requests, converted if the terms of their budgets are known, and the errors by index."""
        converted, errors = list(requests), dict[int, BillingError]()
        for index, request in enumerate(requests):
            try:
                converted[index] = await self._convert(origin, request)
            except (RateMissing, AmountTooSmall, AmountTooLarge) as error:
                errors[index] = error
        return converted, errors

    async def _convert(self, origin: Origin, request: PostingRequest) -> PostingRequest:
        amount = request.amount
        if amount is None or request.budget_id is None or request.entry_type not in _CONVERTED:
            return request
        terms = self._foreign_terms.get((origin.tenant_id, request.budget_id))
        if terms is None or amount.currency == terms.currency:
            return request
        conversion = await self._conversion(origin, amount, terms, request.charge_time or clock.now())
        return replace(request, conversion=conversion)

    async def _conversion(self, origin: Origin, amount: Money, terms: Terms, at: datetime) -> Conversion:
        days = domain.rates.days(terms, at)
        queries = [RateQuery(amount.currency, terms.currency, day) for day in days]
        of_day, of_plan = await self._rates.find(origin, queries)
        if of_day is None:
            raise RateMissing(amount.currency, to=terms.currency, on=days[0])
        return domain.rates.convert(amount, terms.currency, of_day, of_plan)

    async def convert(self, origin: Origin, amount: Money, terms: Terms, at: datetime) -> Money:
        """Return the amount in the currency of a budget. Raises RateMissing, AmountTooSmall or AmountTooLarge."""
        if amount.currency == terms.currency:
            return amount
        return (await self._conversion(origin, amount, terms, at)).amount

    async def _remember_foreign(self, origin: Origin, requests: Sequence[PostingRequest]) -> None:
        """Store the terms of budgets that are in another currency than the requested amount."""
        amounts = [(request.budget_id, request.amount) for request in requests if request.budget_id and request.amount]
        snapshot = await self.read(origin.tenant_id, {budget_id for budget_id, _ in amounts})
        for budget_id, amount in amounts:
            key = origin.tenant_id, budget_id
            balance = snapshot.balances.get(key)
            if balance and amount.currency != balance.terms.currency:
                self._foreign_terms.set(key, balance.terms)

    async def read(self, tenant_id: UUID, budget_ids: Collection[UUID]) -> LedgerSnapshot:
        """Return the committed state of these budgets and their ancestors; it may contain others of the same batch."""
        return await self._reads.submit(tenant_id, [(tenant_id, id) for id in budget_ids], len(budget_ids))

    async def _post(
        self, connection: LedgerConnection, submissions: Sequence[Submission]
    ) -> Sequence[Sequence[PostingOutcome]]:
        tenant_ids = {submission.origin.tenant_id for submission in submissions}
        with _spans([each.origin for each in submissions if each.origin.trace.sampled], len(submissions)):
            async with connection.begin(tenant_ids) as transaction:
                outcomes, appended = await posting.post(transaction, submissions, self.codec)
        if appended:
            self._appended.set()
        return outcomes

    async def _read(self, connection: LedgerConnection, reads: Sequence[Collection[Key]]) -> Sequence[LedgerSnapshot]:
        return [await connection.read({key for keys in reads for key in keys})] * len(reads)

    async def run(self) -> None:
        """Run until cancelled, then close the connections."""
        try:
            await asyncio.Event().wait()
        finally:
            await self._postings.close()
            await self._reads.close()
            for connection in self._connections:
                await connection.close()


def _spans(sampled: Sequence[Origin], size: int) -> AbstractContextManager[object]:
    """Record the transaction of a batch in the trace of each of its sampled callers."""
    if not sampled:
        return nullcontext()
    spans = ExitStack()
    for origin in sampled:
        spans.enter_context(transaction_span(origin.trace, {**_SPAN, "db.operation.batch.size": size}))
    return spans


def _currency_mismatches(outcomes: Sequence[PostingOutcome]) -> list[int]:
    """Return the indexes of requests that were refused because of the currency of their budget."""
    first = outcomes[0]
    if isinstance(first, BatchRefused):
        return [first.index] if isinstance(first.refusal, CurrencyMismatch) else []
    return [index for index, outcome in enumerate(outcomes) if isinstance(outcome, CurrencyMismatch)]
