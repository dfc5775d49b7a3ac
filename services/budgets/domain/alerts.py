"""Alerts: types, states, thresholds and input types."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Final, NamedTuple
from uuid import UUID

from kit import resources
from kit.money import BP
from services.budgets.domain.balances import Balance
from services.budgets.errors.alerts import AlertStateForbids


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
    """Actions on an alert; the value is the past participle used in error messages."""

    ACKNOWLEDGE = "acknowledged"
    RESOLVE = "resolved"


ALERT_TRANSITIONS: Final[Mapping[tuple[AlertState, AlertAction], AlertState]] = {
    (AlertState.OPEN, AlertAction.ACKNOWLEDGE): AlertState.ACKNOWLEDGED,
    (AlertState.OPEN, AlertAction.RESOLVE): AlertState.RESOLVED,
    (AlertState.ACKNOWLEDGED, AlertAction.RESOLVE): AlertState.RESOLVED,
}
"""The complete life cycle of an alert. Every pair that is not listed is forbidden."""


def advance(alert_id: UUID, state: AlertState, action: AlertAction) -> AlertState:
    """Return the state after `action`. Raises AlertStateForbids."""
    return resources.advance(ALERT_TRANSITIONS, alert_id, state, action, AlertStateForbids)


class AlertThreshold(NamedTuple):
    """A share of a budget's total at which an alert is raised: one of its own thresholds, or all of it."""

    type: AlertType
    threshold_bp: int


FORECAST: Final = AlertThreshold(AlertType.FORECAST, BP)
"""Reached when the spend expected at the end of the period is above the total."""
REACHED_BY_USE: Final = frozenset({AlertType.THRESHOLD, AlertType.OVERSPEND})
"""The types of the thresholds that are reached by what is used, not by a forecast."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertFilter:
    """Filters of a list of alerts; None matches every alert."""

    budget_id: UUID | None = None
    state: AlertState | None = None
    alert_type: AlertType | None = None
    since: datetime | None = None
    """Alerts that were raised at this time or later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertWatch:
    """Filters of a stream of alerts; None matches every alert."""

    after: int | None
    """Sequence number of the event after which the stream starts. None: only alerts that are raised from now on."""
    budget_id: UUID | None
    alert_type: AlertType | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """An alert that is raised. The fields are the columns of its table."""

    tenant_id: UUID
    id: UUID
    budget_id: UUID
    alert_type: AlertType
    threshold_bp: int
    utilisation_bp: int
    currency_code: str
    amount: Decimal
    """The total of the budget."""
    spent: Decimal
    used: Decimal
    """What was spent, held or committed; for a forecast, what is expected to be spent."""
    charge_id: UUID | None
    """The entry that crossed the threshold."""
    state: AlertState = AlertState.OPEN
    version: int = 1
    create_time: datetime
    update_time: datetime


def new(
    balance: Balance,
    threshold: AlertThreshold,
    *,
    id: UUID,
    now: datetime,
    charge_id: UUID | None = None,
    expected: Decimal | None = None,
) -> Alert:
    """Return the alert of a budget that reached a threshold, or is `expected` to."""
    used = balance.used if expected is None else expected
    return Alert(
        tenant_id=balance.terms.tenant_id,
        id=id,
        budget_id=balance.terms.id,
        alert_type=threshold.type,
        threshold_bp=threshold.threshold_bp,
        utilisation_bp=balance.share_bp(used),
        currency_code=balance.terms.currency,
        amount=balance.total,
        spent=balance.spent,
        used=used,
        charge_id=charge_id,
        create_time=now,
        update_time=now,
    )


def reached(balance: Balance) -> set[AlertThreshold]:
    """Return the thresholds that the budget has reached; each is to have one open alert.

    A budget that is overspent by what was carried forward has reached all of them, even if nothing is used of it yet.
    """
    used = balance.used
    if used <= 0 and not balance.overspent:
        return set()
    total, used_bp = balance.total, used * BP
    thresholds = {
        AlertThreshold(AlertType.THRESHOLD, bp)
        for bp in balance.terms.thresholds_bp
        if total < 0 or used_bp >= total * bp
    }
    return thresholds | {AlertThreshold(AlertType.OVERSPEND, BP)} if balance.overspent else thresholds


def ordered(thresholds: Iterable[AlertThreshold]) -> Sequence[AlertThreshold]:
    """Return thresholds in the order in which a budget reaches them."""
    return sorted(thresholds, key=lambda threshold: (threshold.threshold_bp, threshold.type))
