"""Holds: amounts reserved in a budget, committed, captured in parts, released. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from decimal import ROUND_FLOOR, Decimal
from enum import StrEnum
from typing import Final, NamedTuple
from uuid import UUID

from kit import resources
from kit.money import Money, round_to
from services.budgets.domain.balances import NO_ID, ZERO, Movement, Terms
from services.budgets.domain.rates import Conversion
from services.budgets.errors.holds import HoldExceeded, HoldExpired, HoldStateForbids


class HoldState(StrEnum):
    """Hold.State."""

    HELD = "HELD"
    COMMITTED = "COMMITTED"
    CAPTURED = "CAPTURED"
    RELEASED = "RELEASED"
    EXPIRED = "EXPIRED"


class HoldAction(StrEnum):
    """Actions on a hold; the value is the past participle used in error messages."""

    COMMIT = "committed"
    CAPTURE = "captured"
    FINISH = "captured completely"
    RELEASE = "released"
    EXPIRE = "expired"


HOLD_TRANSITIONS: Final[Mapping[tuple[HoldState, HoldAction], HoldState]] = {
    (HoldState.HELD, HoldAction.COMMIT): HoldState.COMMITTED,
    (HoldState.HELD, HoldAction.CAPTURE): HoldState.HELD,
    (HoldState.HELD, HoldAction.FINISH): HoldState.CAPTURED,
    (HoldState.HELD, HoldAction.RELEASE): HoldState.RELEASED,
    (HoldState.HELD, HoldAction.EXPIRE): HoldState.EXPIRED,
    (HoldState.COMMITTED, HoldAction.CAPTURE): HoldState.COMMITTED,
    (HoldState.COMMITTED, HoldAction.FINISH): HoldState.CAPTURED,
    (HoldState.COMMITTED, HoldAction.RELEASE): HoldState.RELEASED,
}
"""The complete life cycle of a hold. Only HELD expires: what is committed is an obligation."""


def advance(hold_id: UUID, state: HoldState, action: HoldAction) -> HoldState:
    """Return the state after `action`. Raises HoldStateForbids."""
    return resources.advance(HOLD_TRANSITIONS, hold_id, state, action, HoldStateForbids)


HOLD_EXPIRY_TIMER: Final = "hold-expiry"
"""Timers of holds with an expiry."""
HOLD_PERIOD_MAX: Final = timedelta(days=400)
"""How far ahead a new hold may expire."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldFilter:
    """Filters of a list of the holds on one budget; None and empty text match every hold."""

    budget_id: UUID
    state: HoldState | None = None
    reference: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldDraft:
    """What a caller specifies about a new hold, besides its amount."""

    description: str = ""
    reference: str = ""
    expire_time: datetime | None = None
    approval_id: UUID | None = None
    """The approval request that the amount is held for; only that request commits or releases the hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """A hold: an amount reserved in a budget, in the budget's currency. The fields are the columns of its table."""

    tenant_id: UUID
    id: UUID
    budget_id: UUID
    opened_budget_id: UUID
    """The budget it was created on; a rollover moves it to the budget of the next period."""
    amount: Decimal
    """What was reserved, and what captures at a higher rate took from the budget beyond that."""
    captured: Decimal = ZERO
    released: Decimal = ZERO
    currency_code: str
    original_amount: Decimal | None = None
    """The amount in the currency of the request, if that is a foreign one."""
    original_currency: str | None = None
    original_open: Decimal | None = None
    """What is left of the original amount."""
    rate: Decimal | None = None
    rate_date: date | None = None
    state: HoldState = HoldState.HELD
    expire_time: datetime | None = None
    description: str = ""
    reference: str = ""
    request_id: str = ""
    actor: str = ""
    last_entry_id: UUID = NO_ID
    """The newest ledger entry that changed it."""
    approval_id: UUID | None = None
    version: int = 0
    create_time: datetime
    update_time: datetime

    @property
    def key(self) -> tuple[UUID, UUID]:
        """Its key: (tenant, id)."""
        return self.tenant_id, self.id

    @property
    def open(self) -> Decimal:
        """The amount that is still held or committed."""
        return self.amount - self.captured - self.released

    @property
    def original(self) -> Money | None:
        """The amount in a foreign currency, if it was requested in one."""
        if self.original_amount is None or self.original_currency is None:
            return None
        return Money(self.original_amount, self.original_currency)

    @property
    def original_left(self) -> Money | None:
        """What is left of the amount in a foreign currency, if it was requested in one."""
        if self.original_open is None or self.original_currency is None:
            return None
        return Money(self.original_open, self.original_currency)

    @property
    def expires(self) -> bool:
        """True if it expires by itself."""
        return self.state is HoldState.HELD and self.expire_time is not None

    def money(self, amount: Decimal) -> Money:
        """Return an amount in the currency of the hold."""
        return Money(amount, self.currency_code)


Change = tuple[Movement, Hold]
"""The change of the budget, and the hold afterwards."""


def place(
    draft: HoldDraft,
    amount: Decimal,
    terms: Terms,
    *,
    id: UUID,
    original: Money | None,
    conversion: Conversion | None,
    request_id: str,
    actor: str,
    now: datetime,
) -> Change:
    """Hold an amount of a budget; `original` is the amount in a foreign currency, which was converted."""
    hold = Hold(
        tenant_id=terms.tenant_id,
        id=id,
        budget_id=terms.id,
        opened_budget_id=terms.id,
        amount=amount,
        currency_code=terms.currency,
        original_amount=original.amount if original else None,
        original_currency=original.currency if original else None,
        original_open=original.amount if original else None,
        rate=conversion.rate if conversion else None,
        rate_date=conversion.rate_date if conversion else None,
        expire_time=draft.expire_time,
        description=draft.description,
        reference=draft.reference,
        request_id=request_id,
        actor=actor,
        approval_id=draft.approval_id,
        create_time=now,
        update_time=now,
    )
    return Movement(held=amount), hold


def commit(hold: Hold, now: datetime) -> Change:
    """Commit a hold, so that it no longer expires. Raises HoldStateForbids or HoldExpired."""
    state = advance(hold.id, hold.state, HoldAction.COMMIT)
    _check_not_expired(hold, now)
    return Movement(held=-hold.open, committed=hold.open), replace(hold, state=state, expire_time=None)


class _Part(NamedTuple):
    """A part of what is open of a hold, in the currency of the budget and in the original one."""

    amount: Decimal
    original: Decimal | None


def _part(hold: Hold, amount: Decimal, original: Money | None) -> _Part:
    """Return the part of the hold that `original`, or else `amount`, is. Raises HoldExceeded.

    An amount in the original currency is that share of what is open, whatever its value is today; so the last one takes
    all that is left. Shares are rounded down, so that nothing but the last one does.
    """
    left = hold.original_left
    if left is None:
        return _Part(_checked(hold, amount), None)
    if original is None or original.currency != left.currency:
        part = _checked(hold, amount)
        share = left.amount if part == hold.open else _floor(left.amount * part / hold.open, left.currency)
        return _Part(part, share)
    if original.amount > left.amount:
        raise HoldExceeded(hold.id, requested=original, available=left)
    if original.amount == left.amount:
        return _Part(hold.open, left.amount)
    return _Part(_floor(hold.open * original.amount / left.amount, hold.currency_code), original.amount)


def _checked(hold: Hold, amount: Decimal) -> Decimal:
    if amount > hold.open:
        raise HoldExceeded(hold.id, requested=hold.money(amount), available=hold.money(hold.open))
    return amount


def _floor(amount: Decimal, currency: str) -> Decimal:
    return round_to(amount, currency, ROUND_FLOOR)


def capture(hold: Hold, amount: Decimal, now: datetime, *, release_rest: bool, original: Money | None = None) -> Change:
    """Spend a part of a hold; the rest stays, or is released. Raises HoldStateForbids, HoldExpired or HoldExceeded.

    `original` is the amount in a foreign currency, `amount` its value at the rate of its day. If it is in the currency
    of the hold, it takes that share of the hold, and the difference to what was reserved for it comes from the budget
    or returns to it.
    """
    advance(hold.id, hold.state, HoldAction.CAPTURE)
    _check_not_expired(hold, now)
    part = _part(hold, amount, original)
    rest = hold.open - part.amount if release_rest else ZERO
    left = replace(
        hold,
        amount=hold.amount + max(ZERO, amount - part.amount),
        captured=hold.captured + amount,
        released=hold.released + rest + max(ZERO, part.amount - amount),
        original_open=_less(hold, hold.original_open if release_rest else part.original),
    )
    action = HoldAction.CAPTURE if left.open else HoldAction.FINISH
    movement = _movement(hold, part.amount + rest, spent=amount)
    return movement, replace(left, state=advance(hold.id, hold.state, action))


def _less(hold: Hold, original: Decimal | None) -> Decimal | None:
    return None if hold.original_open is None or original is None else hold.original_open - original


def release(hold: Hold, amount: Decimal | None, original: Money | None = None) -> Change:
    """Release a part of a hold, or what is left of it.

    `original` is the amount if it is in a foreign currency. Raises HoldStateForbids or HoldExceeded.
    """
    advance(hold.id, hold.state, HoldAction.RELEASE)
    released = _part(hold, hold.open if amount is None else amount, original)
    left = replace(hold, released=hold.released + released.amount, original_open=_less(hold, released.original))
    if not left.open:
        ending = HoldAction.FINISH if left.captured else HoldAction.RELEASE
        left = replace(left, state=advance(hold.id, hold.state, ending))
    return _movement(hold, released.amount), left


def expire(hold: Hold) -> Change:
    """Release what is left of an expired hold. Raises HoldStateForbids."""
    state = advance(hold.id, hold.state, HoldAction.EXPIRE)
    left = replace(hold, state=state, released=hold.released + hold.open, original_open=_less(hold, hold.original_open))
    return Movement(held=-hold.open), left


def is_due(hold: Hold, now: datetime) -> bool:
    """True if the hold has expired but was not released yet."""
    return hold.state is HoldState.HELD and hold.expire_time is not None and hold.expire_time <= now


def _check_not_expired(hold: Hold, now: datetime) -> None:
    if is_due(hold, now):
        raise HoldExpired(hold.id, expired=hold.expire_time or now)


def _movement(hold: Hold, amount: Decimal, *, spent: Decimal = ZERO) -> Movement:
    """Return the movement that reduces a hold by an amount and spends a part of it."""
    if hold.state is HoldState.HELD:
        return Movement(spent=spent, held=-amount, captured=spent)
    return Movement(spent=spent, committed=-amount, captured=spent)
