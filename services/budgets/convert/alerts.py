"""Conversion of alerts."""

from billing.budgets.v1 import alert_service_pb2 as pb
from billing.budgets.v1.alert_pb2 import Alert as AlertMessage
from billing.budgets.v1.alert_pb2 import AlertEvent
from billing.budgets.v1.events_pb2 import BudgetAlertRaised

from contract.values import enum_or_none, money_to_proto, time_or_none, time_to_proto
from kit import ids
from kit.money import Money
from services.budgets.domain.alerts import Alert, AlertFilter, AlertState, AlertType, AlertWatch
from services.budgets.models.alerts import AlertRow


def to_proto(alert: Alert | AlertRow) -> AlertMessage:
    """Return the message of an alert, stored or just raised."""
    return AlertMessage(
        id=ids.ALERT.format(alert.id),
        budget_id=ids.BUDGET.format(alert.budget_id),
        alert_type=AlertMessage.Type.Value(alert.alert_type),
        threshold_bp=alert.threshold_bp,
        utilisation_bp=alert.utilisation_bp,
        amount=money_to_proto(Money(alert.amount, alert.currency_code)),
        spent=money_to_proto(Money(alert.spent, alert.currency_code)),
        used=money_to_proto(Money(alert.used, alert.currency_code)),
        charge_id=ids.ENTRY.format_optional(alert.charge_id),
        state=AlertMessage.State.Value(alert.state),
        create_time=time_to_proto(alert.create_time),
        update_time=time_to_proto(alert.update_time),
    )


def filter_from_proto(request: pb.ListAlertsRequest | pb.ListAllAlertsRequest) -> AlertFilter:
    """Return the filters of ListAlertsRequest or ListAllAlertsRequest."""
    return AlertFilter(
        budget_id=ids.BUDGET.parse(request.id) if isinstance(request, pb.ListAlertsRequest) else None,
        state=enum_or_none(AlertState, AlertMessage.State, request.state),
        alert_type=enum_or_none(AlertType, AlertMessage.Type, request.alert_type),
        since=time_or_none(request, "since_time") if isinstance(request, pb.ListAllAlertsRequest) else None,
    )


def watch_from_proto(request: pb.WatchAlertsRequest, after: int | None) -> AlertWatch:
    """Parse WatchAlertsRequest; `after` is the position of its last event."""
    return AlertWatch(
        after=after,
        budget_id=ids.BUDGET.parse_optional(request.budget_id, "budget_id"),
        alert_type=enum_or_none(AlertType, AlertMessage.Type, request.alert_type),
    )


def event_to_proto(event_id: str, event: BudgetAlertRaised) -> AlertEvent:
    """Convert an event to a message of the stream; `event_id` identifies its position on the event bus."""
    return AlertEvent(
        event_id=event_id,
        alert=event.alert,
        entity_id=event.entity_id,
        department_id=event.department_id,
        raised_time=event.alert.create_time,
    )
