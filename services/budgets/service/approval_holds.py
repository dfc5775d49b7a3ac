"""Amounts held for approval requests: held while a request is open, committed or released when it has ended.

A round of a request has one key for its hold and one for its settlement, however often its events arrive. A hold that
was cancelled before it was requested is refused because of its key.
"""

import contextlib
from dataclasses import replace
from decimal import Decimal
from typing import Final

from eventing import outbox
from kit import ids
from kit.db import Database, WriteSession
from kit.errors import BillingError, FailedPrecondition, Internal, NotFound
from kit.idempotency import Replay
from kit.money import Money
from kit.origin import Origin
from services.budgets import events, service, store
from services.budgets.domain.approval_holds import ApprovalOutcome
from services.budgets.domain.budgets import BudgetUpdate
from services.budgets.domain.entries import EntryType
from services.budgets.domain.holds import HoldDraft
from services.budgets.domain.postings import PostingRequest
from services.budgets.errors.budgets import CurrencyMismatch
from services.budgets.errors.holds import HoldNotFound, HoldStateForbids
from services.budgets.errors.visibility import conceal
from services.budgets.ledger import Ledger
from services.budgets.store.idempotency import CANCELLED

HELD: Final = "billing.budgets.v1.LedgerService/HoldForApproval"
COMMITTED: Final = "billing.approvals.v1.ApprovalApproved"
RELEASED: Final = "billing.budgets.v1.LedgerService/ReleaseForApproval"
"""The methods under which the keys are stored."""
_SETTLED: Final = b"settled"


def key_of(outcome: ApprovalOutcome) -> str:
    """Return the key of a round of an approval request."""
    return f"{ids.APPROVAL.format(outcome.approval_id)}:{outcome.round}"


def report_failure(tx: WriteSession, outcome: ApprovalOutcome) -> None:
    """Publish that an outcome was not applied because of an internal error. Redriving its event settles it later."""
    problem = Internal(tx.origin.trace.trace_id).message
    outbox.append(tx, events.published.approval_funds_settled(outcome, raised=False, problem=problem))


class ApprovalHolds:
    """Settles the holds of approval requests, and makes approved overspends and increases."""

    def __init__(self, db: Database, ledger: Ledger) -> None:
        self._db = db
        self._ledger = ledger

    async def apply(self, origin: Origin, outcome: ApprovalOutcome) -> None:
        """Apply an approved request to its budget. If that fails, release its hold and publish the reason."""
        try:
            if outcome.is_increase:
                await self._increase_budget(origin, outcome)
            elif outcome.hold_id:
                await self._post(origin, _settlement(origin, outcome, EntryType.COMMIT, COMMITTED))
            else:
                await self._overspend(origin, outcome)
        except (FailedPrecondition, NotFound) as refusal:
            await self._fail(origin, outcome, refusal)

    async def release(self, origin: Origin, outcome: ApprovalOutcome) -> bool:
        """Release the hold of a round. Return False if there is no hold, or if it has ended otherwise."""
        with contextlib.suppress(HoldNotFound, HoldStateForbids):
            await self._post(origin, _settlement(origin, outcome, EntryType.RELEASE, RELEASED))
            return True
        return False

    async def cancel(self, origin: Origin, outcome: ApprovalOutcome) -> bool:
        """Release the hold of a round, or refuse it if it is requested later. Return True if a hold was released."""
        async with self._db.write(origin) as tx:
            stored = await store.idempotency.claim_or_find(tx, HELD, key_of(outcome), CANCELLED)
        if stored is None or not stored.reply:
            return False
        _, hold_id = self._ledger.codec.replies.ids_from_reply(EntryType.HOLD, stored.reply)
        return await self.release(origin, replace(outcome, hold_id=hold_id))

    async def _post(self, origin: Origin, request: PostingRequest) -> bytes:
        try:
            return await self._ledger.post(origin, request)
        except Replay as replay:
            return replay.reply

    async def _overspend(self, origin: Origin, outcome: ApprovalOutcome) -> None:
        """Hold and commit an approved amount beyond the limit of budgets with policy REQUIRE_APPROVAL."""
        reference = ids.APPROVAL.format(outcome.approval_id)
        request = PostingRequest(
            entry_type=EntryType.HOLD,
            budget_id=outcome.budget_id,
            amount=outcome.amount,
            request_key=(origin.tenant_id, HELD, key_of(outcome)),
            fingerprint=_SETTLED,
            description=outcome.title,
            reference=reference,
            hold=HoldDraft(description=outcome.title, reference=reference, approval_id=outcome.approval_id),
            approved=True,
        )
        _, hold_id = self._ledger.codec.replies.ids_from_reply(EntryType.HOLD, await self._post(origin, request))
        await self._post(origin, _settlement(origin, replace(outcome, hold_id=hold_id), EntryType.COMMIT, COMMITTED))

    async def _increase_budget(self, origin: Origin, outcome: ApprovalOutcome) -> None:
        """Increase the amount of a budget, once."""
        async with self._db.write(origin) as tx:
            if not await store.idempotency.claim(tx, COMMITTED, key_of(outcome), _SETTLED):
                return
            budget = await store.budgets.lock(tx, outcome.budget_id)
            increase = outcome.amount or Money(Decimal(0), budget.currency_code)
            if increase.currency != budget.currency_code:
                raise CurrencyMismatch(budget.id, given=increase.currency, currency=budget.currency_code)
            reason = f"Approved: {ids.APPROVAL.format(outcome.approval_id)}"
            amount = Money(budget.amount + increase.amount, budget.currency_code)
            await service.budgets.update(tx, budget.id, BudgetUpdate(columns={}, amount=amount, reason=reason))
            outbox.append(tx, events.published.approval_funds_settled(outcome, raised=True))

    async def _fail(self, origin: Origin, outcome: ApprovalOutcome, refusal: BillingError) -> None:
        """Release the hold, and publish once the reason why the approved request could not be applied."""
        if outcome.hold_id:
            await self.release(origin, outcome)
        # The reason is shown to all readers of the request, also to those who may not see the budgets above.
        problem = conceal(refusal, lambda budget_id: budget_id == outcome.budget_id).message
        async with self._db.write(origin) as tx:
            if await self._claim_failure(tx, outcome):
                event = events.published.approval_funds_settled(outcome, raised=False, problem=problem)
                outbox.append(tx, event)

    @staticmethod
    async def _claim_failure(tx: WriteSession, outcome: ApprovalOutcome) -> bool:
        return await store.idempotency.claim(tx, f"{COMMITTED} refused", key_of(outcome), _SETTLED)


def _settlement(origin: Origin, outcome: ApprovalOutcome, entry_type: EntryType, method: str) -> PostingRequest:
    return PostingRequest(
        entry_type=entry_type,
        budget_id=None,  # a rollover may have moved the hold to another budget
        hold_id=outcome.hold_id,
        request_key=(origin.tenant_id, method, key_of(outcome)),
        fingerprint=_SETTLED,
        reference=ids.APPROVAL.format(outcome.approval_id),
        approval_id=outcome.approval_id,
    )
