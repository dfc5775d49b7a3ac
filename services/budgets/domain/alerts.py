"""Alerts: types, states, actions and the table of transitions. Pure."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final
from uuid import UUID

from kit import resources
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
    """What is done to an alert; the value is how it reads in a sentence."""

    ACKNOWLEDGE = "acknowledged"
    RESOLVE = "resolved"


ALERT_TRANSITIONS: Final[Mapping[tuple[AlertState, AlertAction], AlertState]] = {
    (AlertState.OPEN, AlertAction.ACKNOWLEDGE): AlertState.ACKNOWLEDGED,
    (AlertState.OPEN, AlertAction.RESOLVE): AlertState.RESOLVED,
    (AlertState.ACKNOWLEDGED, AlertAction.RESOLVE): AlertState.RESOLVED,
}
"""The whole life of an alert."""


def advance(alert_id: UUID, state: AlertState, action: AlertAction) -> AlertState:
    """The state after `action`; raises AlertStateForbids naming the states in which it is allowed."""
    return resources.advance(ALERT_TRANSITIONS, alert_id, state, action, AlertStateForbids)
