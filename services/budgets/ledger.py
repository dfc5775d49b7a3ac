"""The door to the engine: who wants to move balances, or to look at them, comes here.

    rpc, events, timers ──▶ Ledger ──▶ Batcher ──▶ service.moves, in one transaction for all who came together

What is asked for in another currency than the budget's is converted before, outside of the transaction.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final
from uuid import UUID

from clients.rates import RateQuery, Rates
from kit import clock
from kit.batching import Batcher
from kit.errors import BillingError
from kit.idempotency import Replay
from kit.money import Money
from kit.origin import Origin
from kit.rates import RateMissing
from kit.settings import Settings
from services.budgets import domain, service
from services.budgets.domain.balances import Terms
from services.budgets.domain.entries import EntryType
from services.budgets.domain.rates import Conversion
from services.budgets.errors.budgets import CurrencyMismatch
from services.budgets.errors.charges import BatchRefused
from services.budgets.errors.rates import AmountTooSmall
from services.budgets.service.moves import Line, Message, Outcome, Replayed, Submission
from services.budgets.store.group import Engine, Found, Key

_CONVERTED: Final = {EntryType.CHARGE, EntryType.HOLD, EntryType.CAPTURE}
_REMEMBERED_MAX: Final = 50_000


class Ledger:
    """Moves balances in groups."""

    def __init__(self, settings: Settings, exchange: Rates, appended: asyncio.Event) -> None:
        """`appended` is set when a group may have appended events to the outbox."""
        self._exchange = exchange
        self._appended = appended
        self._engines = Engine(settings), Engine(settings)
        self._moves = Batcher[Submission, Sequence[Outcome]](self._move)
        self._looks = Batcher[tuple[UUID, Collection[UUID]], Found](self._look)
        self._abroad: OrderedDict[Key, Terms] = OrderedDict()
        """Budgets that were charged in other currencies than theirs: those are converted at once the next time."""

    async def move(self, line: Line) -> Message:
        """The answer to a line that was taken; raises its refusal, or Replay where it was answered before."""
        (outcome,) = await self.submit([line])
        if isinstance(outcome, BillingError):
            raise outcome
        if isinstance(outcome, Replayed):
            raise Replay(outcome.reply)
        return outcome

    async def submit(self, lines: Sequence[Line], *, atomic: bool = False) -> Sequence[Outcome]:
        """What came of each line, in their order; all of one tenant. Raises Overloaded."""
        if len(lines) > 1 and len({line.amount.currency for line in lines if line.amount}) > 1:
            await self._learn(lines)  # now: what is tried again below comes after the others of its budget
        outcomes, again = await self._submitted(lines, atomic=atomic)
        if not again:
            return outcomes
        await self._learn(lines)
        if atomic:
            return (await self._submitted(lines, atomic=True))[0]
        answered, _ = await self._submitted([lines[index] for index in again], atomic=False)
        for index, outcome in zip(again, answered, strict=True):
            outcomes[index] = outcome
        return outcomes

    async def _submitted(self, lines: Sequence[Line], *, atomic: bool) -> tuple[list[Outcome], list[int]]:
        """As submit, and which were not converted since nobody knew that their budget is in another currency.

        A line that can't be converted is submitted all the same: it may have been answered before.
        """
        sent, failed = await self._converted(lines) if self._abroad else (lines, {})
        outcomes = list(await self._moves.submit(lines[0].tenant_id, Submission(sent, atomic), len(sent)))
        again: list[int] = []
        for index in _in_another_currency(outcomes):
            if index in failed:
                told = BatchRefused(index, failed[index]) if atomic else failed[index]
                outcomes = [told] * len(lines) if atomic else [*outcomes[:index], told, *outcomes[index + 1 :]]
            elif sent[index].conversion is None and sent[index].entry_type in _CONVERTED:
                again.append(index)
        return outcomes, again

    async def _converted(self, lines: Sequence[Line]) -> tuple[Sequence[Line], dict[int, BillingError]]:
        """Lines with the amounts of those converted whose budget is known to be in another currency; and why not."""
        sent, failed = list(lines), dict[int, BillingError]()
        for index, line in enumerate(lines):
            try:
                sent[index] = await self._convert(line)
            except (RateMissing, AmountTooSmall) as error:
                failed[index] = error
        return sent, failed

    async def _convert(self, line: Line) -> Line:
        terms = self._abroad.get((line.tenant_id, line.budget_id)) if line.budget_id else None
        if terms is None or line.entry_type not in _CONVERTED or line.amount is None:
            return line
        if line.amount.currency == terms.currency:
            return line
        at = line.charge_time or clock.now()
        return replace(line, conversion=await self._conversion(line.origin, line.amount, terms, at))

    async def _conversion(self, origin: Origin, amount: Money, terms: Terms, at: datetime) -> Conversion:
        days = domain.rates.days(terms, at)
        asked = [RateQuery(amount.currency, terms.currency, day) for day in days]
        of_day, of_plan = await self._exchange.find(origin, asked)
        if of_day is None:
            raise RateMissing(amount.currency, to=terms.currency, on=days[0])
        return domain.rates.convert(amount, terms.currency, of_day, of_plan)

    async def convert(self, origin: Origin, amount: Money, terms: Terms, at: datetime) -> Money:
        """The amount in the currency of a budget; raises RateMissing or AmountTooSmall."""
        if amount.currency == terms.currency:
            return amount
        return (await self._conversion(origin, amount, terms, at)).amount

    async def _learn(self, lines: Sequence[Line]) -> None:
        """Remember the terms of budgets that are asked in another currency."""
        tenant_id = lines[0].tenant_id
        asked = [(line.budget_id, line.amount) for line in lines if line.budget_id and line.amount]
        found = await self.look(tenant_id, {budget_id for budget_id, _ in asked})
        for budget_id, amount in asked:
            key = tenant_id, budget_id
            balance = found.balances.get(key)
            if balance and amount.currency != balance.terms.currency:
                self._abroad[key] = balance.terms
        while len(self._abroad) > _REMEMBERED_MAX:
            self._abroad.popitem(last=False)

    async def look(self, tenant_id: UUID, budget_ids: Collection[UUID]) -> Found:
        """The chains of the budgets as they are just now, among others."""
        return await self._looks.submit(tenant_id, (tenant_id, budget_ids), len(budget_ids))

    async def _move(self, submissions: Sequence[Submission]) -> Sequence[Sequence[Outcome]]:
        tenant_ids = {submission.lines[0].tenant_id for submission in submissions}
        async with self._engines[0].begin(tenant_ids) as group:
            outcomes, said = await service.moves.move(group, submissions)
        if said:
            self._appended.set()
        return outcomes

    async def _look(self, asked: Sequence[tuple[UUID, Collection[UUID]]]) -> Sequence[Found]:
        chains = {(tenant_id, budget_id) for tenant_id, ids in asked for budget_id in ids}
        return [await self._engines[1].look(chains)] * len(asked)

    async def run(self) -> None:
        """Until cancelled: lets the connections go at the end."""
        try:
            await asyncio.Event().wait()
        finally:
            await self._moves.close()
            await self._looks.close()
            for engine in self._engines:
                await engine.close()


def _in_another_currency(outcomes: Sequence[Outcome]) -> list[int]:
    """Which lines were refused since they are in another currency than their budget."""
    first = outcomes[0]
    if isinstance(first, BatchRefused):
        return [first.index] if isinstance(first.refusal, CurrencyMismatch) else []
    return [index for index, outcome in enumerate(outcomes) if isinstance(outcome, CurrencyMismatch)]
