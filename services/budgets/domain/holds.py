"""Holds: money set aside for a while, promised, taken in parts, given back. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Final
from uuid import UUID

from kit import resources
from kit.money import Money
from services.budgets.domain.balances import Movement
from services.budgets.errors.holds import HoldExceeded, HoldExpired, HoldStateForbids


class HoldState(StrEnum):
    """Hold.State."""

    HELD = "HELD"
    COMMITTED = "COMMITTED"
    CAPTURED = "CAPTURED"
    RELEASED = "RELEASED"
    EXPIRED = "EXPIRED"


class HoldAction(StrEnum):
    """What is done to a hold; the value is how it reads in a sentence."""

    COMMIT = "committed"
    CAPTURE = "captured"
    FINISH = "captured to its end"
    RELEASE = "released"
    EXPIRE = "let expire"


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
"""The whole life of a hold. Only what is merely held expires: what is committed was promised to somebody."""


def advance(hold_id: UUID, state: HoldState, action: HoldAction) -> HoldState:
    """The state after `action`; raises HoldStateForbids naming the states in which it is allowed."""
    return resources.advance(HOLD_TRANSITIONS, hold_id, state, action, HoldStateForbids)


@dataclass(frozen=True, slots=True)
class Hold:
    """A hold as the rules see it; amounts in its budget's currency."""

    id: UUID
    budget_id: UUID
    currency: str
    amount: Decimal
    captured: Decimal
    released: Decimal
    state: HoldState
    expires: datetime | None

    @property
    def open(self) -> Decimal:
        """What is still set aside."""
        return self.amount - self.captured - self.released

    def money(self, amount: Decimal) -> Money:
        """An amount in the currency of the hold."""
        return Money(amount, self.currency)


Change = tuple[Movement, Hold]
"""What a budget is moved by, and the hold afterwards."""


def commit(hold: Hold, now: datetime) -> Change:
    """Promise what is held: it does not expire any more. Raises HoldStateForbids or HoldExpired."""
    state = advance(hold.id, hold.state, HoldAction.COMMIT)
    _check_not_expired(hold, now)
    return Movement(held=-hold.open, committed=hold.open), replace(hold, state=state, expires=None)


def capture(hold: Hold, amount: Decimal, now: datetime, *, release_rest: bool) -> Change:
    """Spend some of what is set aside; the rest stays, or is given back. Raises HoldExceeded as well."""
    advance(hold.id, hold.state, HoldAction.CAPTURE)
    _check_not_expired(hold, now)
    if amount > hold.open:
        raise HoldExceeded(hold.id, requested=hold.money(amount), available=hold.money(hold.open))
    given_back = hold.open - amount if release_rest else Decimal(0)
    left = replace(hold, captured=hold.captured + amount, released=hold.released + given_back)
    action = HoldAction.CAPTURE if left.open else HoldAction.FINISH
    aside = -(amount + given_back)
    movement = _aside(hold, aside, spent=amount)
    return movement, replace(left, state=advance(hold.id, hold.state, action))


def release(hold: Hold, amount: Decimal | None) -> Change:
    """Give back some of what is set aside, or all that is left of it."""
    advance(hold.id, hold.state, HoldAction.RELEASE)
    given_back = hold.open if amount is None else amount
    if given_back > hold.open:
        raise HoldExceeded(hold.id, requested=hold.money(given_back), available=hold.money(hold.open))
    left = replace(hold, released=hold.released + given_back)
    if not left.open:
        ending = HoldAction.FINISH if left.captured else HoldAction.RELEASE
        left = replace(left, state=advance(hold.id, hold.state, ending))
    return _aside(hold, -given_back), left


def expire(hold: Hold) -> Change:
    """Give back what is held, since its time is over."""
    state = advance(hold.id, hold.state, HoldAction.EXPIRE)
    return Movement(held=-hold.open), replace(hold, state=state, released=hold.released + hold.open)


def is_due(hold: Hold, now: datetime) -> bool:
    """Whether the hold has outlived its time."""
    return hold.state is HoldState.HELD and hold.expires is not None and hold.expires <= now


def _check_not_expired(hold: Hold, now: datetime) -> None:
    if is_due(hold, now):
        raise HoldExpired(hold.id, expired=hold.expires or now)


def _aside(hold: Hold, aside: Decimal, *, spent: Decimal = Decimal(0)) -> Movement:
    if hold.state is HoldState.HELD:
        return Movement(spent=spent, held=aside, captured=spent)
    return Movement(spent=spent, committed=aside, captured=spent)
