"""The money of approval requests: held while they are undecided, committed or given back when they have ended.

A round of a request has one key for its hold and one for its settlement, whoever hears of it and however often. Who
comes second finds that it is done. A hold that was called off before it came is kept out by its key.
"""

import contextlib
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from eventing import outbox
from kit import ids
from kit.db import Database, WriteSession
from kit.errors import BillingError, FailedPrecondition, NotFound
from kit.idempotency import Replay
from kit.money import Money
from kit.origin import Origin
from services.budgets import convert, events, service, store
from services.budgets.domain.entries import EntryType
from services.budgets.domain.funds import Ended
from services.budgets.errors.budgets import CurrencyMismatch
from services.budgets.errors.holds import HoldNotFound, HoldStateForbids
from services.budgets.service.moves import Line

if TYPE_CHECKING:  # the ledger imports service.moves
    from services.budgets.ledger import Ledger

HELD: Final = "billing.budgets.v1.LedgerService/HoldForApproval"
COMMITTED: Final = "billing.approvals.v1.ApprovalApproved"
GIVEN_BACK: Final = "billing.budgets.v1.LedgerService/ReleaseForApproval"
"""Under these names the keys are kept."""
_CALLED_OFF: Final = b"called off"
_SETTLED: Final = b"settled"


def key_of(ended: Ended) -> str:
    """The key of a round of a request."""
    return f"{ids.APPROVAL.format(ended.approval_id)}:{ended.round}"


class Funds:
    """Commits, gives back and raises."""

    def __init__(self, db: Database, ledger: "Ledger") -> None:
        self._db = db
        self._ledger = ledger

    async def follow(self, origin: Origin, ended: Ended) -> None:
        """Let the budget follow a request that was approved; where it can't, say why and hold nothing any more."""
        try:
            if ended.raises:
                await self._raise(origin, ended)
            elif ended.hold_id:
                await self._move(self._line(origin, ended, EntryType.COMMIT, COMMITTED))
            else:
                await self._overspend(origin, ended)
        except (FailedPrecondition, NotFound) as refusal:
            await self._fail(origin, ended, refusal)

    async def release(self, origin: Origin, ended: Ended) -> bool:
        """Give back what a round of a request holds; False where it holds nothing."""
        with contextlib.suppress(HoldNotFound, HoldStateForbids):
            await self._move(self._line(origin, ended, EntryType.RELEASE, GIVEN_BACK))
            return True
        return False

    async def call_off(self, origin: Origin, ended: Ended) -> bool:
        """Give back what a round of a request holds, and keep out a hold of it that comes later."""
        async with self._db.write(origin) as tx:
            kept = await store.keys.find_kept(tx, HELD, key_of(ended))
            if kept is None and not await store.keys.keep(tx, HELD, key_of(ended), _CALLED_OFF):
                kept = await store.keys.find_kept(tx, HELD, key_of(ended))  # it was held at this very moment
        if kept is None or not kept.reply:
            return False
        return await self.release(origin, convert.holds.hold_of(kept.reply, ended))

    async def _move(self, line: Line) -> None:
        with contextlib.suppress(Replay):
            await self._ledger.move(line)

    def _line(self, origin: Origin, ended: Ended, entry_type: EntryType, method: str) -> Line:
        return Line(
            origin=origin,
            entry_type=entry_type,
            budget_id=None,  # it may have moved on to the next period; the hold tells
            hold_id=ended.hold_id,
            request=(origin.tenant_id, method, key_of(ended)),
            fingerprint=_SETTLED,
            reference=ids.APPROVAL.format(ended.approval_id),
            approval_id=ended.approval_id,
            answer=convert.movements.moved_hold_to_proto,
        )

    async def _overspend(self, origin: Origin, ended: Ended) -> None:
        """Hold and commit what was approved, beyond the limit of budgets that take that with approval."""
        line = Line(
            origin=origin,
            entry_type=EntryType.HOLD,
            budget_id=ended.budget_id,
            amount=ended.amount,
            request=(origin.tenant_id, HELD, key_of(ended)),
            fingerprint=_SETTLED,
            description=ended.title,
            reference=ids.APPROVAL.format(ended.approval_id),
            approval_id=ended.approval_id,
            approved=True,
            answer=convert.movements.moved_hold_to_proto,
        )
        try:
            reply = (await self._ledger.move(line)).SerializeToString()
        except Replay as replay:
            reply = replay.reply
        await self._move(self._line(origin, convert.holds.hold_of(reply, ended), EntryType.COMMIT, COMMITTED))

    async def _raise(self, origin: Origin, ended: Ended) -> None:
        """Raise the amount of a budget, once."""
        async with self._db.write(origin) as tx:
            if not await store.keys.keep(tx, COMMITTED, key_of(ended), _SETTLED):
                return
            budget = await store.budgets.lock(tx, ended.budget_id)
            more = ended.amount or Money(Decimal(0), budget.currency_code)
            if more.currency != budget.currency_code:
                raise CurrencyMismatch(budget.id, given=more.currency, currency=budget.currency_code)
            reason = f"Approved: {ids.APPROVAL.format(ended.approval_id)}"
            amount = Money(budget.amount + more.amount, budget.currency_code)
            await service.budgets.update(tx, budget.id, {}, amount=amount, reason=reason, etag="")
            outbox.append(tx, events.published.approval_funds_settled(ended, raised=True))

    async def _fail(self, origin: Origin, ended: Ended, refusal: BillingError) -> None:
        """Say, once, that a budget could not follow; what is held is given back."""
        if ended.hold_id:
            await self.release(origin, ended)
        async with self._db.write(origin) as tx:
            if await self._first(tx, ended):
                outbox.append(tx, events.published.approval_funds_settled(ended, raised=False, problem=refusal.message))

    @staticmethod
    async def _first(tx: WriteSession, ended: Ended) -> bool:
        return await store.keys.keep(tx, f"{COMMITTED} refused", key_of(ended), _SETTLED)
