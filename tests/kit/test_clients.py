"""Clients of other services: service token, actor, remaining time, retries, and scopes."""

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


class FakeReplica:
    """A fake replica of another service: returns the replies and errors that a test has set, and records requests."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.metadata: list[dict[str, str]] = []
        self.remaining: list[float] = []
        self.errors: list[StatusCode] = []
        self.address = ""

    def reply_with(self, reply: Message) -> Callable[[Any, Any], Awaitable[Message]]:
        async def handle(request: Any, context: Any) -> Message:
            self.requests.append(request)
            self.metadata.append({key: value for key, value in context.invocation_metadata() if isinstance(value, str)})
            self.remaining.append(context.time_remaining())
            if self.errors:
                await context.abort(self.errors.pop(0), "set by the test")
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
                self.reply_with(reply),
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
async def replicas() -> AsyncIterator[list[FakeReplica]]:
    """Two replicas."""
    async with AsyncExitStack() as stack:
        replicas = [FakeReplica(), FakeReplica()]
        for replica in replicas:
            await replica.start(stack)
        yield replicas


@pytest.fixture
async def client(replicas: list[FakeReplica], kit_settings: Callable[..., Settings]) -> AsyncIterator[ServiceClient]:
    """A client that knows the first replica only."""
    client = ServiceClient(kit_settings(addresses={"entities": replicas[0].address}), "entities")
    yield client
    await client.channel.close()


Origins = Callable[..., Origin]


class TestCall:
    async def test_call_has_service_token_actor_and_trace(
        self, client: ServiceClient, replicas: list[FakeReplica], origin: Origins, kit_settings: Callable[..., Settings]
    ) -> None:
        origin_of_zoe = origin(actor="Zoë")
        await client.call(EntityServiceStub(client.channel).GetEntities, GetEntitiesRequest(ids=["x"]), origin_of_zoe)
        (sent,) = replicas[0].metadata
        principal = await Authenticator(kit_settings()).authenticate(bearer_token(sent["authorization"]))
        assert (principal.tenant_id, principal.subject) == (origin_of_zoe.tenant_id, "service:budgets")
        assert principal.permissions == {"service"}
        assert unquote(sent["x-actor"]) == "Zoë"
        assert sent["traceparent"].split("-")[1] == origin_of_zoe.trace.trace_id

    async def test_call_gets_the_remaining_time_less_a_margin(
        self, client: ServiceClient, replicas: list[FakeReplica], origin: Origins
    ) -> None:
        await client.call(
            EntityServiceStub(client.channel).GetEntities, GetEntitiesRequest(), origin(deadline=time.monotonic() + 2)
        )
        assert 1.5 < replicas[0].remaining[0] < 1.9

    async def test_write_without_key_gets_one_for_retries(
        self, client: ServiceClient, replicas: list[FakeReplica], origin: Origins
    ) -> None:
        create = EntityServiceStub(client.channel).CreateEntity
        replicas[0].errors = [StatusCode.UNAVAILABLE]
        await client.call(create, CreateEntityRequest(), origin())
        await client.call(create, CreateEntityRequest(request_id="mine"), origin())
        first, retried, own = [request.request_id for request in replicas[0].requests]
        assert first == retried != ""
        assert own == "mine"

    @pytest.mark.parametrize("tries", [1, 3])
    async def test_unavailable_service_is_retried(
        self, client: ServiceClient, replicas: list[FakeReplica], origin: Origins, tries: int
    ) -> None:
        replicas[0].errors = [StatusCode.UNAVAILABLE] * tries
        await client.call(EntityServiceStub(client.channel).GetEntities, GetEntitiesRequest(), origin())
        assert len(replicas[0].requests) == tries + 1

    @pytest.mark.parametrize(
        "code", [StatusCode.INTERNAL, StatusCode.ABORTED, StatusCode.DEADLINE_EXCEEDED, StatusCode.RESOURCE_EXHAUSTED]
    )
    async def test_other_errors_are_not_retried(
        self, client: ServiceClient, replicas: list[FakeReplica], origin: Origins, code: StatusCode
    ) -> None:
        replicas[0].errors = [code] * 4
        with pytest.raises((Unavailable, aio.AioRpcError)):
            await client.call(EntityServiceStub(client.channel).GetEntities, GetEntitiesRequest(), origin())
        assert len(replicas[0].requests) == 1

    async def test_unavailable_service_is_named(self, kit_settings: Callable[..., Settings], origin: Origins) -> None:
        unavailable = ServiceClient(kit_settings(addresses={"entities": "127.0.0.1:1"}), "entities")
        with pytest.raises(Unavailable, match="The service entities"):
            await unavailable.call(
                EntityServiceStub(unavailable.channel).GetEntities,
                GetEntitiesRequest(),
                origin(deadline=time.monotonic() + 1),
            )
        await unavailable.channel.close()

    async def test_replicas_are_balanced_and_dead_ones_skipped(
        self, replicas: list[FakeReplica], kit_settings: Callable[..., Settings], origin: Origins
    ) -> None:
        addresses = ",".join(replica.address for replica in replicas)
        client = ServiceClient(kit_settings(addresses={"entities": addresses + ",127.0.0.1:1"}), "entities")
        stub = EntityServiceStub(client.channel)

        async def both_were_called() -> bool:
            await client.call(stub.GetEntities, GetEntitiesRequest(), origin())
            return all(replica.requests for replica in replicas)

        await eventually(both_were_called)
        before = [len(replica.requests) for replica in replicas]
        for _ in range(20):
            await client.call(stub.GetEntities, GetEntitiesRequest(), origin())
        assert [len(replica.requests) - count for replica, count in zip(replicas, before, strict=True)] == [10, 10]
        await client.channel.close()


class TestStream:
    @pytest.fixture
    async def unavailable(self, kit_settings: Callable[..., Settings]) -> AsyncIterator[ServiceClient]:
        client = ServiceClient(kit_settings(addresses={"entities": "127.0.0.1:1"}), "entities")
        yield client
        await client.channel.close()

    @pytest.fixture
    async def endless(self, kit_settings: Callable[..., Settings]) -> AsyncIterator[tuple[ServiceClient, list[str]]]:
        """A client of an endless stream, and a list of what the service sees: the actor, then the cancellation."""
        actors: list[str] = []

        async def stream(request: Any, context: Any) -> AsyncIterator[GetEntitiesResponse]:
            actors.append(dict(context.invocation_metadata())["x-actor"])
            try:
                while True:
                    yield GetEntitiesResponse()
                    await asyncio.sleep(0.01)
            finally:
                actors.append("cancelled")

        server = aio.server()
        handler = unary_stream_rpc_method_handler(
            stream, GetEntitiesRequest.FromString, GetEntitiesResponse.SerializeToString
        )
        server.add_generic_rpc_handlers([method_handlers_generic_handler(SERVICE, {"GetEntities": handler})])
        address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        client = ServiceClient(kit_settings(addresses={"entities": address}), "entities")
        yield client, actors
        await client.channel.close()
        await server.stop(None)

    def rpc(self, client: ServiceClient) -> Any:
        return client.channel.unary_stream(
            f"/{SERVICE}/GetEntities", GetEntitiesRequest.SerializeToString, GetEntitiesResponse.FromString
        )

    async def test_stream_is_cancelled_when_the_caller_leaves(
        self, endless: tuple[ServiceClient, list[str]], origin: Origins
    ) -> None:
        client, actors = endless
        async with aclosing(client.stream(self.rpc(client), GetEntitiesRequest(), origin())) as replies:
            for _ in range(3):
                assert isinstance(await anext(replies), GetEntitiesResponse)

        async def was_cancelled() -> bool:
            return actors == ["alice", "cancelled"]

        await eventually(was_cancelled, within_s=2)

    async def test_stream_ends_at_the_deadline(self, endless: tuple[ServiceClient, list[str]], origin: Origins) -> None:
        client, _ = endless
        with pytest.raises(Unavailable, match="The service entities"):
            async for _ in client.stream(
                self.rpc(client), GetEntitiesRequest(), origin(deadline=time.monotonic() + 0.3)
            ):
                pass

    async def test_unavailable_service_is_named(self, unavailable: ServiceClient, origin: Origins) -> None:
        with pytest.raises(Unavailable, match="The service entities"):
            await anext(
                unavailable.stream(self.rpc(unavailable), GetEntitiesRequest(), origin(deadline=time.monotonic() + 1))
            )


class TestConfig:
    def test_service_without_address_is_named(self, kit_settings: Callable[..., Settings]) -> None:
        with pytest.raises(KeyError, match="no address for entities"):
            clients.channel(kit_settings(addresses={}), "entities")

    def test_only_retry_safe_methods_are_retried_on_unavailable(self) -> None:
        (config,) = json.loads(clients.service_config("budgets"))["methodConfig"]
        assert config["retryPolicy"]["retryableStatusCodes"] == ["UNAVAILABLE"]
        names = {f"{entry['service']}/{entry['method']}" for entry in config["name"]}
        known = methods().values()
        assert names == {
            method.full_name for method in known if method.retry_safe and method.service in {"budgets", *COMMON_APIS}
        }
        assert "billing.budgets.v1.LedgerService/Charge" in names


class TestScopes:
    async def test_scope_is_cached_per_tenant(
        self, client: ServiceClient, replicas: list[FakeReplica], call: Callable[..., Call]
    ) -> None:
        scopes, origin_of_zoe = RemoteScopes(client), call()
        for _ in range(3):
            scope = await scopes.resolve(origin_of_zoe)
        assert scope.entity_ids == {UUID(int=1)}
        assert len(replicas[0].requests) == 1
        await scopes.resolve(call(tenant_id=UUID(int=7)))
        assert len(replicas[0].requests) == 2

    async def test_unresolved_scope_is_unavailable(
        self, kit_settings: Callable[..., Settings], call: Callable[..., Call]
    ) -> None:
        unavailable = ServiceClient(kit_settings(addresses={"entities": "127.0.0.1:1"}), "entities")
        with pytest.raises(Unavailable):
            await RemoteScopes(unavailable).resolve(call(deadline=time.monotonic() + 0.5))
        await unavailable.channel.close()

    def test_token_without_scopes_has_no_scope_ids(self, call: Callable[..., Call]) -> None:
        assert scope_ids_of(call().principal) == ((), ())
