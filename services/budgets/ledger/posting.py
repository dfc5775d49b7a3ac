"""Posting in memory: apply the requests of a batch in order, and collect the rows to write.

`post` handles a batch in one transaction: it locks the budgets of all requests, returns the stored reply for each key
that was used before, applies the other requests in order to the balances, and writes the accepted ones. A refused
request changes nothing and leaves the available amount to the next.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from decimal import Decimal
from typing import Final, NamedTuple
from uuid import UUID

from eventing.outbox import OutboxRow
from kit import idempotency, ids
from kit.errors import BillingError, Conflict, InvalidFields, Violation
from kit.origin import Origin
from services.budgets import domain
from services.budgets.domain.alerts import Alert, AlertThreshold
from services.budgets.domain.approval_holds import SETTLEMENTS
from services.budgets.domain.balances import NO_ID, Balance, Correction, Decision, Movement
from services.budgets.domain.entries import EntryType
from services.budgets.domain.holds import HOLD_PERIOD_MAX, Hold, HoldDraft, HoldState
from services.budgets.domain.late_postings import RolledOver
from services.budgets.domain.postings import (
    AlertRaised,
    ApprovalHoldSettled,
    BudgetExhausted,
    Entry,
    HoldExpired,
    Key,
    Posted,
    PostingRequest,
    Replayed,
    RequestKey,
)
from services.budgets.domain.refunds import Charged, Refund
from services.budgets.errors.charges import BatchRefused, EntryNotFound
from services.budgets.errors.holds import HoldAwaitsApproval, HoldNotFound
from services.budgets.ledger.outcomes import LedgerCodec, PostingOutcome, conceal
from services.budgets.ledger.sql import ReplyRow
from services.budgets.ledger.store import LedgerSnapshot, LedgerTransaction

_STEP: Final = 32
"""Number of requests of a submission that are posted without a pause for other calls."""


@dataclass(slots=True)
class Submission:
    """Requests of one caller; if `atomic`, all are accepted or none."""

    origin: Origin
    requests: Sequence[PostingRequest]
    atomic: bool = False


async def post(
    transaction: LedgerTransaction, submissions: Sequence[Submission], codec: LedgerCodec
) -> tuple[list[list[PostingOutcome]], bool]:
    """Return the outcomes of each submission, and whether events were appended. All is written in the transaction."""
    requests = [(each.origin.tenant_id, request) for each in submissions for request in each.requests]
    snapshot = await transaction.lock(
        {(tenant_id, request.budget_id, request.hold_id) for tenant_id, request in requests},
        {request.request_key for _, request in requests if request.request_key},
    )
    hold_keys = {(tenant_id, request.hold_id) for tenant_id, request in requests if request.hold_id}
    charge_keys = {(tenant_id, request.charge_id) for tenant_id, request in requests if request.charge_id}
    batch = PostingBatch(
        snapshot, await transaction.find_holds(hold_keys), await transaction.find_charges(charge_keys), codec
    )
    outcomes = [
        batch.post(each) if len(each.requests) <= _STEP else await _post_in_steps(batch, each) for each in submissions
    ]
    if await transaction.any_answered(batch.refused):
        return await post(transaction, submissions, codec)  # another replica held the locks before and stored a reply
    return outcomes, await batch.write(transaction)


async def _post_in_steps(batch: "PostingBatch", submission: Submission) -> list[PostingOutcome]:
    """Post a submission while other calls run in between, so that they don't wait for a large one."""
    outcomes: list[PostingOutcome] = []
    for outcomes in batch.steps(submission):  # noqa: B007 - the last step has them all
        await asyncio.sleep(0)
    return outcomes


class _Change(NamedTuple):
    """What an accepted request changes, besides balances."""

    movement: Movement
    amount: Decimal
    hold: Hold | None = None
    refund: Refund | None = None
    charged: Charged | None = None


@dataclass(slots=True)
class _State:
    """The state of a batch. Each field is a collection of immutable values, so that a copy of it is a savepoint."""

    balances: dict[Key, Balance]
    replies: dict[RequestKey, tuple[bytes, bytes]]
    """Fingerprint and reply of each key that was used, before or in this batch."""
    holds: dict[Key, Hold]
    charges: dict[Key, Charged]
    rollovers: dict[Key, RolledOver]
    """Rollovers of those budgets that were rolled over."""
    changed_rollovers: dict[Key, RolledOver] = field(default_factory=dict)
    changed_balances: set[Key] = field(default_factory=set)
    changed_holds: dict[Key, Hold] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)
    new_replies: list[ReplyRow] = field(default_factory=list)
    events: list[OutboxRow] = field(default_factory=list)
    raised: dict[tuple[Key, AlertThreshold], tuple[Alert, OutboxRow]] = field(default_factory=dict)
    resolved: dict[tuple[Key, AlertThreshold], tuple[Origin, Key, AlertThreshold]] = field(default_factory=dict)
    quiet_ranges: dict[Key, tuple[Decimal, Decimal]] = field(default_factory=dict)
    """For each budget, the range of `used` in which no alert threshold is crossed."""

    def copy(self) -> "_State":
        return _State(*(getattr(self, each.name).copy() for each in fields(self)))


class PostingBatch:
    """In-memory balances of one batch: applies each request in order and collects the rows to write."""

    def __init__(
        self, snapshot: LedgerSnapshot, holds: dict[Key, Hold], charges: dict[Key, Charged], codec: LedgerCodec
    ) -> None:
        self._snapshot = snapshot
        self._now = snapshot.now
        self._codec = codec
        self._known_holds = frozenset(holds)
        self._state = _State(snapshot.balances, snapshot.replies, holds, charges, snapshot.rollovers)
        self._refused: set[RequestKey] = set()

    @property
    def refused(self) -> set[RequestKey]:
        """Keys of refused requests. If another replica has stored a reply to one meanwhile, the batch is repeated."""
        return {key for key in self._refused if key not in self._state.replies}

    def post(self, submission: Submission) -> list[PostingOutcome]:
        """Return the outcome of each request of the submission, as its caller may see it."""
        outcomes: list[PostingOutcome] = []
        for outcomes in self.steps(submission):  # noqa: B007 - the last step has them all
            pass
        return outcomes

    def steps(self, submission: Submission) -> Iterator[list[PostingOutcome]]:
        """Post the submission in steps; the last one yields the outcomes of all its requests."""
        savepoint = self._state.copy() if submission.atomic else None
        outcomes: list[PostingOutcome] = []
        for index, request in enumerate(submission.requests, 1):
            outcome = self._post(submission.origin, request)
            if savepoint and isinstance(outcome, BillingError):
                self._state = savepoint
                self._refused |= {request.request_key for request in submission.requests if request.request_key}
                outcomes = [BatchRefused(index - 1, outcome)] * len(submission.requests)
                break
            outcomes.append(outcome)
            if index % _STEP == 0:
                yield outcomes
        yield conceal(submission.origin, submission.requests, outcomes, self._state.balances, self._codec)

    async def write(self, transaction: LedgerTransaction) -> bool:
        """Write what was accepted. Return True if events were appended."""
        state = self._state
        if not state.entries:
            return False
        changed = [state.balances[key] for key in state.changed_balances]
        await transaction.record(changed, state.entries, state.new_replies)
        await transaction.record_carried(state.changed_rollovers)
        await transaction.record_holds(list(state.changed_holds.values()), self._known_holds)
        await transaction.raise_alerts(state.raised.values())
        await transaction.resolve_alerts(state.resolved.values(), self._now)
        await transaction.append_events(state.events)
        return bool(state.raised or state.events)

    def _post(self, origin: Origin, request: PostingRequest) -> PostingOutcome:
        key = request.request_key
        if key is not None and (stored := self._state.replies.get(key)):
            fingerprint, reply = stored
            return idempotency.mismatch(fingerprint, request.fingerprint, key[2]) or Replayed(reply)
        try:
            posted = self._accept(origin, request)
        except BillingError as refusal:
            if key is not None:
                self._refused.add(key)
            return refusal
        reply = self._codec.replies.to_reply(posted)
        if key is not None:
            self._state.replies[key] = request.fingerprint, reply
            self._state.new_replies.append((*key, request.fingerprint, reply))
        return reply

    def _accept(self, origin: Origin, request: PostingRequest) -> Posted:
        """Apply a request to its chain. Raises the error if it is refused; nothing has changed then."""
        chain = self._chain(origin, request)
        change = _CHANGES[request.entry_type](self, origin, request, chain[0])
        at = request.charge_time or self._now
        decision = self._decide(chain, request, change.movement, at)
        entry = self._entry(origin, request, change, decision, at)
        self._state.entries.append(entry)
        if decision.corrections:
            self._correct(origin, entry, decision)
        else:
            for before, after in zip(chain, decision.after, strict=True):
                self._update_balance(origin, entry, before, after)
        hold = self._update_hold(origin, request, change.hold, entry) if change.hold else None
        if change.refund and change.charged:
            self._update_charge(origin, change.refund, change.charged)
        return Posted(entry, chain, decision.after, hold, change.refund, change.charged)

    def _decide(self, chain: Sequence[Balance], request: PostingRequest, movement: Movement, at: datetime) -> Decision:
        state, entry_type, approved = self._state, request.entry_type, request.approved
        if not state.rollovers:
            return domain.balances.decide(chain, entry_type, movement, at, approved=approved)
        return domain.late_postings.decide(
            chain, entry_type, movement, at, approved=approved, rollovers=state.rollovers, balances=state.balances
        )

    def _chain(self, origin: Origin, request: PostingRequest) -> Sequence[Balance]:
        """Return the budget and those above it. Raises BudgetNotFound or HoldNotFound."""
        budget_id = request.budget_id
        if request.hold_id:
            budget_id = self._find_hold(origin, request, request.hold_id).budget_id
            if (origin.tenant_id, budget_id) not in self._state.balances:
                raise Conflict  # a rollover has moved the hold to a budget that is not locked
        if budget_id is None:
            raise ValueError("a posting needs a budget or a hold")
        return self._snapshot.chain(origin, budget_id, self._state.balances)

    def _find_hold(self, origin: Origin, request: PostingRequest, hold_id: UUID) -> Hold:
        hold = self._state.holds.get((origin.tenant_id, hold_id))
        if hold is None or request.budget_id not in {hold.budget_id, hold.opened_budget_id, None}:
            raise HoldNotFound(hold_id)
        return hold

    def _hold(self, origin: Origin, request: PostingRequest) -> Hold:
        """Return the hold to change. Raises HoldNotFound, or HoldAwaitsApproval if only its approval may change it."""
        if request.hold_id is None:
            raise ValueError("a posting needs a hold")
        hold = self._find_hold(origin, request, request.hold_id)
        awaited = hold.approval_id if hold.state is HoldState.HELD else None
        if awaited and awaited != request.approval_id:
            raise HoldAwaitsApproval(hold.id, awaited)
        return hold

    @staticmethod
    def _amount(request: PostingRequest, balance: Balance) -> Decimal:
        """Return the amount in the budget's currency. Raises CurrencyMismatch if it was not converted."""
        amount = request.conversion.amount if request.conversion else request.amount
        if amount is None:
            raise ValueError("a posting needs an amount")
        domain.balances.check_currency(balance, amount.currency)
        return amount.amount

    def charge(self, _: Origin, request: PostingRequest, balance: Balance) -> _Change:
        """Spend an amount. Raises CurrencyMismatch."""
        amount = self._amount(request, balance)
        return _Change(Movement(amount), amount)

    def place_hold(self, origin: Origin, request: PostingRequest, balance: Balance) -> _Change:
        """Hold an amount. Raises InvalidFields or CurrencyMismatch."""
        draft, now = request.hold or HoldDraft(), self._now
        if draft.expire_time and not now < draft.expire_time <= now + HOLD_PERIOD_MAX:
            # Checked here and not on arrival: a repeated request gets its stored reply even if the time has passed.
            text = f"must be later than now, and at most {HOLD_PERIOD_MAX.days} days ahead"
            raise InvalidFields([Violation("expire_time", text, "hold.expiry")])
        amount, conversion = self._amount(request, balance), request.conversion
        movement, hold = domain.holds.place(
            draft,
            amount,
            balance.terms,
            id=ids.new(),
            original=request.amount if conversion else None,
            conversion=conversion,
            request_id=request.request_key[2] if request.request_key else "",
            actor=origin.actor,
            now=now,
        )
        return _Change(movement, amount, hold)

    def commit_hold(self, origin: Origin, request: PostingRequest, _: Balance) -> _Change:
        """Commit a hold."""
        hold = self._hold(origin, request)
        movement, changed = domain.holds.commit(hold, self._now)
        return _Change(movement, hold.open, changed)

    def capture_hold(self, origin: Origin, request: PostingRequest, balance: Balance) -> _Change:
        """Spend a part of a hold."""
        hold = self._hold(origin, request)
        amount = hold.open if request.amount is None else self._amount(request, balance)
        original = request.amount if request.conversion else None
        movement, changed = domain.holds.capture(
            hold, amount, self._now, release_rest=request.release_rest, original=original
        )
        return _Change(movement, amount, changed)

    def release_hold(self, origin: Origin, request: PostingRequest, balance: Balance) -> _Change:
        """Release a part of a hold."""
        hold = self._hold(origin, request)
        original = request.amount if request.amount and request.amount.currency == hold.original_currency else None
        amount = None if request.amount is None or original else self._amount(request, balance)
        movement, changed = domain.holds.release(hold, amount, original)
        return _Change(movement, hold.open - changed.open, changed)

    def expire_hold(self, origin: Origin, request: PostingRequest, _: Balance) -> _Change:
        """Release an expired hold. Raises Conflict if it has not expired."""
        hold = self._hold(origin, request)
        if hold.state is HoldState.HELD and not domain.holds.is_due(hold, self._now):
            raise Conflict
        movement, changed = domain.holds.expire(hold)
        return _Change(movement, hold.open, changed)

    def refund(self, origin: Origin, request: PostingRequest, balance: Balance) -> _Change:
        """Refund a part of a charge. Raises EntryNotFound or RefundExceedsCharge."""
        charged = self._state.charges.get((origin.tenant_id, request.charge_id)) if request.charge_id else None
        if charged is None or charged.budget_id != balance.terms.id:
            raise EntryNotFound(request.charge_id or NO_ID)
        refund = domain.refunds.refund(charged, request.amount)
        return _Change(refund.movement, refund.amount.amount, refund=refund, charged=charged)

    def _entry(
        self, origin: Origin, request: PostingRequest, change: _Change, decision: Decision, at: datetime
    ) -> Entry:
        conversion, original = request.conversion, request.amount if request.conversion else None
        if change.refund and change.refund.original.currency != change.refund.amount.currency:
            original = change.refund.original
        return Entry(
            id=ids.new(),
            entry_type=request.entry_type,
            chain=decision.moved,
            amount=change.amount,
            movement=change.movement,
            verdict=decision.verdict,
            hold_id=change.hold.id if change.hold else None,
            charge_id=request.charge_id,
            original=original,
            rate=conversion.rate if conversion else None,
            rate_date=conversion.rate_date if conversion else None,
            plan_amount=conversion.plan_amount if conversion else None,
            request_id=request.request_key[2] if request.request_key else None,
            description=request.description,
            reference=request.reference,
            actor=origin.actor,
            charge_time=at,
            create_time=self._now,
        )

    def _update_balance(self, origin: Origin, entry: Entry, before: Balance, after: Balance) -> None:
        state, terms = self._state, after.terms
        key = terms.tenant_id, terms.id
        state.balances[key] = after
        if rolled_over := state.rollovers.get(key):
            before, after = (each.before_carrying(rolled_over.carried) for each in (before, after))
        state.changed_balances.add(key)
        quiet = state.quiet_ranges.get(key)
        if quiet is None:
            quiet = state.quiet_ranges[key] = domain.balances.quiet_range(before)
        if not quiet[0] <= after.used < quiet[1]:
            state.quiet_ranges[key] = domain.balances.quiet_range(after)
            self._update_alerts(origin, key, entry, before, after)

    def _correct(self, origin: Origin, entry: Entry, decision: Decision) -> None:
        """Record the corrections of a late posting with an entry on both sides, and update all balances."""
        state = self._state
        latest = {(balance.terms.tenant_id, balance.terms.id): balance for balance in decision.moved}
        latest |= domain.late_postings.corrected(decision.corrections)
        for correction in decision.corrections:
            state.entries += self._correction_entries(entry, correction)
        rolled_over = {key: each.carried for key, each in state.rollovers.items()}
        changed = domain.late_postings.correct(state.rollovers, decision.corrections)
        state.rollovers |= changed
        state.changed_rollovers |= changed
        for key, balance in latest.items():
            before, after = state.balances[key], balance
            state.balances[key] = balance
            state.changed_balances.add(key)
            if key in rolled_over:
                before = before.before_carrying(rolled_over[key])
                after = after.before_carrying(state.rollovers[key].carried)
            state.quiet_ranges[key] = domain.balances.quiet_range(after)  # the total has changed
            self._update_alerts(origin, key, entry, before, after)

    def _correction_entries(self, entry: Entry, correction: Correction) -> Iterator[Entry]:
        sides = (
            (EntryType.ROLLOVER_OUT, correction.closing, correction.opened, -correction.amount),
            (EntryType.ROLLOVER_IN, correction.opened, correction.closing, correction.amount),
        )
        for entry_type, balance, counterpart, moved_amount in sides:
            yield Entry(
                id=ids.new(),
                entry_type=entry_type,
                chain=[balance],
                amount=correction.amount,
                movement=Movement(),
                moved_amount=moved_amount,
                counterpart_id=counterpart.terms.id,
                description=entry.description,
                reference=entry.reference,
                actor=entry.actor,
                charge_time=entry.charge_time,
                create_time=self._now,
            )

    def _update_alerts(self, origin: Origin, key: Key, entry: Entry, before: Balance, after: Balance) -> None:
        """Raise or resolve the alerts of the thresholds between two balances, at most one per threshold and batch."""
        state = self._state
        reached, left = domain.alerts.reached(after), domain.alerts.reached(before)
        for threshold in domain.alerts.ordered(reached - left):
            if state.resolved.pop((key, threshold), None) is None:
                alert = domain.alerts.new(after, threshold, id=ids.new(), charge_id=entry.id, now=self._now)
                event = self._codec.event(origin, AlertRaised(alert, after.terms))
                state.raised[key, threshold] = alert, event
        for threshold in left - reached:
            if state.raised.pop((key, threshold), None) is None:
                state.resolved[key, threshold] = origin, key, threshold
        if before.available > 0 >= after.available:
            state.events.append(self._codec.event(origin, BudgetExhausted(after.terms)))

    def _update_hold(self, origin: Origin, request: PostingRequest, changed: Hold, entry: Entry) -> Hold:
        state = self._state
        hold = replace(changed, last_entry_id=entry.id, version=changed.version + 1, update_time=self._now)
        state.holds[hold.key] = state.changed_holds[hold.key] = hold
        if entry.entry_type is EntryType.EXPIRE:
            state.events.append(self._codec.event(origin, HoldExpired(hold, entry.chain[0].terms)))
        if request.approval_id and entry.entry_type in SETTLEMENTS:
            state.events.append(self._codec.event(origin, ApprovalHoldSettled(hold, entry.entry_type)))
        return hold

    def _update_charge(self, origin: Origin, refund: Refund, charged: Charged) -> None:
        self._state.charges[origin.tenant_id, charged.id] = replace(
            charged,
            refunded=charged.refunded + refund.amount.amount,
            original_refunded=charged.original_refunded + refund.original.amount,
        )


_CHANGES: Final[Mapping[EntryType, Callable[[PostingBatch, Origin, PostingRequest, Balance], _Change]]] = {
    EntryType.CHARGE: PostingBatch.charge,
    EntryType.HOLD: PostingBatch.place_hold,
    EntryType.COMMIT: PostingBatch.commit_hold,
    EntryType.CAPTURE: PostingBatch.capture_hold,
    EntryType.RELEASE: PostingBatch.release_hold,
    EntryType.EXPIRE: PostingBatch.expire_hold,
    EntryType.REFUND: PostingBatch.refund,
}
