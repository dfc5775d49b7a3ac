"""The changes of all services as one list: their order, their pages, and what is told when a service is away."""

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
from tests.gateway.backend import Asked, Backend
from tests.gateway.conftest import BASE

ROUTE = f"{BASE}/audit-events"
METHOD = "billing.audit.v1.AuditService/ListAuditEvents"
NOON = datetime(2026, 10, 1, 12, tzinfo=UTC)


@dataclass
class Log:
    """The log of one service: seconds after noon at which something changed, by the position of the row."""

    service: str
    backend: Backend
    pages: Pages
    tenant: UUID
    rows: dict[int, int] = field(default_factory=dict)

    def answers(self) -> None:
        self.backend.replies["ListAuditEvents"] = self.tell

    def tell(self, request: Any, asked: Asked) -> Any:
        """As a service does: what comes after the place of the token, and a token where there is more."""
        after = decode_position(self.pages, request, METHOD, self.tenant)
        places = sorted(
            (Position(NOON + timedelta(seconds=at), self.service, position) for position, at in self.rows.items()),
            key=lambda place: place.sort_key,
        )
        left = [place for place in places if after is None or place.sort_key > after.sort_key]
        size = request.page_size or SIZE_DEFAULT
        told, more = left[:size], left[size:]
        reply: Any = self.backend.message("audit.v1.ListAuditEventsResponse")
        for place in told:
            event = reply.audit_events.add(service=self.service, event_id=str(place.number), actor="alice")
            event.change_time.FromDatetime(place.time)
        if more:
            reply.next_page_token = encode_position(self.pages, told[-1], request, METHOD, self.tenant)
        return reply


@dataclass
class Gateway:
    client: httpx.AsyncClient
    entities: Log
    budgets: Log

    async def page(self, **query: Any) -> dict[str, Any]:
        answer = await self.client.get(ROUTE, params=query)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def walk(self, page_size: int) -> list[str]:
        """All pages, each line as "service position"."""
        told, token = [], ""
        while True:
            page = await self.page(page_size=page_size, page_token=token)
            assert len(page["audit_events"]) <= page_size
            told += [f"{event['service']} {event['event_id']}" for event in page["audit_events"]]
            token = page["next_page_token"]
            if not token:
                return told


@pytest.fixture
async def gateway(settings: Callable[..., Settings], token: Callable[..., str], tenant: UUID) -> AsyncIterator[Gateway]:
    """A gateway in front of two services, each with a log of its own."""
    async with AsyncExitStack() as stack:
        entities, budgets = [await stack.enter_async_context(backends.serving()) for _ in range(2)]
        told = settings("gateway", addresses={"entities": entities.address, "budgets": budgets.address})
        app = App(told, [route for route in routes.routes() if route.service != "approvals"])
        await app.limits.open()
        stack.push_async_callback(app.close)
        logs = [Log("entities", entities, Pages(told), tenant), Log("budgets", budgets, Pages(told), tenant)]
        for log in logs:
            log.answers()
        transport = httpx.ASGITransport(app, raise_app_exceptions=True)  # type: ignore[arg-type]
        headers = {"authorization": f"Bearer {token()}"}
        client = httpx.AsyncClient(transport=transport, base_url="http://gateway", headers=headers)
        yield Gateway(await stack.enter_async_context(client), *logs)


class TestOrder:
    async def test_the_newest_of_all_comes_first(self, gateway: Gateway) -> None:
        gateway.entities.rows = {1: 10, 2: 30}
        gateway.budgets.rows = {1: 20, 2: 40}
        assert await gateway.walk(100) == ["budgets 2", "entities 2", "budgets 1", "entities 1"]

    async def test_the_services_are_asked_with_the_callers_token_and_filters(self, gateway: Gateway) -> None:
        await gateway.page(actor="bob", resource_id="bud_" + "0" * 32, since_time="2026-10-01T00:00:00Z", page_size=7)
        for log in (gateway.entities, gateway.budgets):
            (asked,) = log.backend.asked
            request: Any = asked.request
            assert (request.actor, request.resource_id, request.page_size) == ("bob", "bud_" + "0" * 32, 7)
            assert request.since_time.ToDatetime() == datetime(2026, 10, 1)  # noqa: DTZ001 - as protobuf gives it
            assert asked.metadata["authorization"] == gateway.client.headers["authorization"]


class TestPages:
    @pytest.mark.parametrize("page_size", [1, 2, 3, 5, 100])
    async def test_every_line_is_on_one_page(self, gateway: Gateway, page_size: int) -> None:
        """Also where one service said much more than the other, and where both said something at the same moment."""
        gateway.entities.rows = {1: 10, 2: 10, 3: 20, 4: 5}
        gateway.budgets.rows = dict(enumerate([*range(8, 14), 10, 10, 20, 50, 60], 1))
        everything = await gateway.walk(1000)
        assert len(everything) == len(set(everything)) == 15
        assert await gateway.walk(page_size) == everything

    async def test_what_is_said_meanwhile_moves_nothing(self, gateway: Gateway) -> None:
        gateway.entities.rows = {1: 10, 2: 30}
        gateway.budgets.rows = {1: 20, 2: 40}
        first = await gateway.page(page_size=2)
        gateway.entities.rows[3] = 99
        gateway.budgets.rows[3] = 99
        rest = await gateway.page(page_size=2, page_token=first["next_page_token"])
        assert [(event["service"], event["event_id"]) for event in rest["audit_events"]] == [
            ("budgets", "1"),
            ("entities", "1"),
        ]

    async def test_a_token_is_good_for_its_filters_only(self, gateway: Gateway) -> None:
        gateway.entities.rows = {1: 10, 2: 30}
        token = (await gateway.page(page_size=1, actor="alice"))["next_page_token"]
        for name in ("entities", "budgets"):
            log: Log = getattr(gateway, name)
            request: Any = log.backend.message("audit.v1.ListAuditEventsRequest", page_token=token, actor="alice")
            assert decode_position(log.pages, request, METHOD, log.tenant) is not None, "each service takes it"


class TestAway:
    async def test_a_service_that_is_away_is_named_and_the_others_are_told(self, gateway: Gateway) -> None:
        gateway.entities.rows = {1: 10}
        gateway.budgets.rows = {1: 20}
        for fault in (Overloaded(), Internal("incident")):
            gateway.budgets.backend.replies["ListAuditEvents"] = fault
            page = await gateway.page()
            assert [event["service"] for event in page["audit_events"]] == ["entities"]
            assert page["unavailable_services"] == ["budgets"]
        gateway.budgets.answers()
        page = await gateway.page()
        assert ([event["service"] for event in page["audit_events"]], page["unavailable_services"]) == (
            ["budgets", "entities"],
            [],
        )

    async def test_a_service_that_says_nothing_is_not_waited_for_longer_than_the_limit(
        self, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(fan_out, "_TIMEOUT_S", 0.3)
        gateway.entities.rows = {1: 10}
        gateway.budgets.backend.replies["ListAuditEvents"] = lambda *_: asyncio.Event().wait()
        page = await gateway.page()
        assert (len(page["audit_events"]), page["unavailable_services"]) == (1, ["budgets"])

    async def test_the_same_page_can_be_had_whole_when_the_service_is_back(self, gateway: Gateway) -> None:
        gateway.entities.rows = {1: 10, 2: 30}
        gateway.budgets.rows = {1: 20, 2: 40}
        first = await gateway.page(page_size=2)
        gateway.budgets.backend.replies["ListAuditEvents"] = Overloaded()
        rest = await gateway.page(page_size=2, page_token=first["next_page_token"])
        assert [event["event_id"] for event in rest["audit_events"]] == ["1"]
        gateway.budgets.answers()
        again = await gateway.page(page_size=2, page_token=first["next_page_token"])
        assert len(again["audit_events"]) == 2

    async def test_nobody_there_is_no_empty_list(self, gateway: Gateway) -> None:
        for log in (gateway.entities, gateway.budgets):
            log.backend.replies["ListAuditEvents"] = Overloaded()
        assert (await gateway.client.get(ROUTE)).status_code == 503


class TestRefusals:
    async def test_what_is_wrong_with_the_question_is_refused_as_by_one_service(self, gateway: Gateway) -> None:
        gateway.entities.rows = {1: 10}
        for refusal, status in (
            (InvalidFields([Violation("actor", "no")]), 400),
            (PermissionMissing("audit.read"), 403),
        ):
            gateway.budgets.backend.replies["ListAuditEvents"] = refusal
            answer = await gateway.client.get(ROUTE)
            assert (answer.status_code, answer.json()["code"]) == (status, refusal.reason)

    async def test_what_the_gateway_refuses_reaches_nobody(self, gateway: Gateway) -> None:
        for query in ({"colour": "red"}, {"since_time": "yesterday"}):
            answer = await gateway.client.get(ROUTE, params=query)
            assert (answer.status_code, answer.json()["errors"][0]["field"]) == (400, next(iter(query)))
        assert (await gateway.client.get(ROUTE, headers={"authorization": "Bearer a.b.c"})).status_code == 401
        assert not gateway.entities.backend.asked
