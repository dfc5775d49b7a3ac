"""The stream of alerts, over gRPC and as server-sent events: each alert exactly once."""

import asyncio
import contextlib
import itertools
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest
from billing.budgets.v1 import alert_service_pb2 as pb
from billing.budgets.v1.alert_pb2 import Alert, AlertEvent
from billing.budgets.v1.budget_pb2 import Budget
from billing.budgets.v1.events_pb2 import BudgetAlertRaised
from google.protobuf import json_format
from grpc import StatusCode
from nats.aio.client import Client

from deploy.local.ports import free_port
from gateway.app import App
from gateway.server import HttpServer
from kit.ids import BUDGET, new
from kit.settings import Settings
from services.budgets.main import compose
from tests.budgets.budgets_api import BudgetsApi
from tests.gateway.wire import Events
from tests.harness.callers import Caller, refusal
from tests.harness.observe import OutboxEvent, eventually
from tests.harness.services import Budgets, Entities, Served, served

THRESHOLDS = [1000, 2000, 3000, 4000, 5000, 6000, 7000, 8000, 9000]
WATCH = "/api/enterprise-billing/budgets/watch"


class Stream:
    """A stream of alerts over gRPC."""

    def __init__(self, stub: Any, who: Caller, **given: Any) -> None:
        self.call: Any = stub.WatchAlerts(pb.WatchAlertsRequest(**given), metadata=who.metadata)
        self.last_event_id = given.get("last_event_id", "")

    async def next(self) -> AlertEvent:
        event: AlertEvent = await asyncio.wait_for(anext(aiter(self.call)), 10)
        self.last_event_id = event.event_id
        return event

    async def started(self) -> "Stream":
        """Wait for the first message, which has the position of the stream and no alert."""
        assert not (await self.next()).HasField("alert")
        return self

    async def thresholds(self, count: int) -> list[int]:
        return [(await self.next()).alert.threshold_bp for _ in range(count)]

    def close(self) -> None:
        self.call.cancel()


@pytest.fixture
def watch(api: BudgetsApi) -> Iterator[Callable[..., Stream]]:
    """Open a stream, by default as the caller of `api`: `watch(stub=…, who=…, budget_id=…)`."""
    streams: list[Stream] = []

    def begin(*, stub: Any = api.stubs.alerts, who: Caller = api.who, **given: Any) -> Stream:
        streams.append(Stream(stub, who, **given))
        return streams[-1]

    yield begin
    for stream in streams:
        stream.close()


@pytest.fixture
def replica(settings: Callable[..., Settings], entities_served: Served[Entities]) -> Callable[[int], Any]:
    """Run one more budgets service at a port while the block runs."""

    def start(port: int) -> Any:
        addresses = {"entities": entities_served.address}
        return served(settings("budgets", listen=f"127.0.0.1:{port}", addresses=addresses), compose, Budgets)

    return start


async def open_with_thresholds(api: BudgetsApi, **given: Any) -> Budget:
    """Create a budget of 100 with an alert threshold at every tenth."""
    return await api.open("100", alert_thresholds_bp=THRESHOLDS, **given)


class TestWatch:
    async def test_stream_starts_with_new_alerts(
        self,
        api: BudgetsApi,
        watch: Callable[..., Stream],
        outbox_events: Callable[[str], Awaitable[list[OutboxEvent]]],
    ) -> None:
        budget = await open_with_thresholds(api)
        await api.charge(budget, "10")

        async def all_published() -> bool:
            return all(event.published for event in await outbox_events("budgets"))

        await eventually(all_published)
        stream = await watch().started()
        charge = await api.charge(budget, "10")
        event = await stream.next()
        (alert, _) = await api.alerts(budget)
        assert event.raised_time == event.alert.create_time
        assert event.alert == alert
        assert (alert.threshold_bp, alert.charge_id) == (2000, charge.id)
        assert (event.entity_id, event.department_id) == (budget.entity_id, "")

    async def test_reconnected_stream_continues_after_the_last_event(
        self, api: BudgetsApi, watch: Callable[..., Stream]
    ) -> None:
        budget = await open_with_thresholds(api)
        first = await watch().started()
        position = first.last_event_id
        await api.charge(budget, "30")
        assert await first.thresholds(2) == [1000, 2000]
        first.close()
        await api.charge(budget, "20")
        again = watch(last_event_id=first.last_event_id)
        assert await again.thresholds(3) == [3000, 4000, 5000]
        await api.charge(budget, "10")
        assert await again.thresholds(1) == [6000]
        from_start = await watch(last_event_id=position).thresholds(6)
        assert from_start == THRESHOLDS[:6], "the first message has a position too, before any alert"

    async def test_filters(self, api: BudgetsApi, watch: Callable[..., Stream]) -> None:
        budget, other = await open_with_thresholds(api), await open_with_thresholds(api, overspend_policy=Budget.WARN)
        of_budget = await watch(budget_id=budget.id).started()
        of_type = await watch(alert_type=Alert.OVERSPEND).started()
        await api.charge(other, "101")
        await api.charge(budget, "10")
        assert (await of_budget.next()).alert.budget_id == budget.id
        alert = (await of_type.next()).alert
        assert (alert.alert_type, alert.budget_id) == (Alert.OVERSPEND, other.id)

    async def test_scope_limits_the_stream(
        self,
        api: BudgetsApi,
        api_for: Callable[[Caller], BudgetsApi],
        watch: Callable[..., Stream],
        caller: Callable[..., Caller],
    ) -> None:
        mine, others = await api.company("MINE"), await api.company("OTHERS")
        department = await api.department(others)
        budgets = [
            await open_with_thresholds(api, entity_id=others),
            await open_with_thresholds(api, entity_id=mine),
            await open_with_thresholds(api, entity_id=others, department_id=department),
        ]
        of_entity = await watch(who=caller("viewer", entity_scope=[mine])).started()
        of_department = await watch(who=caller("viewer", department_scope=[department])).started()
        stranger = api_for(caller(tenant=uuid4()))
        foreign_stream = await watch(who=stranger.who).started()
        for budget in budgets:
            await api.charge(budget, "10")
        assert (await of_entity.next()).entity_id == mine
        assert (await of_department.next()).department_id == department
        everything = await watch(last_event_id=of_entity.last_event_id).next()
        assert everything.department_id == department, "the earlier alerts of others were not streamed within the scope"
        foreign = await open_with_thresholds(stranger)
        await stranger.charge(foreign, "10")
        assert (await foreign_stream.next()).alert.budget_id == foreign.id, "alerts of another tenant are not streamed"

    async def test_ids_show_nothing_of_other_tenants(
        self,
        api: BudgetsApi,
        api_for: Callable[[Caller], BudgetsApi],
        watch: Callable[..., Stream],
        caller: Callable[..., Caller],
    ) -> None:
        """Positions count the events of all tenants, so a difference of ids would show how many others had."""
        budget, stranger = await open_with_thresholds(api), api_for(caller(tenant=uuid4()))
        stream = await watch().started()
        event_ids = [stream.last_event_id]
        for _ in range(3):
            await api.charge(budget, "10")
            await stream.next()
            event_ids.append(stream.last_event_id)
        assert all(len(event_id) == 32 for event_id in event_ids)
        numbers = [int(event_id, 16) for event_id in event_ids]
        assert all(abs(number - other) > 2**64 for number, other in itertools.pairwise(numbers))
        refused = await refusal(watch(who=stranger.who, last_event_id=event_ids[0]).call.read())
        assert set(refused.fields) == {"last_event_id"}, "an id is valid for its own tenant"

    async def test_unknown_budget_is_not_found(
        self, api: BudgetsApi, watch: Callable[..., Stream], caller: Callable[..., Caller]
    ) -> None:
        budget = await open_with_thresholds(api)
        for who, budget_id in ((api.who, BUDGET.format(new())), (caller(tenant=uuid4()), budget.id)):
            assert (await refusal(watch(who=who, budget_id=budget_id).call.read())).reason == "BUDGET_NOT_FOUND"
        for invalid in ("-1", "4711", "0" * 32):
            assert set((await refusal(watch(last_event_id=invalid).call.read())).fields) == {"last_event_id"}
        assert (await refusal(watch(who=caller("service")).call.read())).reason == "PERMISSION_MISSING"

    async def test_other_messages_are_skipped(
        self, api: BudgetsApi, watch: Callable[..., Stream], nats: Client, logs: list[dict[str, Any]]
    ) -> None:
        budget = await open_with_thresholds(api)
        stream = await watch().started()
        subject = f"{BudgetAlertRaised.DESCRIPTOR.full_name}.{api.who.tenant_id.hex}"
        await nats.jetstream().publish(subject, b"?")
        await api.charge(budget, "10")
        assert await stream.thresholds(1) == [1000]
        assert [line["event"] for line in logs].count("skipped an event that is not an alert") == 1


class TestRestart:
    async def test_grpc_stream_has_each_alert_once_across_restarts(
        self, api: BudgetsApi, watch: Callable[..., Stream], replica: Callable[[int], Any]
    ) -> None:
        budget, port = await open_with_thresholds(api), free_port()
        async with replica(port) as service:
            stream = await watch(stub=service.stubs.alerts).started()
            await api.charge(budget, "30")
            thresholds = await stream.thresholds(3)
        assert await stream.call.code() in {StatusCode.UNAVAILABLE, StatusCode.CANCELLED}
        await api.charge(budget, "30")
        async with replica(port) as service:
            again = watch(stub=service.stubs.alerts, last_event_id=stream.last_event_id)
            thresholds += await again.thresholds(3)
            await api.charge(budget, "30")
            thresholds += await again.thresholds(3)
        assert thresholds == THRESHOLDS

    async def test_sse_stream_continues_with_last_event_id(
        self, api: BudgetsApi, replica: Callable[[int], Any], gateway: Callable[[int], Any]
    ) -> None:
        budget, port = await open_with_thresholds(api), free_port()
        thresholds: list[int] = []
        async with gateway(port) as at:
            async with replica(port):
                events = await asyncio.wait_for(Events.open(at, WATCH, api.who.token), 5)
                assert events.headers["content-type"] == "text/event-stream"
                last_event_id = (await events.event())["id"]
                await api.charge(budget, "20")
                last_event_id = await received_events(events, thresholds, 2)
            assert (await events.event())["event"] == "error"
            events.close()
            await api.charge(budget, "30")
            async with replica(port):
                events = await reconnect(at, api.who.token, last_event_id)
                last_event_id = await received_events(events, thresholds, 3)
                await api.charge(budget, "10")
                await received_events(events, thresholds, 1)
                events.close()
        assert thresholds == THRESHOLDS[:6]


async def received_events(events: Events, thresholds: list[int], count: int) -> str:
    """Append the thresholds of the next events; return the id of the last one."""
    last_event_id = ""
    for _ in range(count):
        event = await asyncio.wait_for(events.event(), 10)
        assert event["event"] == "AlertEvent"
        assert event["data"]["event_id"] == event["id"]
        alert = json_format.ParseDict(event["data"], AlertEvent()).alert
        thresholds.append(alert.threshold_bp)
        last_event_id = event["id"]
    return last_event_id


async def reconnect(port: int, token: str, last_event_id: str) -> Events:
    """Connect as a browser does: repeatedly, with the id of the last event."""
    async with asyncio.timeout(20):
        while True:
            events = await Events.open(port, WATCH, token, last_event_id=last_event_id)
            if events.status == 200:
                return events
            events.close()
            await asyncio.sleep(0.1)


@pytest.fixture
def gateway(settings: Callable[..., Settings], entities_served: Served[Entities]) -> Callable[[int], Any]:
    """Run a gateway in front of the budgets service at a port; yield the port of the gateway."""

    @contextlib.asynccontextmanager
    async def serve(port: int) -> AsyncIterator[int]:
        others = dict.fromkeys(("entities", "approvals"), entities_served.address)
        addresses = {**others, "budgets": f"127.0.0.1:{port}"}
        gateway_settings = settings("gateway", addresses=addresses)
        app = App(gateway_settings)
        await app.limits.open()
        listener = socket.create_server(("127.0.0.1", 0))
        server = HttpServer(app, gateway_settings)
        running = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield listener.getsockname()[1]
        finally:
            app.drain()
            server.should_exit = True
            await running
            await app.close()

    return serve
