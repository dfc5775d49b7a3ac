"""Any service: a gRPC server that answers every RPC of the contract as the test says."""

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
from contract.routes import Route, routes
from kit.errors import BillingError, to_status


@lru_cache(maxsize=1)
def _routes() -> dict[str, Route]:
    return {route.rpc: route for route in routes()}


Reply = Callable[[Message, "Asked"], Awaitable[Message] | Message]


@dataclass(slots=True)
class Asked:
    """A call as it arrived."""

    rpc: str
    request: Message
    metadata: Mapping[str, Any]
    time_remaining: float
    context: aio.ServicerContext[bytes, bytes]


@dataclass
class Backend(grpc.GenericRpcHandler):
    """Answers with what `replies` has for the RPC: a function, a message, a refusal; else with an empty reply."""

    replies: dict[str, Any] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    remembers: bool = True
    address: str = ""
    health: grpc_health.aio.HealthServicer = field(default_factory=grpc_health.aio.HealthServicer)

    def message(self, full_name: str, /, **fields: Any) -> Message:
        """A message of the contract."""
        return GetMessageClass(descriptors.pool().FindMessageTypeByName(f"billing.{full_name}"))(**fields)

    def service(self, details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[Any, Any] | None":
        route = _routes().get(details.method)
        if route is None:
            return None

        async def answer(raw: bytes, context: aio.ServicerContext[bytes, bytes]) -> bytes:
            metadata = dict(context.invocation_metadata() or ())
            request = route.request.FromString(raw)
            call = Asked(route.method.name, request, metadata, context.time_remaining() or 0.0, context)
            if self.remembers:
                self.asked.append(call)
            reply = self.replies.get(route.method.name) or route.reply()
            if callable(reply):
                reply = reply(request, call)
            if isinstance(reply, Awaitable):
                reply = await reply
            if isinstance(reply, BillingError):
                details = (("grpc-status-details-bin", to_status(reply).SerializeToString()),)
                await context.abort(reply.code, reply.message, trailing_metadata=details)
            assert isinstance(reply, Message)
            return reply.SerializeToString()

        return grpc.unary_unary_rpc_method_handler(answer)


@contextlib.asynccontextmanager
async def serving(port: int = 0) -> AsyncIterator[Backend]:
    """Serve until the block ends."""
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
