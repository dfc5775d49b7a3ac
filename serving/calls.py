"""The call pipeline: wraps every RPC method at registration and runs these steps in order.

trace → deadline → authenticate → authorize → admission → decode → validate → scope → handler → errors → metrics, log

Streaming RPCs run the same steps. A stream ends after an hour, or earlier with its client, its deadline or its token.
Streams are counted apart from unary calls, and end at once when the process shuts down.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from inspect import isasyncgenfunction
from operator import itemgetter
from typing import Any, Generic, NamedTuple, Protocol, TypeVar, get_args, get_origin, get_type_hints
from uuid import uuid4

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from grpc import StatusCode, aio
from opentelemetry.trace import SpanKind

from contract import validation, wire
from contract.access import AccessRule
from kit import idempotency, telemetry
from kit.auth import INTERNAL, Authenticator, Principal, bearer_token
from kit.db import to_billing_error
from kit.error_status import STATUS_METADATA_KEY, to_status
from kit.errors import (
    BillingError,
    DeadlineExceeded,
    Internal,
    InvalidFields,
    MalformedBody,
    TokenExpired,
    Unavailable,
    Violation,
)
from kit.origin import Call
from kit.settings import Settings
from kit.tasks import cancel_and_wait, let_others_run
from kit.telemetry import Trace, log
from serving.admission import LARGE_BYTES, Admission
from serving.scope import Scopes

ReplyT = TypeVar("ReplyT", bound=Message)
Handler = Callable[[Any, Call], Any]
Context = aio.ServicerContext[bytes, bytes]

_REPLAYED = (("idempotency-replayed", "true"),)
_SINGLE_KEYS = ("authorization", "x-actor", "x-request-id", "idempotency-key")
"""Keys of the metadata that have one value. gRPC itself drops all but one `traceparent`."""
_REQUEST_ID_MAX = 128
"""Longer ids, which callers choose, are cut in the log; the gateway accepts no longer ones."""
_STREAM_MAX_S = 3600.0
"""Maximum lifetime of a stream; its client then reconnects with a new token, maybe to another replica."""


@dataclass(frozen=True, slots=True)
class SerializedReply(Generic[ReplyT]):
    """A reply in serialized form, for methods annotated `-> SerializedReply[Reply]`. It is sent as it is."""

    data: bytes


class Servicer(Protocol):
    """The methods of one gRPC service, each `async def Name(self, request: NameRequest, call: Call) -> Reply`.

    A method that streams is an async generator, `-> AsyncIterator[Reply]`. Its `call.deadline` is the end of the
    stream, and its `call.scope` is resolved once, at the start.
    """

    service: ServiceDescriptor


class CallPipeline:
    """Wraps the methods of servicers in the pipeline; holds what all calls of the process share."""

    def __init__(self, settings: Settings, scopes: Scopes) -> None:
        self._settings = settings
        self._scopes = scopes
        self._authenticator = Authenticator(settings)
        self.admission = Admission(settings)

    def handler_for(self, servicer: Servicer) -> grpc.GenericRpcHandler:
        """Return the gRPC handler of a servicer. Raises TypeError if a method is missing or differs from its proto."""
        methods = {method.name: self._wrap(servicer, method) for method in servicer.service.methods}
        return grpc.method_handlers_generic_handler(servicer.service.full_name, methods)

    def _wrap(self, servicer: Servicer, method: MethodDescriptor) -> "grpc.RpcMethodHandler[Any, Any]":
        handler = getattr(servicer, method.name, None)
        if handler is None:
            raise TypeError(f"{type(servicer).__name__} has no method {method.name}")
        request_type = GetMessageClass(method.input_type)
        if method.client_streaming:
            raise TypeError(f"{method.full_name} takes a stream of requests, which is not supported")
        if not _signature_matches(
            handler, request_type, GetMessageClass(method.output_type), streams=method.server_streaming
        ):
            raise TypeError(f"{type(servicer).__name__}.{method.name} differs from its proto in request or reply type")
        access = AccessRule.of(method)
        # Bytes in and out: an error in gRPC's own decoding would skip our error handling and leak its text.
        kind = _StreamPipeline if method.server_streaming else _UnaryPipeline
        pipeline = kind(self, f"{servicer.service.full_name}/{method.name}", access, request_type, handler)
        if method.server_streaming:
            return grpc.unary_stream_rpc_method_handler(pipeline.serve)
        return grpc.unary_unary_rpc_method_handler(pipeline.serve)

    def stream_lifetime(self, call: Call, remaining_s: float | None) -> tuple[float, BillingError | None]:
        """Return how many seconds a stream may live, and the error that it then ends with; None: it ends with OK."""
        limits: list[tuple[float, BillingError | None]] = [(_STREAM_MAX_S, None)]
        limits.append((call.principal.expires_at - time.time(), TokenExpired()))
        if remaining_s is not None:
            limits.append((remaining_s, DeadlineExceeded()))
        return min(limits, key=itemgetter(0))

    def deadline(self, remaining_s: float | None) -> float:
        """Return the deadline of a call by `time.monotonic()`: the client's up to the limit, or the default."""
        allowed_s = self._settings.deadline_default_s if remaining_s is None else remaining_s
        return time.monotonic() + min(allowed_s, self._settings.deadline_max_s)

    def authenticate(self, metadata: Mapping[str, str]) -> Awaitable[Principal]:
        """Return the caller. Raises the errors of `Authenticator.authenticate`."""
        return self._authenticator.authenticate(bearer_token(metadata.get("authorization")))

    async def resolve_scope(self, call: Call) -> None:
        """Set the scope of a confined caller."""
        call.scope = await self._scopes.resolve(call)


class _Metadata(dict[str, str]):
    """The metadata of a call. Only keys that end with "-bin", which no call uses, have binary values."""

    def __init__(self, pairs: Collection[tuple[str, Any]]) -> None:
        self._pairs = pairs
        super().__init__(pairs)

    def check(self) -> None:
        """Raise InvalidFields if a key that has one value is sent twice: a proxy may have checked the other one."""
        if len(self._pairs) == len(self):
            return
        times = Counter(key for key, _ in self._pairs)
        repeated = [key for key in _SINGLE_KEYS if times[key] > 1]
        if repeated:
            raise InvalidFields(
                [Violation(f"metadata {key}", "is set more than once", "field.repeated") for key in repeated]
            )


def _signature_matches(handler: Handler, request: type[Message], reply: type[Message], *, streams: bool) -> bool:
    hints = get_type_hints(handler)
    annotation = hints.get("return")
    if streams:
        is_generator = isasyncgenfunction(handler) and get_origin(annotation) is AsyncIterator
        annotation = get_args(annotation)[0] if is_generator else None
    if get_origin(annotation) is SerializedReply:
        (annotation,) = get_args(annotation)
    return annotation is reply and hints.get("request") is request


class _Caller(NamedTuple):
    """Who calls: the principal, and the actor on whose behalf it calls."""

    principal: Principal
    actor: str


class _UnaryPipeline:
    """The pipeline of one unary method."""

    def __init__(
        self, calls: CallPipeline, method: str, access: AccessRule, request_type: type[Message], handler: Handler
    ) -> None:
        self._calls = calls
        self._method = method
        self._access = access
        self._request_type = request_type
        self._descriptor: Any = request_type.DESCRIPTOR
        self._handler = handler
        self._attributes = {"rpc.system.name": "grpc", "rpc.method": method}
        self._durations: dict[str, Any] = {}

    async def serve(self, payload: bytes, context: Context) -> bytes:
        """Serve one call: return the reply, or abort with the status of the error; no internal text is sent."""
        started = time.perf_counter()
        metadata = _Metadata(context.invocation_metadata() or ())
        code, log_fields = StatusCode.OK, {"request_id": metadata.get("x-request-id", "")[:_REQUEST_ID_MAX]}
        raised: BaseException | None = None
        parent = Trace.from_header(metadata.get("traceparent"))
        with telemetry.span(self._method, parent, SpanKind.SERVER, self._attributes) as trace:
            token = telemetry.current.set(trace)
            try:
                running = self._run(payload, context, metadata, trace, log_fields)
                del payload  # see _forget_frames
                return await running
            except BaseException as exception:
                if isinstance(exception, asyncio.CancelledError) and _is_cancelled():
                    code = StatusCode.CANCELLED  # the client is gone, so no status can be sent
                    raise
                error = _to_error(exception, log_fields)
                code, raised = error.code, exception
                await _abort(context, error)
                raise
            finally:
                seconds = time.perf_counter() - started
                self._observe(code.name, seconds)
                if trace.sampled:
                    telemetry.set_outcome(
                        {"rpc.response.status_code": code.name},
                        error_type="" if code is StatusCode.OK else log_fields.get("reason", code.name),
                        fault=code.name in telemetry.FAULTS,
                        exception=raised if code is StatusCode.INTERNAL else None,
                    )
                log.info("call", rpc_method=self._method, code=code.name, ms=round(seconds * 1e3, 2), **log_fields)
                telemetry.current.reset(token)
                _forget_frames(raised)

    async def _run(
        self, payload: bytes, context: Context, metadata: "_Metadata", trace: Trace, log_fields: dict[str, str]
    ) -> bytes:
        admission, size = self._calls.admission, len(payload)
        admission.arrive()
        try:
            deadline = self._calls.deadline(context.time_remaining())
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                caller = await self._authorize(metadata, log_fields)
                tenant_id, by_service = caller.principal.tenant_id, INTERNAL in caller.principal.permissions
                await admission.begin(tenant_id, size, by_service=by_service)
                try:
                    request, call = await self._accept(payload, caller, trace, deadline)
                    return await self._handle(request, call, context)
                finally:
                    admission.end(tenant_id, size, by_service=by_service)
        finally:
            admission.depart()

    async def _authorize(self, metadata: "_Metadata", log_fields: dict[str, str]) -> "_Caller":
        """Return the caller. Raises the errors of authentication and of `AccessRule.check`."""
        metadata.check()
        principal = await self._calls.authenticate(metadata)
        actor = self._access.actor(principal, metadata.get("x-actor"))
        log_fields |= {"tenant_id": str(principal.tenant_id), "actor": actor}
        self._access.check(principal)
        return _Caller(principal, actor)

    async def _accept(self, payload: bytes, caller: "_Caller", trace: Trace, deadline: float) -> tuple[Message, Call]:
        """Parse and validate the request, and resolve the scope of the caller."""
        request = self._decode(payload)
        validation.check(request)
        if len(payload) > LARGE_BYTES:
            await let_others_run()  # before the handler, which takes as long
        key = getattr(request, "request_id", "")
        call = Call(
            method=self._method,
            tenant_id=caller.principal.tenant_id,
            actor=caller.actor,
            trace=trace,
            deadline=deadline,
            principal=caller.principal,
            key=key,
            fingerprint=idempotency.fingerprint(request, caller.actor) if key else b"",
        )
        if call.principal.confined:
            await self._calls.resolve_scope(call)
        return request, call

    def _decode(self, payload: bytes) -> Message:
        wire.check_counts(self._descriptor, payload)
        try:
            return self._request_type.FromString(payload)
        except DecodeError:
            raise MalformedBody(f"The bytes are not a valid {self._request_type.DESCRIPTOR.full_name}.") from None

    async def _handle(self, request: Message, call: Call, context: Context) -> bytes:
        try:
            reply: Message | SerializedReply[Message] = await self._handler(request, call)
            return reply.data if isinstance(reply, SerializedReply) else reply.SerializeToString()
        except idempotency.Replay as replay:
            context.set_trailing_metadata(_REPLAYED)
            return replay.reply

    def _observe(self, code: str, seconds: float) -> None:
        duration = self._durations.get(code)
        if duration is None:
            duration = self._durations[code] = telemetry.SERVER_DURATION.labels(self._method, code)
        duration.observe(seconds)


class _StreamPipeline(_UnaryPipeline):
    """The pipeline of one streaming method."""

    async def _run(
        self, payload: bytes, context: Context, metadata: "_Metadata", trace: Trace, log_fields: dict[str, str]
    ) -> bytes:
        admission = self._calls.admission
        async with asyncio.timeout(max(0.0, self._calls.deadline(context.time_remaining()) - time.monotonic())):
            caller = await self._authorize_stream(payload, metadata, log_fields)
        tenant_id = caller.principal.tenant_id
        end = admission.open_stream(tenant_id)
        try:
            deadline = self._calls.deadline(context.time_remaining())
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                request, call = await self._accept(payload, caller, trace, deadline)
                await context.send_initial_metadata(())  # the client learns of its admission before the first reply
            await self._stream(request, call, context, end)
            return b""
        finally:
            admission.close_stream(tenant_id, end)

    async def _authorize_stream(self, payload: bytes, metadata: "_Metadata", log_fields: dict[str, str]) -> "_Caller":
        admission = self._calls.admission
        admission.arrive()
        try:
            caller = await self._authorize(metadata, log_fields)
        finally:
            admission.depart()
        admission.check_size(len(payload))
        return caller

    async def _stream(self, request: Message, call: Call, context: Context, end: "asyncio.Future[None]") -> None:
        """Send the replies until the handler has no more or the stream must end. Raises the error that it ends with."""
        lifetime_s, error = self._calls.stream_lifetime(call, context.time_remaining())
        call.deadline = time.monotonic() + lifetime_s
        # A separate task, since libraries may swallow a cancellation in Python 3.11: `cancel_and_wait` repeats it.
        sending = asyncio.create_task(self._send_replies(request, call, context))
        try:
            await asyncio.wait({sending, end}, timeout=lifetime_s, return_when=asyncio.FIRST_COMPLETED)
            completed = sending.done()
        finally:
            await cancel_and_wait(sending)
        if completed:
            sending.result()
        elif end.done():
            end.result()
            raise Unavailable("This replica")
        elif error:
            raise error

    async def _send_replies(self, request: Message, call: Call, context: Context) -> None:
        """Send the replies of the handler; `write` waits while the client does not read."""
        async with aclosing(self._handler(request, call)) as replies:
            async for reply in replies:
                await context.write(reply.SerializeToString())


def _to_error(exception: BaseException, log_fields: dict[str, str]) -> BillingError:
    """Convert an exception to the error to send. An unexpected one is logged under an id, and only the id is sent."""
    if isinstance(exception, BillingError):
        log_fields["reason"] = exception.reason
        return exception
    if isinstance(exception, TimeoutError):
        return DeadlineExceeded()
    if isinstance(exception, asyncio.CancelledError):
        return Unavailable("This replica")
    error = to_billing_error(exception)
    if error is None:
        incident = uuid4().hex
        log_fields["incident"] = incident
        log.error("internal error", incident=incident, exc_info=exception)
        return Internal(incident)
    log_fields["reason"] = error.reason
    log.warning("database error", reason=error.reason, error=exception)
    return error


def _is_cancelled() -> bool:
    """Return True if gRPC cancelled the call, because its client is gone; the context doesn't have this information."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _forget_frames(exception: BaseException | None) -> None:
    """Remove the references of an exception to the functions that raised it, which hold above all the request.

    gRPC keeps the exception of an aborted call in a reference cycle, which only the garbage collector frees: too seldom
    for large requests. The frames themselves are not cleared: some may belong to work for other calls, which goes on.
    """
    if exception is not None:
        exception.__traceback__ = exception.__context__ = exception.__cause__ = None


async def _abort(context: Context, error: BillingError) -> None:
    """End the call with the status of the error."""
    status = to_status(error)
    await context.abort(
        error.code, status.message, trailing_metadata=((STATUS_METADATA_KEY, status.SerializeToString()),)
    )
