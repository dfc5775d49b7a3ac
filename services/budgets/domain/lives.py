"""The lives of budgets, holds and alerts: what states there are, and which action leads from which to which."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final
from uuid import UUID

from kit import resources
from services.budgets.errors import AlertStateForbids, BudgetStateForbids, HoldStateForbids

DEPTH_MAX: Final = 8
"""Most levels of budgets above one another."""


class State(StrEnum):
    """Budget.State."""

    DRAFT = "DRAFT"
    ACTIVE = "ACTIVE"
    CLOSED = "CLOSED"


class Action(StrEnum):
    """What is done to a budget; the value is how it reads in a sentence."""

    ACTIVATE = "activated"
    CLOSE = "closed"
    REOPEN = "reopened"
    CHANGE = "changed"
    CHARGE = "charged"
    RETURN = "given money back"
    ADOPT = "given another budget below it"
    ROLL_OVER = "rolled over"


class PeriodType(StrEnum):
    """Budget.PeriodType."""

    MONTHLY = "MONTHLY"
    QUARTERLY = "QUARTERLY"
    ANNUAL = "ANNUAL"
    CUSTOM = "CUSTOM"


class OverspendPolicy(StrEnum):
    """Budget.OverspendPolicy."""

    BLOCK = "BLOCK"
    WARN = "WARN"
    ALLOW_WITHIN_TOLERANCE = "ALLOW_WITHIN_TOLERANCE"
    REQUIRE_APPROVAL = "REQUIRE_APPROVAL"


class Rollover(StrEnum):
    """Budget.Rollover."""

    NONE = "NONE"
    FULL = "FULL"
    CAPPED = "CAPPED"


class EntryType(StrEnum):
    """Entry.Type."""

    CHARGE = "CHARGE"
    ADJUST = "ADJUST"
    REFUND = "REFUND"
    HOLD = "HOLD"
    COMMIT = "COMMIT"
    CAPTURE = "CAPTURE"
    RELEASE = "RELEASE"
    EXPIRE = "EXPIRE"
    TRANSFER_IN = "TRANSFER_IN"
    TRANSFER_OUT = "TRANSFER_OUT"
    ROLLOVER_IN = "ROLLOVER_IN"
    ROLLOVER_OUT = "ROLLOVER_OUT"


class ChargeVerdict(StrEnum):
    """Charge.Verdict."""

    ACCEPTED = "ACCEPTED"
    ACCEPTED_OVERSPENT = "ACCEPTED_OVERSPENT"


class AvailabilityVerdict(StrEnum):
    """Availability.Verdict."""

    AVAILABLE = "AVAILABLE"
    AVAILABLE_OVERSPENT = "AVAILABLE_OVERSPENT"
    EXCEEDED = "EXCEEDED"
    NOT_ACTIVE = "NOT_ACTIVE"
    OUTSIDE_PERIOD = "OUTSIDE_PERIOD"
    APPROVAL_REQUIRED = "APPROVAL_REQUIRED"


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


class AlertType(StrEnum):
    """Alert.Type."""

    THRESHOLD = "THRESHOLD"
    OVERSPEND = "OVERSPEND"
    FORECAST = "FORECAST"


class AlertState(StrEnum):
    """Alert.State."""

    OPEN = "OPEN"
    ACKNOWLEDGED = "ACKNOWLEDGED"
    RESOLVED = "RESOLVED"


class AlertAction(StrEnum):
    """What is done to an alert; the value is how it reads in a sentence."""

    ACKNOWLEDGE = "acknowledged"
    RESOLVE = "resolved"


BUDGET_LIFE: Final[Mapping[tuple[State, Action], State]] = {
    (State.DRAFT, Action.ACTIVATE): State.ACTIVE,
    (State.DRAFT, Action.CLOSE): State.CLOSED,
    (State.DRAFT, Action.CHANGE): State.DRAFT,
    (State.DRAFT, Action.ADOPT): State.DRAFT,
    (State.ACTIVE, Action.CLOSE): State.CLOSED,
    (State.ACTIVE, Action.CHANGE): State.ACTIVE,
    (State.ACTIVE, Action.CHARGE): State.ACTIVE,
    (State.ACTIVE, Action.RETURN): State.ACTIVE,
    (State.ACTIVE, Action.ADOPT): State.ACTIVE,
    (State.ACTIVE, Action.ROLL_OVER): State.CLOSED,
    (State.CLOSED, Action.RETURN): State.CLOSED,
    (State.CLOSED, Action.REOPEN): State.ACTIVE,
}
"""The whole life of a budget; what is not here is not allowed."""

HOLD_LIFE: Final[Mapping[tuple[HoldState, HoldAction], HoldState]] = {
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

ALERT_LIFE: Final[Mapping[tuple[AlertState, AlertAction], AlertState]] = {
    (AlertState.OPEN, AlertAction.ACKNOWLEDGE): AlertState.ACKNOWLEDGED,
    (AlertState.OPEN, AlertAction.RESOLVE): AlertState.RESOLVED,
    (AlertState.ACKNOWLEDGED, AlertAction.RESOLVE): AlertState.RESOLVED,
}
"""The whole life of an alert."""


def advance(budget_id: UUID, state: State, action: Action) -> State:
    """The state after `action`; raises BudgetStateForbids naming the states in which it is allowed."""
    return resources.advance(BUDGET_LIFE, budget_id, state, action, BudgetStateForbids)


def advance_hold(hold_id: UUID, state: HoldState, action: HoldAction) -> HoldState:
    """The state after `action`; raises HoldStateForbids naming the states in which it is allowed."""
    return resources.advance(HOLD_LIFE, hold_id, state, action, HoldStateForbids)


def advance_alert(alert_id: UUID, state: AlertState, action: AlertAction) -> AlertState:
    """The state after `action`; raises AlertStateForbids naming the states in which it is allowed."""
    return resources.advance(ALERT_LIFE, alert_id, state, action, AlertStateForbids)
