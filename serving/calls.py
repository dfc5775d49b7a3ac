"""The way of every RPC: one wrapper, put around each method at registration, its steps in order.

trace → shed → deadline → decoding → identity → permission → validation → scope → handler → errors → metrics and log

Streams go the same way. One lives for an hour at most, or for as long as its caller and the token allow; streams are
counted apart from calls, and end at once when the process is to end.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing
from inspect import isasyncgenfunction
from operator import itemgetter
from typing import Any, Protocol, get_args, get_origin, get_type_hints
from urllib.parse import unquote
from uuid import uuid4

import grpc
from billing.options.v1 import options_pb2
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from grpc import StatusCode, aio
from opentelemetry.trace import SpanKind
from prometheus_client import Gauge

from contract import validation
from kit import idempotency, telemetry
from kit.auth import Authenticator, Principal, bearer
from kit.db import to_billing_error
from kit.errors import (
    BillingError,
    DeadlineExceeded,
    Internal,
    MalformedBody,
    MessageTooLarge,
    Overloaded,
    PermissionMissing,
    TokenExpired,
    Unavailable,
    to_status,
)
from kit.origin import Call
from kit.settings import Settings
from kit.tasks import cancel_and_wait
from kit.telemetry import Trace, log
from serving.scope import Scopes

STREAMS_UNDER_WAY = Gauge("billing_streams_under_way", "Streams being served just now.")

Handler = Callable[[Any, Call], Any]
Context = aio.ServicerContext[bytes, bytes]

_DETAILS = "grpc-status-details-bin"
_REPLAYED = (("idempotency-replayed", "true"),)
_STREAM_S = 3600.0
"""A stream ends well after so long, so that its caller comes again: with a new token, maybe to another replica."""


class Servicer(Protocol):
    """The methods of one gRPC service, each `async def Name(self, request: NameRequest, call: Call) -> Reply`.

    Where the proto says `stream` the method is an async generator, `-> AsyncIterator[Reply]`; `call.deadline` is the
    end of the stream then, and what a confined caller may see is that of the beginning.
    """

    service: ServiceDescriptor


class Calls:
    """Puts the way of every call around the methods of servicers."""

    def __init__(self, settings: Settings, scopes: Scopes) -> None:
        self._settings = settings
        self._scopes = scopes
        self._authenticator = Authenticator(settings)
        self._under_way = 0
        self._streams: set[asyncio.Future[None]] = set()
        self._ending = False
        telemetry.CALLS_IN_PROGRESS.set_function(lambda: self._under_way)  # asked when it is read, not set by each call

    def handlers_of(self, servicer: Servicer) -> grpc.GenericRpcHandler:
        """The servicer as grpc takes it; raises TypeError where a method is missing or differs from the proto."""
        methods = {method.name: self._wrapped(servicer, method) for method in servicer.service.methods}
        return grpc.method_handlers_generic_handler(servicer.service.full_name, methods)

    def _wrapped(self, servicer: Servicer, method: MethodDescriptor) -> "grpc.RpcMethodHandler[Any, Any]":
        handler = getattr(servicer, method.name, None)
        if handler is None:
            raise TypeError(f"{type(servicer).__name__} has no method {method.name}")
        request_type = GetMessageClass(method.input_type)
        if method.client_streaming:
            raise TypeError(f"{method.full_name} takes a stream, which is not served here")
        if not _fits(handler, request_type, GetMessageClass(method.output_type), streams=method.server_streaming):
            raise TypeError(f"{type(servicer).__name__}.{method.name} does not take and give what its proto says")
        permission = method.GetOptions().Extensions[options_pb2.permission]
        if not permission:
            raise TypeError(f"{method.full_name} names no permission")
        # Bytes in and out: what grpc itself fails to decode or encode goes past our errors, and tells the caller how.
        kind = _StreamWay if method.server_streaming else _Way
        way = kind(self, f"{servicer.service.full_name}/{method.name}", permission, request_type, handler)
        if method.server_streaming:
            return grpc.unary_stream_rpc_method_handler(way.serve)
        return grpc.unary_unary_rpc_method_handler(way.serve)

    def enter(self) -> None:
        """Count a call in; raises Overloaded where as many as can be taken are under way."""
        if self._under_way >= self._settings.calls_max:
            raise Overloaded
        self._under_way += 1

    def leave(self) -> None:
        """Count a call out."""
        self._under_way -= 1

    def open_stream(self) -> asyncio.Future[None]:
        """Count a stream in; what it gives is done when the process is to end. As many as calls may be open.

        Raises Overloaded where all are, Unavailable where the process is ending.
        """
        if self._ending:
            raise Unavailable("This replica")
        if len(self._streams) >= self._settings.calls_max:
            raise Overloaded
        ending = asyncio.get_running_loop().create_future()
        self._streams.add(ending)
        STREAMS_UNDER_WAY.set(len(self._streams))
        return ending

    def close_stream(self, ending: asyncio.Future[None]) -> None:
        """Count a stream out."""
        self._streams.remove(ending)
        STREAMS_UNDER_WAY.set(len(self._streams))

    def end_streams(self) -> None:
        """Tell all streams, and those still to come, to turn elsewhere; other calls are still served."""
        self._ending = True
        for ending in self._streams:
            ending.set_result(None)

    def life_of_stream(self, call: Call, remaining_s: float | None) -> tuple[float, BillingError | None]:
        """Seconds that a stream may live, and with what it is refused then; None: it ends well."""
        ends: list[tuple[float, BillingError | None]] = [(_STREAM_S, None)]
        ends.append((call.principal.expires_at - time.time(), TokenExpired()))
        if remaining_s is not None:
            ends.append((remaining_s, DeadlineExceeded()))
        return min(ends, key=itemgetter(0))

    def measure(self, sent: bytes) -> None:
        """Raise MessageTooLarge where the message is larger than one may be."""
        bytes_max = self._settings.message_bytes_max
        if len(sent) > bytes_max:
            raise MessageTooLarge(f"A message may have {bytes_max} bytes at most.", bytes_max=bytes_max)

    def deadline(self, remaining_s: float | None) -> float:
        """When the call must have ended: what the caller said, at most the limit, by default the default."""
        allowed = self._settings.deadline_default_s if remaining_s is None else remaining_s
        return time.monotonic() + min(allowed, self._settings.deadline_max_s)

    async def identify(self, metadata: Mapping[str, str]) -> Principal:
        """Who calls; raises what kit.auth raises."""
        return await self._authenticator.authenticate(bearer(metadata.get("authorization")))

    async def narrow(self, call: Call) -> None:
        """Set what a confined caller may see."""
        if call.principal.confined:
            call.scope = await self._scopes.resolve(call)


def _fits(handler: Handler, request: type[Message], reply: type[Message], *, streams: bool) -> bool:
    hints = get_type_hints(handler)
    gives = hints.get("return")
    if streams:
        gives = get_args(gives)[0] if isasyncgenfunction(handler) and get_origin(gives) is AsyncIterator else None
    return gives is reply and hints.get("request") is request


class _Way:
    """The way of calls of one method."""

    def __init__(
        self, calls: Calls, method: str, permission: str, request_type: type[Message], handler: Handler
    ) -> None:
        self._calls = calls
        self._method = method
        self._permission = permission
        self._request_type = request_type
        self._handler = handler
        self._attributes = {"rpc.system.name": "grpc", "rpc.method": method}
        self._durations: dict[str, Any] = {}

    async def serve(self, sent: bytes, context: Context) -> bytes:
        """Answer one call, or refuse it with a status; nothing internal leaves."""
        started = time.perf_counter()
        metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
        code, note = StatusCode.OK, {"request_id": metadata.get("x-request-id", "")}
        arrived = Trace.from_header(metadata.get("traceparent"))
        with telemetry.span(self._method, arrived, SpanKind.SERVER, self._attributes) as trace:
            token = telemetry.current.set(trace)
            try:
                return await self._admitted(sent, context, metadata, trace, note)
            except BaseException as raised:
                if isinstance(raised, asyncio.CancelledError) and _is_cancelled():
                    code = StatusCode.CANCELLED  # the caller is gone: there is nobody to tell
                    raise
                refusal = _refusal_of(raised, note)
                code = refusal.code
                await _abort(context, refusal)
                raise
            finally:
                seconds = time.perf_counter() - started
                self._observe(code.name, seconds)
                log.info("call", rpc_method=self._method, code=code.name, ms=round(seconds * 1e3, 2), **note)
                telemetry.current.reset(token)

    async def _admitted(
        self, sent: bytes, context: Context, metadata: Mapping[str, str], trace: Trace, note: dict[str, str]
    ) -> bytes:
        self._calls.enter()
        try:
            deadline = self._calls.deadline(context.time_remaining())
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                request, call = await self._let_in(sent, metadata, trace, deadline, note)
                return await self._handled(request, call, context)
        finally:
            self._calls.leave()

    async def _let_in(
        self, sent: bytes, metadata: Mapping[str, str], trace: Trace, deadline: float, note: dict[str, str]
    ) -> tuple[Message, Call]:
        request = self._read(sent)
        call = await self._identified(request, metadata, trace, deadline)
        note |= {"tenant_id": str(call.tenant_id), "actor": call.actor}
        self._permit(call)
        validation.check(request)
        await self._calls.narrow(call)
        return request, call

    def _read(self, sent: bytes) -> Message:
        self._calls.measure(sent)
        try:
            return self._request_type.FromString(sent)
        except DecodeError:
            raise MalformedBody(f"These bytes are no {self._request_type.DESCRIPTOR.full_name}.") from None

    async def _identified(self, request: Message, metadata: Mapping[str, str], trace: Trace, deadline: float) -> Call:
        principal = await self._calls.identify(metadata)
        actor = principal.subject
        if "service" in principal.permissions:
            actor = unquote(metadata.get("x-actor", actor))  # a service says for whom it calls; only a service may
        key = getattr(request, "request_id", "")
        return Call(
            method=self._method,
            tenant_id=principal.tenant_id,
            actor=actor,
            trace=trace,
            deadline=deadline,
            principal=principal,
            key=key,
            fingerprint=idempotency.fingerprint(request, actor) if key else b"",
        )

    def _permit(self, call: Call) -> None:
        if self._permission not in call.principal.permissions:
            raise PermissionMissing(self._permission)

    async def _handled(self, request: Message, call: Call, context: Context) -> bytes:
        try:
            reply: Message = await self._handler(request, call)
            return reply.SerializeToString()
        except idempotency.Replay as replay:
            context.set_trailing_metadata(_REPLAYED)
            return replay.reply

    def _observe(self, code: str, seconds: float) -> None:
        duration = self._durations.get(code)
        if duration is None:
            duration = self._durations[code] = telemetry.SERVER_DURATION.labels(self._method, code)
        duration.observe(seconds)


class _StreamWay(_Way):
    """The way of calls of one method that answers with a stream."""

    async def _admitted(
        self, sent: bytes, context: Context, metadata: Mapping[str, str], trace: Trace, note: dict[str, str]
    ) -> bytes:
        ending = self._calls.open_stream()
        try:
            deadline = self._calls.deadline(context.time_remaining())
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                request, call = await self._let_in(sent, metadata, trace, deadline, note)
                await context.send_initial_metadata(())  # tells that it is let in, long before the first message maybe
            lives_s, refusal = self._calls.life_of_stream(call, context.time_remaining())
            call.deadline = time.monotonic() + lives_s
            # A task of its own, since `end` also ends what lost a cancellation, as libraries may do in Python 3.11.
            flowing = asyncio.create_task(self._flow(request, call, context))
            try:
                await asyncio.wait({flowing, ending}, timeout=lives_s, return_when=asyncio.FIRST_COMPLETED)
                ended = flowing.done()
            finally:
                await cancel_and_wait(flowing)
            if ended:
                flowing.result()
            elif ending.done():
                raise Unavailable("This replica")
            elif refusal:
                raise refusal
            return b""
        finally:
            self._calls.close_stream(ending)

    async def _flow(self, request: Message, call: Call, context: Context) -> None:
        """Send what the handler yields, not faster than the caller takes it."""
        async with aclosing(self._handler(request, call)) as replies:
            async for reply in replies:
                await context.write(reply.SerializeToString())


def _refusal_of(raised: BaseException, note: dict[str, str]) -> BillingError:
    """What the caller is told about `raised`; a fault of ours is logged in full under an id, and only that is told."""
    if isinstance(raised, BillingError):
        note["reason"] = raised.reason
        return raised
    if isinstance(raised, TimeoutError):
        return DeadlineExceeded()
    if isinstance(raised, asyncio.CancelledError):
        return Unavailable("This replica")
    refusal = to_billing_error(raised)
    if refusal is None:
        incident = uuid4().hex
        note["incident"] = incident
        log.error("fault", incident=incident, exc_info=raised)
        return Internal(incident)
    note["reason"] = refusal.reason
    log.warning("refused by the database", reason=refusal.reason, error=str(raised)[:500])
    return refusal


def _is_cancelled() -> bool:
    """Whether gRPC gave the call up; its context does not tell."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _abort(context: Context, refusal: BillingError) -> None:
    """End the call with the refusal's status."""
    status = to_status(refusal)
    await context.abort(refusal.code, refusal.message, trailing_metadata=((_DETAILS, status.SerializeToString()),))
