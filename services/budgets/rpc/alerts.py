"""AlertService: lists, acknowledges and streams alerts."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from billing.budgets.v1 import alert_service_pb2 as pb
from billing.budgets.v1.alert_pb2 import Alert, AlertEvent
from billing.budgets.v1.events_pb2 import BudgetAlertRaised
from google.protobuf import json_format

from eventing.bus import EventBus
from kit import ids
from kit.auth import Scope
from kit.db import Database
from kit.errors import InvalidFields, Violation
from kit.origin import Call
from kit.telemetry import log
from services.budgets import convert, service, store
from services.budgets.domain.alerts import AlertWatch
from serving.pages import Pages
from serving.sealing import Seal


class AlertServicer:
    """billing.budgets.v1.AlertService."""

    service = pb.DESCRIPTOR.services_by_name["AlertService"]

    def __init__(self, db: Database, pages: Pages, bus: EventBus) -> None:
        self._db = db
        self._pages = pages
        self._bus = bus

    async def ListAlerts(self, request: pb.ListAlertsRequest, call: Call) -> pb.ListAlertsResponse:
        page, filters = self._pages.read(request, call), convert.alerts.filter_from_proto(request)
        async with self._db.read(call) as tx:
            await store.budgets.get(tx, ids.BUDGET.parse(request.id))
            listed = await store.alerts.list_page(tx, page, filters)
        alerts = map(convert.alerts.to_proto, listed.rows)
        return pb.ListAlertsResponse(alerts=alerts, next_page_token=listed.next_page_token)

    async def ListAllAlerts(self, request: pb.ListAllAlertsRequest, call: Call) -> pb.ListAllAlertsResponse:
        page, filters = self._pages.read(request, call), convert.alerts.filter_from_proto(request)
        async with self._db.read(call) as tx:
            listed = await store.alerts.list_page(tx, page, filters)
        alerts = map(convert.alerts.to_proto, listed.rows)
        return pb.ListAllAlertsResponse(alerts=alerts, next_page_token=listed.next_page_token)

    async def AcknowledgeAlert(self, request: pb.AcknowledgeAlertRequest, call: Call) -> Alert:
        async with self._db.write(call) as tx:
            alert = await service.alerts.acknowledge(tx, ids.ALERT.parse(request.id))
            return await tx.answer(convert.alerts.to_proto(alert))

    async def WatchAlerts(self, request: pb.WatchAlertsRequest, call: Call) -> AsyncIterator[AlertEvent]:
        seal = self._pages.seal(call.tenant_id)
        watch = convert.alerts.watch_from_proto(request, _position(seal, request.last_event_id))
        if watch.budget_id is not None:
            async with self._db.read(call) as tx:
                await store.budgets.get(tx, watch.budget_id)
        async with aclosing(_raised_alerts(self._bus, call, watch, seal)) as events:
            async for event in events:
                yield event


def _position(seal: Seal, event_id: str) -> int | None:
    """Return the position of an event on the event bus; None if there is no id. Raises InvalidFields."""
    try:
        return seal.unseal(event_id) if event_id else None
    except ValueError:
        problem = "is not an event of this stream; start again without it"
        raise InvalidFields([Violation("last_event_id", problem, "event_id.invalid")]) from None


async def _raised_alerts(bus: EventBus, call: Call, watch: AlertWatch, seal: Seal) -> AsyncGenerator[AlertEvent, None]:
    """Yield the alerts that match `watch` and the caller's scope as they are raised, each once, without end.

    A stream that starts now begins with an event without an alert: its id lets a caller whose stream breaks before the
    first alert resume without a gap. Raises Unavailable if the position of the bus can't be read.
    """
    after = watch.after
    if after is None:
        after = await bus.last_sequence()
        yield AlertEvent(event_id=seal.seal(after))
    subject = f"{BudgetAlertRaised.DESCRIPTOR.full_name}.{call.tenant_id.hex}"
    async with aclosing(bus.subscribe_after(subject, after)) as messages:
        async for sequence, message in messages:
            try:
                event = json_format.Parse(message.data, BudgetAlertRaised(), ignore_unknown_fields=True)
            except json_format.ParseError as error:
                log.warning("skipped an event that is not an alert", sequence=sequence, error=error)
                continue
            if _matches(event, call.scope, watch):
                yield convert.alerts.event_to_proto(seal.seal(sequence), event)


def _matches(event: BudgetAlertRaised, scope: Scope | None, watch: AlertWatch) -> bool:
    """True if the alert passes the filters and its budget is in the scope of the caller."""
    alert = event.alert
    if watch.budget_id is not None and alert.budget_id != ids.BUDGET.format(watch.budget_id):
        return False
    if watch.alert_type is not None and alert.alert_type != Alert.Type.Value(watch.alert_type):
        return False
    owner = ids.ENTITY.parse(event.entity_id), ids.DEPARTMENT.parse_optional(event.department_id)
    return scope is None or scope.covers(*owner)
