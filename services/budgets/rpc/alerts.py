"""AlertService: lists, acknowledges and streams alerts."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from uuid import UUID

from billing.budgets.v1 import alert_service_pb2 as pb
from billing.budgets.v1.alert_pb2 import Alert, AlertEvent
from billing.budgets.v1.events_pb2 import BudgetAlertRaised
from google.protobuf import json_format

from contract.values import time_from_proto
from eventing.bus import EventBus
from kit import ids
from kit.db import Database
from kit.origin import Call
from kit.telemetry import log
from services.budgets import convert, service, store
from services.budgets.convert.alerts import Watch
from services.budgets.domain.alerts import AlertState, AlertType
from serving.pages import Pages


class AlertServicer:
    """billing.budgets.v1.AlertService."""

    service = pb.DESCRIPTOR.services_by_name["AlertService"]

    def __init__(self, db: Database, pages: Pages, bus: EventBus) -> None:
        self._db = db
        self._pages = pages
        self._bus = bus

    async def ListAlerts(self, request: pb.ListAlertsRequest, call: Call) -> pb.ListAlertsResponse:
        page = self._pages.read(request, call)
        async with self._db.read(call) as tx:
            budget = await store.budgets.get(tx, ids.BUDGET.parse(request.id))
            found = await store.alerts.list_page(
                tx,
                page,
                budget.id,
                state=AlertState(Alert.State.Name(request.state)) if request.state else None,
                alert_type=AlertType(Alert.Type.Name(request.alert_type)) if request.alert_type else None,
            )
        listed = map(convert.alerts.to_proto, found.rows)
        return pb.ListAlertsResponse(alerts=listed, next_page_token=found.next_page_token)

    async def ListAllAlerts(self, request: pb.ListAllAlertsRequest, call: Call) -> pb.ListAllAlertsResponse:
        page = self._pages.read(request, call)
        async with self._db.read(call) as tx:
            found = await store.alerts.list_page(
                tx,
                page,
                None,
                state=AlertState(Alert.State.Name(request.state)) if request.state else None,
                alert_type=AlertType(Alert.Type.Name(request.alert_type)) if request.alert_type else None,
                since=time_from_proto(request.since_time) if request.HasField("since_time") else None,
            )
        listed = map(convert.alerts.to_proto, found.rows)
        return pb.ListAllAlertsResponse(alerts=listed, next_page_token=found.next_page_token)

    async def AcknowledgeAlert(self, request: pb.AcknowledgeAlertRequest, call: Call) -> Alert:
        async with self._db.write(call) as tx:
            alert = await service.alerts.acknowledge(tx, ids.ALERT.parse(request.id))
            return await tx.answer(convert.alerts.to_proto(alert))

    async def WatchAlerts(self, request: pb.WatchAlertsRequest, call: Call) -> AsyncIterator[AlertEvent]:
        watch = convert.alerts.watch_from_proto(request, call.scope)
        if watch.budget_id is not None:
            async with self._db.read(call) as tx:
                await store.budgets.get(tx, watch.budget_id)
        async with aclosing(_follow(self._bus, call.tenant_id, watch)) as raised:
            async for event in raised:
                yield event


async def _follow(bus: EventBus, tenant_id: UUID, watch: Watch) -> AsyncGenerator[AlertEvent, None]:
    """The alerts of a tenant that somebody watches, as they are raised, each once, without end.

    Where they are to begin with the next one, an event without alert comes first: who loses the stream before there is
    an alert comes back with that, and misses none. Raises Unavailable where it can't be found out where that is.
    """
    after = watch.after
    if after is None:
        after = await bus.last_sequence()
        yield AlertEvent(event_id=str(after))
    subject = f"{BudgetAlertRaised.DESCRIPTOR.full_name}.{tenant_id.hex}"
    async with aclosing(bus.subscribe_after(subject, after)) as followed:
        async for sequence, message in followed:
            try:
                said = json_format.Parse(message.data, BudgetAlertRaised(), ignore_unknown_fields=True)
            except json_format.ParseError as error:
                log.warning("this is no alert", sequence=sequence, error=str(error)[:300])
                continue
            if watch.wants(said):
                yield convert.alerts.event_to_proto(sequence, said)
