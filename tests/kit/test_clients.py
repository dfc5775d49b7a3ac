"""Calls to other services: as a service, for somebody, in the time that is left, tried again only where it is safe."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing
from typing import Any, TypeVar
from urllib.parse import unquote
from uuid import UUID

import pytest
from billing.entities.v1.entity_pb2 import Entity
from billing.entities.v1.entity_service_pb2 import (
    CreateEntityRequest,
    GetEntitiesRequest,
    GetEntitiesResponse,
    ResolveScopeRequest,
    ResolveScopeResponse,
)
from billing.entities.v1.entity_service_pb2_grpc import EntityServiceStub
from google.protobuf.message import Message
from grpc import (
    StatusCode,
    aio,
    method_handlers_generic_handler,
    unary_stream_rpc_method_handler,
    unary_unary_rpc_method_handler,
)

from contract.methods import COMMON_APIS, methods
from kit import ids
from kit.auth import Authenticator, bearer_token
from kit.errors import Unavailable
from kit.origin import Call, Origin
from kit.settings import Settings
from serving import clients
from serving.clients import ServiceClient
from serving.scope import RemoteScopes, scope_ids_of
from tests.harness.observe import eventually

T = TypeVar("T", bound=Message)
SERVICE = "billing.entities.v1.EntityService"


class Fake:
    """Another service's replica, of which a test says how it answers; what it was sent is kept."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.metadata: list[dict[str, str]] = []
        self.remaining: list[float] = []
        self.refusals: list[StatusCode] = []
        self.address = ""

    def answer(self, reply: Message) -> Callable[[Any, Any], Awaitable[Message]]:
        async def handle(request: Any, context: Any) -> Message:
            self.requests.append(request)
            self.metadata.append({key: value for key, value in context.invocation_metadata() if isinstance(value, str)})
            self.remaining.append(context.time_remaining())
            if self.refusals:
                await context.abort(self.refusals.pop(0), "as the test says")
            return reply

        return handle

    async def start(self, stack: AsyncExitStack) -> None:
        methods: dict[str, Any] = {
            "GetEntities": (GetEntitiesRequest, GetEntitiesResponse()),
            "ResolveScope": (ResolveScopeRequest, ResolveScopeResponse(entity_ids=[ids.ENTITY.format(UUID(int=1))])),
            "CreateEntity": (CreateEntityRequest, Entity()),
        }
        handlers = {
            name: unary_unary_rpc_method_handler(
                self.answer(reply),
                request_deserializer=request.FromString,
                response_serializer=type(reply).SerializeToString,
            )
            for name, (request, reply) in methods.items()
        }
        server = aio.server()
        server.add_generic_rpc_handlers([method_handlers_generic_handler(SERVICE, handlers)])
        self.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        stack.push_async_callback(server.stop, None)


@pytest.fixture
async def fakes() -> AsyncIterator[list[Fake]]:
    """Two replicas."""
    async with AsyncExitStack() as stack:
        replicas = [Fake(), Fake()]
        for replica in replicas:
            await replica.start(stack)
        yield replicas


@pytest.fixture
async def peer(fakes: list[Fake], kit_settings: Callable[..., Settings]) -> AsyncIterator[ServiceClient]:
    """The service of which the first replica is known."""
    peer = ServiceClient(kit_settings(addresses={"entities": fakes[0].address}), "entities")
    yield peer
    await peer.channel.close()


Origins = Callable[..., Origin]


class TestCall:
    async def test_it_says_who_we_are_for_whom_we_ask_and_in_which_trace(
        self, peer: ServiceClient, fakes: list[Fake], origin: Origins, kit_settings: Callable[..., Settings]
    ) -> None:
        mine = origin(actor="Zoë")
        await peer.call(EntityServiceStub(peer.channel).GetEntities, GetEntitiesRequest(ids=["x"]), mine)
        (sent,) = fakes[0].metadata
        principal = await Authenticator(kit_settings()).authenticate(bearer_token(sent["authorization"]))
        assert (principal.tenant_id, principal.subject) == (mine.tenant_id, "service:budgets")
        assert principal.permissions == {"service"}
        assert unquote(sent["x-actor"]) == "Zoë"
        assert sent["traceparent"].split("-")[1] == mine.trace.trace_id

    async def test_it_gets_the_time_that_is_left_but_for_some_to_answer(
        self, peer: ServiceClient, fakes: list[Fake], origin: Origins
    ) -> None:
        await peer.call(
            EntityServiceStub(peer.channel).GetEntities, GetEntitiesRequest(), origin(deadline=time.monotonic() + 2)
        )
        assert 1.5 < fakes[0].remaining[0] < 1.9

    async def test_a_write_gets_a_key_so_that_it_can_be_repeated(
        self, peer: ServiceClient, fakes: list[Fake], origin: Origins
    ) -> None:
        create = EntityServiceStub(peer.channel).CreateEntity
        fakes[0].refusals = [StatusCode.UNAVAILABLE]
        await peer.call(create, CreateEntityRequest(), origin())
        await peer.call(create, CreateEntityRequest(request_id="mine"), origin())
        first, again, named = [request.request_id for request in fakes[0].requests]
        assert first == again != ""
        assert named == "mine"

    @pytest.mark.parametrize("tries", [1, 3])
    async def test_what_is_away_for_a_moment_is_asked_again(
        self, peer: ServiceClient, fakes: list[Fake], origin: Origins, tries: int
    ) -> None:
        fakes[0].refusals = [StatusCode.UNAVAILABLE] * tries
        await peer.call(EntityServiceStub(peer.channel).GetEntities, GetEntitiesRequest(), origin())
        assert len(fakes[0].requests) == tries + 1

    @pytest.mark.parametrize(
        "code", [StatusCode.INTERNAL, StatusCode.ABORTED, StatusCode.DEADLINE_EXCEEDED, StatusCode.RESOURCE_EXHAUSTED]
    )
    async def test_nothing_else_is_asked_again(
        self, peer: ServiceClient, fakes: list[Fake], origin: Origins, code: StatusCode
    ) -> None:
        fakes[0].refusals = [code] * 4
        with pytest.raises((Unavailable, aio.AioRpcError)):
            await peer.call(EntityServiceStub(peer.channel).GetEntities, GetEntitiesRequest(), origin())
        assert len(fakes[0].requests) == 1

    async def test_a_service_that_is_away_is_named(
        self, kit_settings: Callable[..., Settings], origin: Origins
    ) -> None:
        away = ServiceClient(kit_settings(addresses={"entities": "127.0.0.1:1"}), "entities")
        with pytest.raises(Unavailable, match="The service entities"):
            await away.call(
                EntityServiceStub(away.channel).GetEntities, GetEntitiesRequest(), origin(deadline=time.monotonic() + 1)
            )
        await away.channel.close()

    async def test_replicas_take_turns_and_one_that_dies_is_passed_over(
        self, fakes: list[Fake], kit_settings: Callable[..., Settings], origin: Origins
    ) -> None:
        addresses = ",".join(fake.address for fake in fakes)
        peer = ServiceClient(kit_settings(addresses={"entities": addresses + ",127.0.0.1:1"}), "entities")
        stub = EntityServiceStub(peer.channel)

        async def both_were_asked() -> bool:
            await peer.call(stub.GetEntities, GetEntitiesRequest(), origin())
            return all(fake.requests for fake in fakes)

        await eventually(both_were_asked)
        before = [len(fake.requests) for fake in fakes]
        for _ in range(20):
            await peer.call(stub.GetEntities, GetEntitiesRequest(), origin())
        assert [len(fake.requests) - had for fake, had in zip(fakes, before, strict=True)] == [10, 10]
        await peer.channel.close()


class TestStream:
    @pytest.fixture
    async def away(self, kit_settings: Callable[..., Settings]) -> AsyncIterator[ServiceClient]:
        peer = ServiceClient(kit_settings(addresses={"entities": "127.0.0.1:1"}), "entities")
        yield peer
        await peer.channel.close()

    @pytest.fixture
    async def telling(self, kit_settings: Callable[..., Settings]) -> AsyncIterator[tuple[ServiceClient, list[str]]]:
        """A service that tells without end, and what came of it: for whom it tells, and that it was left."""
        noted: list[str] = []

        async def tell(request: Any, context: Any) -> AsyncIterator[GetEntitiesResponse]:
            noted.append(dict(context.invocation_metadata())["x-actor"])
            try:
                while True:
                    yield GetEntitiesResponse()
                    await asyncio.sleep(0.01)
            finally:
                noted.append("left")

        server = aio.server()
        handler = unary_stream_rpc_method_handler(
            tell, GetEntitiesRequest.FromString, GetEntitiesResponse.SerializeToString
        )
        server.add_generic_rpc_handlers([method_handlers_generic_handler(SERVICE, {"GetEntities": handler})])
        address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        peer = ServiceClient(kit_settings(addresses={"entities": address}), "entities")
        yield peer, noted
        await peer.channel.close()
        await server.stop(None)

    def rpc(self, peer: ServiceClient) -> Any:
        return peer.channel.unary_stream(
            f"/{SERVICE}/GetEntities", GetEntitiesRequest.SerializeToString, GetEntitiesResponse.FromString
        )

    async def test_replies_come_until_the_caller_leaves(
        self, telling: tuple[ServiceClient, list[str]], origin: Origins
    ) -> None:
        peer, noted = telling
        async with aclosing(peer.stream(self.rpc(peer), GetEntitiesRequest(), origin())) as replies:
            for _ in range(3):
                assert isinstance(await anext(replies), GetEntitiesResponse)

        async def was_left() -> bool:
            return noted == ["alice", "left"]

        await eventually(was_left, within_s=2)

    async def test_it_ends_in_the_time_that_is_left(
        self, telling: tuple[ServiceClient, list[str]], origin: Origins
    ) -> None:
        peer, _ = telling
        with pytest.raises(Unavailable, match="The service entities"):
            async for _ in peer.stream(self.rpc(peer), GetEntitiesRequest(), origin(deadline=time.monotonic() + 0.3)):
                pass

    async def test_a_service_that_is_away_is_named(self, away: ServiceClient, origin: Origins) -> None:
        with pytest.raises(Unavailable, match="The service entities"):
            await anext(away.stream(self.rpc(away), GetEntitiesRequest(), origin(deadline=time.monotonic() + 1)))


class TestConfig:
    def test_an_unknown_service_is_named(self, kit_settings: Callable[..., Settings]) -> None:
        with pytest.raises(KeyError, match="no address for entities"):
            clients.channel(kit_settings(addresses={}), "entities")

    def test_only_reads_and_keyed_writes_are_tried_again_and_only_when_unavailable(self) -> None:
        (config,) = json.loads(clients.service_config("budgets"))["methodConfig"]
        assert config["retryPolicy"]["retryableStatusCodes"] == ["UNAVAILABLE"]
        named = {f"{entry['service']}/{entry['method']}" for entry in config["name"]}
        known = methods().values()
        assert named == {
            method.full_name for method in known if method.retry_safe and method.service in {"budgets", *COMMON_APIS}
        }
        assert "billing.budgets.v1.LedgerService/Charge" in named


class TestScopes:
    async def test_what_a_scope_covers_is_asked_once_in_a_while(
        self, peer: ServiceClient, fakes: list[Fake], call: Callable[..., Call]
    ) -> None:
        scopes, mine = RemoteScopes(peer), call()
        for _ in range(3):
            scope = await scopes.resolve(mine)
        assert scope.entity_ids == {UUID(int=1)}
        assert len(fakes[0].requests) == 1
        await scopes.resolve(call(tenant_id=UUID(int=7)))
        assert len(fakes[0].requests) == 2

    async def test_nothing_is_seen_while_nobody_can_say_what(
        self, kit_settings: Callable[..., Settings], call: Callable[..., Call]
    ) -> None:
        away = ServiceClient(kit_settings(addresses={"entities": "127.0.0.1:1"}), "entities")
        with pytest.raises(Unavailable):
            await RemoteScopes(away).resolve(call(deadline=time.monotonic() + 0.5))
        await away.channel.close()

    def test_a_token_without_scopes_names_nothing(self, call: Callable[..., Call]) -> None:
        assert scope_ids_of(call().principal) == ((), ())
