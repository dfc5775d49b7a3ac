"""The audit logs of all services as one list: order, pagination, and unavailable services."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest

from contract import routes
from gateway import fan_out
from gateway.app import App
from kit.errors import Internal, InvalidFields, Overloaded, PermissionMissing, Violation
from kit.settings import Settings
from serving.pages import SIZE_DEFAULT, Pages
from serving.timeline import Position, decode_position, encode_position
from tests.gateway import backend as backends
from tests.gateway.backend import Backend, ReceivedCall
from tests.gateway.conftest import BASE

ROUTE = f"{BASE}/audit-events"
METHOD = "billing.audit.v1.AuditService/ListAuditEvents"
NOON = datetime(2026, 10, 1, 12, tzinfo=UTC)


@dataclass
class Log:
    """The audit log of one service: seconds after noon of each change, by the number of its row."""

    service: str
    backend: Backend
    pages: Pages
    tenant: UUID
    rows: dict[int, int] = field(default_factory=dict)

    def id(self, number: int) -> str:
        """Return the id of the event in row `number`."""
        return self.pages.seal(self.tenant).seal(number)

    def serve(self) -> None:
        self.backend.replies["ListAuditEvents"] = self.list_events

    def list_events(self, request: Any, received: ReceivedCall) -> Any:
        """Reply like a service: the events after the position in the token, and a token if there are more."""
        after = decode_position(self.pages, request, METHOD, self.tenant)
        positions = sorted(
            (Position(NOON + timedelta(seconds=second), self.service, number) for number, second in self.rows.items()),
            key=lambda position: position.sort_key,
        )
        remaining = [each for each in positions if after is None or each.sort_key > after.sort_key]
        size = request.page_size or SIZE_DEFAULT
        page, more = remaining[:size], remaining[size:]
        reply: Any = self.backend.message("audit.v1.ListAuditEventsResponse")
        for position in page:
            event = reply.audit_events.add(service=self.service, event_id=self.id(position.number), actor="alice")
            event.change_time.FromDatetime(position.time)
        if more:
            reply.next_page_token = encode_position(self.pages, page[-1], request, METHOD, self.tenant)
        return reply


@dataclass
class Gateway:
    client: httpx.AsyncClient
    entities: Log
    budgets: Log

    async def page(self, **query: Any) -> dict[str, Any]:
        response = await self.client.get(ROUTE, params=query)
        assert response.status_code == 200, response.text
        return dict(response.json())

    async def walk(self, page_size: int) -> list[str]:
        """Return the events of all pages, each as "service number"."""
        events, token = [], ""
        while True:
            page = await self.page(page_size=page_size, page_token=token)
            assert len(page["audit_events"]) <= page_size
            seal = self.entities.pages.seal(self.entities.tenant)
            events += [f"{event['service']} {seal.unseal(event['event_id'])}" for event in page["audit_events"]]
            token = page["next_page_token"]
            if not token:
                return events


@pytest.fixture
async def gateway(settings: Callable[..., Settings], token: Callable[..., str], tenant: UUID) -> AsyncIterator[Gateway]:
    """A gateway in front of two services, each with its own audit log."""
    async with AsyncExitStack() as stack:
        entities, budgets = [await stack.enter_async_context(backends.serving()) for _ in range(2)]
        gateway_settings = settings("gateway", addresses={"entities": entities.address, "budgets": budgets.address})
        app = App(gateway_settings, [route for route in routes.routes() if route.service != "approvals"])
        await app.limits.open()
        stack.push_async_callback(app.close)
        logs = [
            Log("entities", entities, Pages(gateway_settings), tenant),
            Log("budgets", budgets, Pages(gateway_settings), tenant),
        ]
        for log in logs:
            log.serve()
        transport = httpx.ASGITransport(app, raise_app_exceptions=True)  # type: ignore[arg-type]
        headers = {"authorization": f"Bearer {token()}"}
        client = httpx.AsyncClient(transport=transport, base_url="http://gateway", headers=headers)
        yield Gateway(await stack.enter_async_context(client), *logs)


class TestOrder:
    async def test_newest_event_of_all_services_comes_first(self, gateway: Gateway) -> None:
        gateway.entities.rows = {1: 10, 2: 30}
        gateway.budgets.rows = {1: 20, 2: 40}
        assert await gateway.walk(100) == ["budgets 2", "entities 2", "budgets 1", "entities 1"]

    async def test_services_receive_token_and_filters_of_the_caller(self, gateway: Gateway) -> None:
        await gateway.page(actor="bob", resource_id="bud_" + "0" * 32, since_time="2026-10-01T00:00:00Z", page_size=7)
        for log in (gateway.entities, gateway.budgets):
            (received,) = log.backend.received
            request: Any = received.request
            assert (request.actor, request.resource_id, request.page_size) == ("bob", "bud_" + "0" * 32, 7)
            assert request.since_time.ToDatetime() == datetime(2026, 10, 1)  # noqa: DTZ001 - as protobuf gives it
            assert received.metadata["authorization"] == gateway.client.headers["authorization"]


class TestPages:
    @pytest.mark.parametrize("page_size", [1, 2, 3, 5, 100])
    async def test_every_event_is_on_exactly_one_page(self, gateway: Gateway, page_size: int) -> None:
        """Also if one service has many more events than the other, and if both have events of the same time."""
        gateway.entities.rows = {1: 10, 2: 10, 3: 20, 4: 5}
        gateway.budgets.rows = dict(enumerate([*range(8, 14), 10, 10, 20, 50, 60], 1))
        everything = await gateway.walk(1000)
        assert len(everything) == len(set(everything)) == 15
        assert await gateway.walk(page_size) == everything

    async def test_new_events_do_not_shift_later_pages(self, gateway: Gateway) -> None:
        gateway.entities.rows = {1: 10, 2: 30}
        gateway.budgets.rows = {1: 20, 2: 40}
        first = await gateway.page(page_size=2)
        gateway.entities.rows[3] = 99
        gateway.budgets.rows[3] = 99
        rest = await gateway.page(page_size=2, page_token=first["next_page_token"])
        assert [(event["service"], event["event_id"]) for event in rest["audit_events"]] == [
            ("budgets", gateway.budgets.id(1)),
            ("entities", gateway.entities.id(1)),
        ]

    async def test_page_token_is_valid_for_every_service(self, gateway: Gateway) -> None:
        gateway.entities.rows = {1: 10, 2: 30}
        token = (await gateway.page(page_size=1, actor="alice"))["next_page_token"]
        for name in ("entities", "budgets"):
            log: Log = getattr(gateway, name)
            request: Any = log.backend.message("audit.v1.ListAuditEventsRequest", page_token=token, actor="alice")
            assert decode_position(log.pages, request, METHOD, log.tenant) is not None, "each service accepts it"


class TestUnavailableServices:
    async def test_unavailable_service_is_named_and_the_others_are_listed(self, gateway: Gateway) -> None:
        gateway.entities.rows = {1: 10}
        gateway.budgets.rows = {1: 20}
        for fault in (Overloaded(), Internal("incident")):
            gateway.budgets.backend.replies["ListAuditEvents"] = fault
            page = await gateway.page()
            assert [event["service"] for event in page["audit_events"]] == ["entities"]
            assert page["unavailable_services"] == ["budgets"]
        gateway.budgets.serve()
        page = await gateway.page()
        assert ([event["service"] for event in page["audit_events"]], page["unavailable_services"]) == (
            ["budgets", "entities"],
            [],
        )

    async def test_slow_service_is_left_out_after_the_timeout(
        self, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(fan_out, "_TIMEOUT_S", 0.3)
        gateway.entities.rows = {1: 10}
        gateway.budgets.backend.replies["ListAuditEvents"] = lambda *_: asyncio.Event().wait()
        page = await gateway.page()
        assert (len(page["audit_events"]), page["unavailable_services"]) == (1, ["budgets"])

    async def test_same_token_returns_the_complete_page_once_the_service_is_back(self, gateway: Gateway) -> None:
        gateway.entities.rows = {1: 10, 2: 30}
        gateway.budgets.rows = {1: 20, 2: 40}
        first = await gateway.page(page_size=2)
        gateway.budgets.backend.replies["ListAuditEvents"] = Overloaded()
        rest = await gateway.page(page_size=2, page_token=first["next_page_token"])
        assert [event["event_id"] for event in rest["audit_events"]] == [gateway.entities.id(1)]
        gateway.budgets.serve()
        complete = await gateway.page(page_size=2, page_token=first["next_page_token"])
        assert len(complete["audit_events"]) == 2

    async def test_no_available_service_is_503(self, gateway: Gateway) -> None:
        for log in (gateway.entities, gateway.budgets):
            log.backend.replies["ListAuditEvents"] = Overloaded()
        assert (await gateway.client.get(ROUTE)).status_code == 503


class TestErrors:
    async def test_error_of_the_caller_is_returned(self, gateway: Gateway) -> None:
        gateway.entities.rows = {1: 10}
        for error, status in (
            (InvalidFields([Violation("actor", "no")]), 400),
            (PermissionMissing("audit.read"), 403),
        ):
            gateway.budgets.backend.replies["ListAuditEvents"] = error
            response = await gateway.client.get(ROUTE)
            assert (response.status_code, response.json()["code"]) == (status, error.reason)

    async def test_request_rejected_by_the_gateway_reaches_no_service(self, gateway: Gateway) -> None:
        for query in ({"colour": "red"}, {"since_time": "yesterday"}):
            response = await gateway.client.get(ROUTE, params=query)
            assert (response.status_code, response.json()["errors"][0]["field"]) == (400, next(iter(query)))
        assert (await gateway.client.get(ROUTE, headers={"authorization": "Bearer a.b.c"})).status_code == 401
        assert not gateway.entities.backend.received
