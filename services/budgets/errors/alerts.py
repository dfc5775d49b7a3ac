"""Errors about alerts."""

from kit import ids
from kit.resources import ResourceNotFound, StateForbids


class AlertNotFound(ResourceNotFound):
    reason = "ALERT_NOT_FOUND"
    kind = ids.ALERT


class AlertStateForbids(StateForbids):
    reason = "ALERT_STATE"
    kind = ids.ALERT
