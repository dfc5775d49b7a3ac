"""Charges, holds, captures and refunds: decided one by one in the order of their arrival, recorded together.

`move` works on a group of lines in one transaction of the engine: it locks the budgets of all of them, answers those
whose key was answered before, decides each of the others on the balances that the ones before it left, and records
what was taken. A line that is refused moves nothing and takes no room from the next.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final, Protocol
from uuid import UUID

from eventing import outbox
from eventing.outbox import OutboxRow
from kit import ids
from kit.errors import BillingError, Conflict, IdempotencyMismatch, InvalidFields, Violation
from kit.money import Money
from kit.origin import Origin
from services.budgets import domain, events
from services.budgets.domain.balances import ZERO, Balance, Decision, Movement
from services.budgets.domain.entries import EntryType
from services.budgets.domain.funds import SETTLEMENTS
from services.budgets.domain.holds import Change, Hold, HoldState
from services.budgets.domain.marks import Mark
from services.budgets.domain.rates import Conversion
from services.budgets.domain.refunds import Charged, Refund
from services.budgets.errors.charges import BatchRefused, EntryNotFound
from services.budgets.errors.holds import HoldAwaitsApproval, HoldNotFound
from services.budgets.store.group import (
    Entry,
    Found,
    Group,
    KeptReply,
    Key,
    RaisedAlert,
    RequestKey,
    StoredHold,
)

HOLD_EXPIRY: Final = "hold-expiry"
"""The timers of holds."""
_HELD_MAX: Final = timedelta(days=400)
"""How far ahead a new hold may expire."""


class Message(Protocol):
    """What is answered."""

    def SerializeToString(self) -> bytes:
        """As bytes."""


@dataclass(slots=True, kw_only=True)
class Line:
    """What a caller wants to be moved."""

    origin: Origin
    entry_type: EntryType
    budget_id: UUID | None
    """None where the hold tells."""
    hold_id: UUID | None = None
    charge_id: UUID | None = None
    amount: Money | None = None
    """None where all that is left is meant."""
    conversion: Conversion | None = None
    """`amount` in the budget's currency, where it is given in another."""
    request: RequestKey | None = None
    """The caller's key; None for what the clock does."""
    fingerprint: bytes = b""
    description: str = ""
    reference: str = ""
    charge_time: datetime | None = None
    expire_time: datetime | None = None
    release_rest: bool = False
    approval_id: UUID | None = None
    """The approval request on whose behalf it is moved."""
    approved: bool = False
    """Whether somebody approved that more is spent than there is; a budget that blocks still does."""
    answer: Callable[["Moved"], Message]

    @property
    def tenant_id(self) -> UUID:
        """Whose budget it is."""
        return self.origin.tenant_id


@dataclass(frozen=True, slots=True)
class Moved:
    """What a line did."""

    entry: Entry
    decision: Decision
    hold: StoredHold | None = None
    refund: Refund | None = None
    charged: Charged | None = None
    """The charge that a refund gave back, as it was before."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """The line was answered before, with this reply."""

    reply: bytes


Outcome = Message | Replayed | BillingError


@dataclass(slots=True)
class Submission:
    """Lines that came in together; where `atomic`, all are taken or none."""

    lines: Sequence[Line]
    atomic: bool = False


async def move(group: Group, submissions: Sequence[Submission]) -> tuple[list[list[Outcome]], bool]:
    """What came of each line of each submission, and whether events were appended; recorded when `group` commits."""
    lines = [line for submission in submissions for line in submission.lines]
    asked = {(line.tenant_id, line.budget_id, line.hold_id) for line in lines}
    found = await group.lock(asked, {line.request for line in lines if line.request})
    books = Books(
        found,
        await group.holds({(line.tenant_id, line.hold_id) for line in lines if line.hold_id}),
        await group.charges({(line.tenant_id, line.charge_id) for line in lines if line.charge_id}),
    )
    outcomes = [books.decide(submission) for submission in submissions]
    if await group.answered(books.doubtful(lines, [outcome for told in outcomes for outcome in told])):
        return await move(group, submissions)  # answered by another replica, which had the locks before
    if books.entries:
        await group.record(books.moved(), books.entries, books.kept)
        await group.record_holds(books.changed_holds, HOLD_EXPIRY)
        await group.raise_alerts(list(books.raised.values()))
        await group.resolve_alerts(list(books.resolved.values()), found.now)
        await group.say(books.events)
    return outcomes, bool(books.raised or books.events)


@dataclass(slots=True)
class _Change:
    """What a line wants of the chain, before anybody has agreed."""

    movement: Movement
    amount: Decimal
    hold: StoredHold | None = None
    refund: Refund | None = None
    charged: Charged | None = None


@dataclass(slots=True)
class Books:
    """The balances of a group while its lines are decided, and what is to be recorded of it."""

    found: Found
    holds: dict[Key, StoredHold]
    charges: dict[Key, Charged]
    entries: list[Entry] = field(default_factory=list)
    kept: list[KeptReply] = field(default_factory=list)
    events: list[OutboxRow] = field(default_factory=list)
    changed_holds: dict[Key, StoredHold] = field(default_factory=dict)
    raised: dict[tuple[Key, Mark], RaisedAlert] = field(default_factory=dict)
    resolved: dict[tuple[Key, Mark], tuple[Origin, Balance, Mark]] = field(default_factory=dict)
    _spans: dict[Key, tuple[Decimal, Decimal]] = field(default_factory=dict)
    _touched: set[Key] = field(default_factory=set)

    def decide(self, submission: Submission) -> list[Outcome]:
        """What came of each line of the submission."""
        if not submission.atomic:
            return [self._decided(line) for line in submission.lines]
        before = self._copied()
        outcomes: list[Outcome] = []
        for index, line in enumerate(submission.lines):
            outcome = self._decided(line)
            if isinstance(outcome, BillingError):
                self._restore(before)
                return [BatchRefused(index, outcome)] * len(submission.lines)
            outcomes.append(outcome)
        return outcomes

    def moved(self) -> list[Balance]:
        """The balances that changed."""
        return [self.found.balances[key] for key in self._touched]

    def doubtful(self, lines: Sequence[Line], outcomes: Sequence[Outcome]) -> set[RequestKey]:
        """The keys of lines that are refused; to be told so, they must not have been answered before."""
        return {
            line.request
            for line, outcome in zip(lines, outcomes, strict=True)
            if isinstance(outcome, BillingError) and line.request and line.request not in self.found.replies
        }

    def _copied(self) -> tuple[object, ...]:
        return (
            dict(self.found.balances), dict(self.found.replies), dict(self.holds), dict(self.charges),
            list(self.entries), list(self.kept), list(self.events), dict(self.changed_holds), dict(self.raised),
            dict(self.resolved), dict(self._spans), set(self._touched),
        )  # fmt: skip

    def _restore(self, copied: tuple[object, ...]) -> None:
        (self.found.balances, self.found.replies, self.holds, self.charges, self.entries, self.kept, self.events,
         self.changed_holds, self.raised, self.resolved, self._spans, self._touched) = copied  # type: ignore[assignment]  # as _copied made them  # fmt: skip

    def _decided(self, line: Line) -> Outcome:
        request = line.request
        if request and request in self.found.replies:
            fingerprint, reply = self.found.replies[request]
            if fingerprint != line.fingerprint:
                return IdempotencyMismatch(request[2])
            return Replayed(reply)
        try:
            moved = self._taken(line)
        except BillingError as refusal:
            return refusal
        answer = line.answer(moved)
        if request:
            reply = answer.SerializeToString()
            self.kept.append(KeptReply(request=request, fingerprint=line.fingerprint, reply=reply))
            self.found.replies[request] = line.fingerprint, reply
        return answer

    def _taken(self, line: Line) -> Moved:
        """Let the line move its chain; raises why it may not."""
        chain = self._chain(line)
        change = _CHANGES[line.entry_type](self, line, chain[0])
        at = line.charge_time or self.found.now
        decision = domain.balances.decide(chain, line.entry_type, change.movement, at, approved=line.approved)
        entry = self._entry(line, change, decision, at)
        self.entries.append(entry)
        for before, after in zip(decision.before, decision.after, strict=True):
            self._set(line, entry, before, after)
        hold = change.hold and self._keep_hold(line, change.hold, entry)
        if change.refund and change.charged:
            self._keep_refund(line, change.refund, change.charged)
        return Moved(entry, decision, hold, change.refund, change.charged)

    def _chain(self, line: Line) -> Sequence[Balance]:
        """The budget and all above it; raises BudgetNotFound or HoldNotFound."""
        budget_id = self._hold(line, line.hold_id).hold.budget_id if line.hold_id else line.budget_id
        if budget_id is None:
            raise ValueError("a line names a budget or a hold")
        if line.hold_id and (line.tenant_id, budget_id) not in self.found.balances:
            raise Conflict  # it went over to the next period at this very moment
        return self.found.chain(line.origin, budget_id)

    def _hold(self, line: Line, hold_id: UUID) -> StoredHold:
        stored = self.holds.get((line.tenant_id, hold_id))
        if stored is None or line.budget_id not in {stored.hold.budget_id, stored.opened_budget_id, None}:
            raise HoldNotFound(hold_id)
        return stored

    def _amount(self, line: Line, balance: Balance) -> Decimal:
        """The amount in the budget's currency; raises CurrencyMismatch where nobody converted it."""
        asked = line.conversion.amount if line.conversion else line.amount
        if asked is None:
            raise ValueError("an amount is missing")
        domain.balances.check_currency(balance, asked.currency)
        return asked.amount

    def charge(self, line: Line, balance: Balance) -> _Change:
        """A charge."""
        amount = self._amount(line, balance)
        return _Change(Movement(spent=amount), amount)

    def hold(self, line: Line, balance: Balance) -> _Change:
        """Money set aside."""
        amount = self._amount(line, balance)
        made = StoredHold(
            hold=Hold(
                id=ids.new(),
                budget_id=balance.terms.id,
                currency=balance.terms.currency,
                amount=amount,
                captured=ZERO,
                released=ZERO,
                state=HoldState.HELD,
                expires=self._expiry(line),
            ),
            opened_budget_id=balance.terms.id,
            original=line.amount if line.conversion else None,
            rate=line.conversion.rate if line.conversion else None,
            rate_date=line.conversion.rate_date if line.conversion else None,
            description=line.description,
            reference=line.reference,
            request_id=line.request[2] if line.request else "",
            actor=line.origin.actor,
            last_entry_id=UUID(int=0),
            version=0,
            create_time=self.found.now,
            update_time=self.found.now,
            approval_id=line.approval_id,
        )
        return _Change(Movement(held=amount), amount, hold=made)

    def _expiry(self, line: Line) -> datetime | None:
        """When a new hold expires; raises InvalidFields. A call that is repeated when that is over is not asked."""
        expires, now = line.expire_time, self.found.now
        if expires and not now < expires <= now + _HELD_MAX:
            told = "must be later than now, and at most 400 days ahead"
            raise InvalidFields([Violation("expire_time", told, "hold.expiry")])
        return expires

    def commit(self, line: Line, _: Balance) -> _Change:
        """Money set aside, promised."""
        stored = self._stored(line)
        return _of_hold(stored, domain.holds.commit(stored.hold, self.found.now), stored.hold.open)

    def capture(self, line: Line, balance: Balance) -> _Change:
        """Money set aside, spent."""
        stored = self._stored(line)
        amount = stored.hold.open if line.amount is None else self._amount(line, balance)
        change = domain.holds.capture(stored.hold, amount, self.found.now, release_rest=line.release_rest)
        return _of_hold(stored, change, amount)

    def release(self, line: Line, balance: Balance) -> _Change:
        """Money set aside, given back."""
        stored = self._stored(line)
        amount = None if line.amount is None else self._amount(line, balance)
        return _of_hold(
            stored, domain.holds.release(stored.hold, amount), stored.hold.open if amount is None else amount
        )

    def expire(self, line: Line, _: Balance) -> _Change:
        """Money set aside, given back by the clock; raises Conflict where it is not time."""
        stored = self._stored(line)
        if stored.hold.state is HoldState.HELD and not domain.holds.is_due(stored.hold, self.found.now):
            raise Conflict
        return _of_hold(stored, domain.holds.expire(stored.hold), stored.hold.open)

    def refund(self, line: Line, balance: Balance) -> _Change:
        """A charge given back."""
        charged = self.charges.get((line.tenant_id, line.charge_id)) if line.charge_id else None
        if charged is None or charged.budget_id != balance.terms.id:
            raise EntryNotFound(line.charge_id or UUID(int=0))
        refund = domain.refunds.refund(charged, line.amount)
        return _Change(refund.movement, refund.amount.amount, refund=refund, charged=charged)

    def _stored(self, line: Line) -> StoredHold:
        if line.hold_id is None:
            raise ValueError("a hold is missing")
        stored = self._hold(line, line.hold_id)
        awaited = stored.approval_id if stored.hold.state is HoldState.HELD else None
        if awaited and awaited != line.approval_id:
            raise HoldAwaitsApproval(stored.hold.id, awaited)
        return stored

    def _entry(self, line: Line, change: _Change, decision: Decision, at: datetime) -> Entry:
        conversion, original = line.conversion, line.amount if line.conversion else None
        if change.refund and change.refund.original.currency != change.refund.amount.currency:
            original = change.refund.original
        return Entry(
            id=ids.new(),
            entry_type=line.entry_type,
            chain=decision.after,
            amount=change.amount,
            movement=change.movement,
            verdict=decision.verdict,
            hold_id=change.hold.hold.id if change.hold else None,
            charge_id=line.charge_id,
            original=original,
            rate=conversion.rate if conversion else None,
            rate_date=conversion.rate_date if conversion else None,
            plan_amount=conversion.plan_amount if conversion else None,
            request_id=line.request[2] if line.request else None,
            description=line.description,
            reference=line.reference,
            actor=line.origin.actor,
            charge_time=at,
            create_time=self.found.now,
        )

    def _set(self, line: Line, entry: Entry, before: Balance, after: Balance) -> None:
        key = after.terms.tenant_id, after.terms.id
        self.found.balances[key] = after
        self._touched.add(key)
        low, high = self._spans.get(key) or domain.marks.span(before)
        self._spans[key] = low, high
        if not low <= after.used < high:
            self._spans[key] = domain.marks.span(after)
            self._mark(line, entry, before, after)

    def _mark(self, line: Line, entry: Entry, before: Balance, after: Balance) -> None:
        """Raise and resolve the alerts of the marks between the two, one for each mark whatever came in between."""
        key = after.terms.tenant_id, after.terms.id
        had, has = domain.marks.marks_passed(before), domain.marks.marks_passed(after)
        for mark in sorted(has - had, key=lambda mark: (mark.threshold_bp, mark.type)):
            if self.resolved.pop((key, mark), None) is None:
                alert_id = ids.new()
                event = events.published.budget_alert_raised(after, mark, alert_id, entry.id, self.found.now)
                said = outbox.new_row(line.origin, event)
                self.raised[key, mark] = RaisedAlert(
                    id=alert_id, balance=after, mark=mark, entry_id=entry.id, at=self.found.now, event=said
                )
        for mark in had - has:
            if self.raised.pop((key, mark), None) is None:
                self.resolved[key, mark] = line.origin, after, mark
        if before.available > 0 >= after.available:
            self.events.append(outbox.new_row(line.origin, events.published.budget_exhausted(after.terms)))

    def _keep_hold(self, line: Line, stored: StoredHold, entry: Entry) -> StoredHold:
        kept = replace(stored, last_entry_id=entry.id, version=stored.version + 1, update_time=self.found.now)
        key = line.tenant_id, stored.hold.id
        self.holds[key] = self.changed_holds[key] = kept
        if entry.entry_type is EntryType.EXPIRE:
            self.events.append(
                outbox.new_row(line.origin, events.published.budget_hold_expired(kept, entry.chain[0].terms))
            )
        if line.approval_id and entry.entry_type in SETTLEMENTS:
            self.events.append(
                outbox.new_row(line.origin, events.published.approval_hold_settled(kept, entry.entry_type))
            )
        return kept

    def _keep_refund(self, line: Line, refund: Refund, charged: Charged) -> None:
        self.charges[line.tenant_id, charged.id] = replace(
            charged,
            refunded=charged.refunded + refund.amount.amount,
            original_refunded=charged.original_refunded + refund.original.amount,
        )


def _of_hold(stored: StoredHold, change: Change, amount: Decimal) -> _Change:
    movement, hold = change
    return _Change(movement, amount, hold=replace(stored, hold=hold))


_CHANGES: Final[Mapping[EntryType, Callable[[Books, Line, Balance], _Change]]] = {
    EntryType.CHARGE: Books.charge,
    EntryType.HOLD: Books.hold,
    EntryType.COMMIT: Books.commit,
    EntryType.CAPTURE: Books.capture,
    EntryType.RELEASE: Books.release,
    EntryType.EXPIRE: Books.expire,
    EntryType.REFUND: Books.refund,
}
