"""A fake backend for every service: a gRPC server that returns the replies that a test has set."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import grpc
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc import aio
from grpc_health.v1 import health as grpc_health
from grpc_health.v1 import health_pb2, health_pb2_grpc

from contract import descriptors
from contract.routes import Route, routes, routes_of
from kit.error_status import to_status
from kit.errors import BillingError
from tests.kit.probe import Probe

PROBE_ROUTES = [route for method in Probe.service.methods for route in routes_of(method, "budgets")]
"""Routes of a service that exists in tests only; one of them streams."""


@lru_cache(maxsize=1)
def _routes() -> dict[str, Route]:
    return {route.rpc: route for route in (*routes(), *PROBE_ROUTES)}


Reply = Callable[[Message, "ReceivedCall"], Awaitable[Message] | Message]


@dataclass(slots=True)
class ReceivedCall:
    """A call that the backend received."""

    rpc: str
    request: Message
    metadata: Mapping[str, Any]
    time_remaining: float
    context: aio.ServicerContext[bytes, bytes]


@dataclass
class Backend(grpc.GenericRpcHandler):
    """Returns the entry of `replies` for the RPC: a message, an error, or the result of a function; or an empty reply.

    A streaming RPC sends what its function yields.
    """

    replies: dict[str, Any] = field(default_factory=dict)
    received: list[ReceivedCall] = field(default_factory=list)
    records_calls: bool = True
    address: str = ""
    health: grpc_health.aio.HealthServicer = field(default_factory=grpc_health.aio.HealthServicer)

    def message(self, full_name: str, /, **fields: Any) -> Message:
        """Return a message of the contract."""
        return GetMessageClass(descriptors.pool().FindMessageTypeByName(f"billing.{full_name}"))(**fields)

    def _receive(
        self, route: Route, raw: bytes, context: aio.ServicerContext[bytes, bytes]
    ) -> tuple[Message, ReceivedCall]:
        metadata = dict(context.invocation_metadata() or ())
        request = route.request.FromString(raw)
        call = ReceivedCall(route.method.name, request, metadata, context.time_remaining() or 0.0, context)
        if self.records_calls:
            self.received.append(call)
        return request, call

    def service(self, details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[Any, Any] | None":
        route = _routes().get(details.method)
        if route is None:
            return None
        if route.streams:

            async def stream(raw: bytes, context: aio.ServicerContext[bytes, bytes]) -> None:
                await self._stream(route, raw, context)

            return grpc.unary_stream_rpc_method_handler(stream)

        async def unary(raw: bytes, context: aio.ServicerContext[bytes, bytes]) -> bytes:
            request, call = self._receive(route, raw, context)
            reply = self.replies.get(route.method.name) or route.reply()
            if callable(reply):
                reply = reply(request, call)
            if isinstance(reply, Awaitable):
                reply = await reply
            if isinstance(reply, BillingError):
                await _abort(context, reply)
            assert isinstance(reply, Message)
            return reply.SerializeToString()

        return grpc.unary_unary_rpc_method_handler(unary)

    async def _stream(self, route: Route, raw: bytes, context: aio.ServicerContext[bytes, bytes]) -> None:
        request, call = self._receive(route, raw, context)
        try:
            await context.send_initial_metadata(())
            async with contextlib.aclosing(self.replies[route.method.name](request, call)) as replies:
                async for reply in replies:
                    await context.write(reply.SerializeToString())
        except BillingError as error:
            await _abort(context, error)


async def _abort(context: aio.ServicerContext[bytes, bytes], error: BillingError) -> None:
    details = (("grpc-status-details-bin", to_status(error).SerializeToString()),)
    await context.abort(error.code, error.message, trailing_metadata=details)


@contextlib.asynccontextmanager
async def serving(port: int = 0) -> AsyncIterator[Backend]:
    """Serve inside the block."""
    backend = Backend()
    server = aio.server(options=[("grpc.max_receive_message_length", 16 * 1024 * 1024)])
    server.add_generic_rpc_handlers([backend])
    health_pb2_grpc.add_HealthServicer_to_server(backend.health, server)
    await backend.health.set("", health_pb2.HealthCheckResponse.SERVING)
    backend.address = f"127.0.0.1:{server.add_insecure_port(f'127.0.0.1:{port}')}"
    await server.start()
    try:
        yield backend
    finally:
        await server.stop(0)
