"""Alerts told as they are raised, over gRPC and as server-sent events: none is missed, and none is told twice."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest
import uvicorn
from billing.budgets.v1 import alert_service_pb2 as pb
from billing.budgets.v1.alert_pb2 import Alert, AlertEvent
from billing.budgets.v1.budget_pb2 import Budget
from billing.budgets.v1.events_pb2 import BudgetAlertRaised
from google.protobuf import json_format
from grpc import StatusCode
from nats.aio.client import Client

from deploy.local.ports import free_port
from gateway.app import App
from gateway.server import _Server
from kit.ids import BUDGET, new
from kit.settings import Settings
from services.budgets.main import compose
from tests.budgets.budgets_api import BudgetsApi
from tests.gateway.wire import Events
from tests.harness.callers import Caller, refusal
from tests.harness.observe import OutboxEvent, eventually
from tests.harness.services import Budgets, Entities, Served, served

MARKS = [1000, 2000, 3000, 4000, 5000, 6000, 7000, 8000, 9000]
WATCH = "/api/enterprise-billing/budgets/watch"


class Stream:
    """Somebody who watches alerts over gRPC."""

    def __init__(self, stub: Any, who: Caller, **given: Any) -> None:
        self.call: Any = stub.WatchAlerts(pb.WatchAlertsRequest(**given), metadata=who.metadata)
        self.seen = given.get("last_event_id", "")

    async def next(self) -> AlertEvent:
        event: AlertEvent = await asyncio.wait_for(anext(aiter(self.call)), 10)
        self.seen = event.event_id
        return event

    async def begun(self) -> "Stream":
        """Having been told where it begins."""
        assert not (await self.next()).HasField("alert")
        return self

    async def marks(self, count: int) -> list[int]:
        return [(await self.next()).alert.threshold_bp for _ in range(count)]

    def close(self) -> None:
        self.call.cancel()


@pytest.fixture
def watch(api: BudgetsApi) -> Iterator[Callable[..., Stream]]:
    """Watches, by default as the api: `watch(stub=…, who=…, budget_id=…)`."""
    streams: list[Stream] = []

    def begin(*, stub: Any = api.stubs.alerts, who: Caller = api.who, **given: Any) -> Stream:
        streams.append(Stream(stub, who, **given))
        return streams[-1]

    yield begin
    for stream in streams:
        stream.close()


@pytest.fixture
def replica(settings: Callable[..., Settings], entities_served: Served[Entities]) -> Callable[[int], Any]:
    """One more budgets service, at a port, as long as the block lasts."""

    def start(port: int) -> Any:
        addresses = {"entities": entities_served.address}
        return served(settings("budgets", listen=f"127.0.0.1:{port}", addresses=addresses), compose, Budgets)

    return start


async def open_marked(api: BudgetsApi, **given: Any) -> Budget:
    """A budget of 100 with an alert at every tenth."""
    return await api.open("100", alert_thresholds_bp=MARKS, **given)


class TestWatch:
    async def test_what_is_raised_from_now_on(
        self,
        api: BudgetsApi,
        watch: Callable[..., Stream],
        outbox_events: Callable[[str], Awaitable[list[OutboxEvent]]],
    ) -> None:
        budget = await open_marked(api)
        await api.charge(budget, "10")

        async def told_before() -> bool:
            return all(event.published for event in await outbox_events("budgets"))

        await eventually(told_before)
        stream = await watch().begun()
        charge = await api.charge(budget, "10")
        event = await stream.next()
        (alert, _) = await api.alerts(budget)
        assert event.raised_time == event.alert.create_time
        assert event.alert == alert
        assert (alert.threshold_bp, alert.charge_id) == (2000, charge.id)
        assert (event.entity_id, event.department_id) == (budget.entity_id, "")

    async def test_who_comes_back_goes_on_after_the_last_event(
        self, api: BudgetsApi, watch: Callable[..., Stream]
    ) -> None:
        budget = await open_marked(api)
        first = await watch().begun()
        began = first.seen
        await api.charge(budget, "30")
        assert await first.marks(2) == [1000, 2000]
        first.close()
        await api.charge(budget, "20")
        again = watch(last_event_id=first.seen)
        assert await again.marks(3) == [3000, 4000, 5000]
        await api.charge(budget, "10")
        assert await again.marks(1) == [6000]
        assert await watch(last_event_id=began).marks(6) == MARKS[:6], "who saw no alert yet knows where it began"

    async def test_filters(self, api: BudgetsApi, watch: Callable[..., Stream]) -> None:
        wanted, other = await open_marked(api), await open_marked(api, overspend_policy=Budget.WARN)
        of_budget = await watch(budget_id=wanted.id).begun()
        of_type = await watch(alert_type=Alert.OVERSPEND).begun()
        await api.charge(other, "101")
        await api.charge(wanted, "10")
        assert (await of_budget.next()).alert.budget_id == wanted.id
        told = (await of_type.next()).alert
        assert (told.alert_type, told.budget_id) == (Alert.OVERSPEND, other.id)

    async def test_who_is_confined_hears_of_their_own_only(
        self,
        api: BudgetsApi,
        api_for: Callable[[Caller], BudgetsApi],
        watch: Callable[..., Stream],
        caller: Callable[..., Caller],
    ) -> None:
        mine, others = await api.company("MINE"), await api.company("OTHERS")
        department = await api.department(others)
        budgets = [
            await open_marked(api, entity_id=others),
            await open_marked(api, entity_id=mine),
            await open_marked(api, entity_id=others, department_id=department),
        ]
        of_entity = await watch(who=caller("viewer", entity_scope=[mine])).begun()
        of_department = await watch(who=caller("viewer", department_scope=[department])).begun()
        elsewhere = api_for(caller(tenant=uuid4()))
        stranger = await watch(who=elsewhere.who).begun()
        for budget in budgets:
            await api.charge(budget, "10")
        assert (await of_entity.next()).entity_id == mine
        assert (await of_department.next()).department_id == department
        everything = await watch(last_event_id=of_entity.seen).next()
        assert everything.department_id == department, "the stream of the confined ended with theirs"
        theirs = await open_marked(elsewhere)
        await elsewhere.charge(theirs, "10")
        assert (await stranger.next()).alert.budget_id == theirs.id, "and nothing of another tenant before"

    async def test_a_budget_that_is_not_there_is_refused(
        self, api: BudgetsApi, watch: Callable[..., Stream], caller: Callable[..., Caller]
    ) -> None:
        budget = await open_marked(api)
        for who, budget_id in ((api.who, BUDGET.format(new())), (caller(tenant=uuid4()), budget.id)):
            assert (await refusal(watch(who=who, budget_id=budget_id).call.read())).reason == "BUDGET_NOT_FOUND"
        assert set((await refusal(watch(last_event_id="-1").call.read())).fields) == {"last_event_id"}
        assert (await refusal(watch(who=caller("service")).call.read())).reason == "PERMISSION_MISSING"

    async def test_what_is_no_alert_is_passed_over(
        self, api: BudgetsApi, watch: Callable[..., Stream], nats: Client, logs: list[dict[str, Any]]
    ) -> None:
        budget = await open_marked(api)
        stream = await watch().begun()
        subject = f"{BudgetAlertRaised.DESCRIPTOR.full_name}.{api.who.tenant_id.hex}"
        await nats.jetstream().publish(subject, b"?")
        await api.charge(budget, "10")
        assert await stream.marks(1) == [1000]
        assert [line["event"] for line in logs].count("skipped an event that is not an alert") == 1


class TestRestart:
    async def test_over_grpc_nothing_is_missed_or_told_twice(
        self, api: BudgetsApi, watch: Callable[..., Stream], replica: Callable[[int], Any]
    ) -> None:
        budget, port = await open_marked(api), free_port()
        async with replica(port) as service:
            stream = await watch(stub=service.stubs.alerts).begun()
            await api.charge(budget, "30")
            told = await stream.marks(3)
        assert await stream.call.code() in {StatusCode.UNAVAILABLE, StatusCode.CANCELLED}
        await api.charge(budget, "30")
        async with replica(port) as service:
            again = watch(stub=service.stubs.alerts, last_event_id=stream.seen)
            told += await again.marks(3)
            await api.charge(budget, "30")
            told += await again.marks(3)
        assert told == MARKS

    async def test_over_rest_with_last_event_id(
        self, api: BudgetsApi, replica: Callable[[int], Any], gateway: Callable[[int], Any]
    ) -> None:
        budget, port = await open_marked(api), free_port()
        told: list[int] = []
        async with gateway(port) as at:
            async with replica(port):
                events = await asyncio.wait_for(Events.open(at, WATCH, api.who.token), 5)
                assert events.headers["content-type"] == "text/event-stream"
                seen = (await events.event())["id"]
                await api.charge(budget, "20")
                seen = await heard(events, told, 2)
            assert (await events.event())["event"] == "error"
            events.close()
            await api.charge(budget, "30")
            async with replica(port):
                events = await coming_back(at, api.who.token, seen)
                seen = await heard(events, told, 3)
                await api.charge(budget, "10")
                await heard(events, told, 1)
                events.close()
        assert told == MARKS[:6]


async def heard(events: Events, told: list[int], count: int) -> str:
    """Adds the marks of the next events; gives the id of the last one."""
    seen = ""
    for _ in range(count):
        event = await asyncio.wait_for(events.event(), 10)
        assert event["event"] == "AlertEvent"
        assert event["data"]["event_id"] == event["id"]
        alert = json_format.ParseDict(event["data"], AlertEvent()).alert
        told.append(alert.threshold_bp)
        seen = event["id"]
    return seen


async def coming_back(port: int, token: str, seen: str) -> Events:
    """As a browser does it: again and again, with the id of the last event."""
    async with asyncio.timeout(20):
        while True:
            events = await Events.open(port, WATCH, token, last_event_id=seen)
            if events.status == 200:
                return events
            events.close()
            await asyncio.sleep(0.1)


@pytest.fixture
def gateway(settings: Callable[..., Settings], entities_served: Served[Entities]) -> Callable[[int], Any]:
    """A gateway in front of the budgets service at a port; gives its own port."""

    @contextlib.asynccontextmanager
    async def serve(port: int) -> AsyncIterator[int]:
        others = dict.fromkeys(("entities", "approvals"), entities_served.address)
        addresses = {**others, "budgets": f"127.0.0.1:{port}"}
        app = App(settings("gateway", addresses=addresses))
        await app.limits.open()
        listener = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(app, http="httptools", ws="none", lifespan="off", log_config=None, access_log=False)
        server = _Server(config)
        running = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield listener.getsockname()[1]
        finally:
            app.drain()
            server.should_exit = True
            await running
            await app.close()

    return serve
