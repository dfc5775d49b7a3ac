"""Alerts to messages, and what watchers want to be told of them."""

from typing import NamedTuple
from uuid import UUID

from billing.budgets.v1.alert_pb2 import Alert as AlertMessage
from billing.budgets.v1.alert_pb2 import AlertEvent
from billing.budgets.v1.alert_service_pb2 import WatchAlertsRequest
from billing.budgets.v1.events_pb2 import BudgetAlertRaised

from contract.values import money_to_proto, time_to_proto
from kit import ids
from kit.auth import Scope
from kit.money import Money
from services.budgets.domain.alerts import Alert
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


class Watch(NamedTuple):
    """Which alerts somebody wants to be told of."""

    after: int | None
    """The event after which to begin; None: with what is raised next."""
    budget_id: UUID | None
    alert_type: int
    """0: any."""
    scope: Scope | None
    """What a confined watcher may see."""

    def wants(self, said: BudgetAlertRaised) -> bool:
        """Whether the alert is one of those, and of a budget that the watcher may see."""
        alert = said.alert
        if self.budget_id is not None and alert.budget_id != ids.BUDGET.format(self.budget_id):
            return False
        if self.alert_type and alert.alert_type != self.alert_type:
            return False
        owner = ids.ENTITY.parse(said.entity_id), ids.DEPARTMENT.parse_optional(said.department_id)
        return self.scope is None or self.scope.covers(*owner)


def watch_from_proto(request: WatchAlertsRequest, scope: Scope | None) -> Watch:
    """What WatchAlerts asks for, of somebody who may see so much."""
    return Watch(
        after=int(request.last_event_id) if request.last_event_id else None,
        budget_id=ids.BUDGET.parse_optional(request.budget_id, "budget_id"),
        alert_type=request.alert_type,
        scope=scope,
    )


def event_to_proto(sequence: int, said: BudgetAlertRaised) -> AlertEvent:
    """What was said with this number, as watchers get it."""
    return AlertEvent(
        event_id=str(sequence),
        alert=said.alert,
        entity_id=said.entity_id,
        department_id=said.department_id,
        raised_time=said.alert.create_time,
    )
