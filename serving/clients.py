"""Clients of other services: one channel per service over all its replicas, with retries where they are safe."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager, suppress
from functools import cache, lru_cache
from typing import Final, TypeVar
from urllib.parse import quote
from uuid import uuid4

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode, aio
from opentelemetry.trace import SpanKind
from prometheus_client import Histogram

from contract.methods import COMMON_APIS, Method, methods
from kit import telemetry
from kit.auth import ServiceTokens
from kit.error_status import STATUS_METADATA_KEY
from kit.errors import Unavailable
from kit.origin import Origin
from kit.settings import Settings
from kit.telemetry import Trace

_HEADROOM = 0.9
"""Fraction of the remaining time that an outgoing call gets, so that its failure can still be reported in time."""

METADATA_LIMITS: Final = (("grpc.max_metadata_size", 32 * 1024), ("grpc.absolute_max_metadata_size", 64 * 1024))
"""Limits of the metadata of a call on servers and channels. A token has up to 8 KiB; errors stay below the 8 KiB that
other clients accept by default. Between the two limits gRPC refuses at random.
"""

_OPTIONS: list[tuple[str, str | int]] = [
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
]

RequestT = TypeVar("RequestT", bound=Message)
ReplyT = TypeVar("ReplyT", bound=Message)


def channel(settings: Settings, service: str) -> aio.Channel:
    """Return a channel to all replicas of `service`, balanced round robin. Raises KeyError if it has no address."""
    try:
        addresses = settings.addresses[service]
    except KeyError:
        raise KeyError(f"BILLING_ADDRESSES has no address for {service}") from None
    size = settings.message_bytes_max
    options = [
        *_OPTIONS,
        ("grpc.service_config", service_config(service)),
        ("grpc.max_receive_message_length", 2 * size),
        ("grpc.max_send_message_length", size),
        *METADATA_LIMITS,
    ]
    return aio.insecure_channel(addresses if "://" in addresses else f"ipv4:{addresses}", options=options)


@lru_cache
def service_config(service: str) -> str:
    """Return the gRPC service config: UNAVAILABLE is retried for methods that are safe to retry, nothing else is."""
    retry = {
        "maxAttempts": 4,
        "initialBackoff": "0.05s",
        "maxBackoff": "1s",
        "backoffMultiplier": 3,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
    retried = [
        {"service": method.grpc_service, "method": method.name}
        for method in methods().values()
        if method.retry_safe and method.service in {service, *COMMON_APIS}
    ]
    return json.dumps(
        {
            "loadBalancingConfig": [{"round_robin": {}}],
            "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.1},
            "methodConfig": [{"name": retried, "retryPolicy": retry}],
        }
    )


@contextmanager
def observed_call(method: str, trace: Trace) -> Iterator[Trace]:
    """Trace and measure a call out of this process; yields the trace to send with it."""
    started = time.perf_counter()
    code, reason = StatusCode.OK, ""
    with telemetry.span(method, trace, SpanKind.CLIENT, {"rpc.system.name": "grpc", "rpc.method": method}) as inner:
        try:
            yield inner
        except grpc.aio.AioRpcError as error:
            code, reason = error.code(), _reason(error)
            raise
        except asyncio.CancelledError:
            code = StatusCode.CANCELLED
            raise
        finally:
            _duration(method, code.name).observe(time.perf_counter() - started)
            if inner.sampled:
                telemetry.set_outcome(
                    {"rpc.response.status_code": code.name},
                    error_type="" if code is StatusCode.OK else reason or code.name,
                    fault=code.name in telemetry.FAULTS,
                )


@cache
def _duration(method: str, code: str) -> Histogram:
    return telemetry.CLIENT_DURATION.labels(method, code)


def _reason(error: grpc.aio.AioRpcError) -> str:
    """Return the reason that a service sent with an error; empty if it sent none."""
    details = dict(error.trailing_metadata() or ()).get(STATUS_METADATA_KEY, b"")
    status, info = status_pb2.Status(), error_details_pb2.ErrorInfo()
    with suppress(DecodeError):
        status.ParseFromString(details if isinstance(details, bytes) else b"")
    for detail in status.details:
        if detail.Unpack(info):
            return str(info.reason)
    return ""


class ServiceClient:
    """A client of another service; calls it with a service token on behalf of the original caller."""

    def __init__(self, settings: Settings, service: str) -> None:
        self.channel = channel(settings, service)
        self._service = service
        self._tokens = ServiceTokens(settings)

    async def call(
        self, rpc: aio.UnaryUnaryMultiCallable[RequestT, ReplyT], request: RequestT, origin: Origin
    ) -> ReplyT:
        """Call the RPC and return its reply, within the time that `origin` has left. Raises Unavailable.

        Don't call it inside a transaction: the transaction would hold its locks until the other service replies.
        """
        method = methods()[request.DESCRIPTOR.full_name]
        if method.keyed and not request.request_id:  # type: ignore[attr-defined]  # a keyed method has it
            request.request_id = uuid4().hex  # type: ignore[attr-defined]  # makes the retries of the channel safe
        with self._outgoing_call(method, origin) as metadata:
            return await rpc(request, timeout=origin.remaining_s() * _HEADROOM, metadata=metadata)

    async def stream(
        self, rpc: aio.UnaryStreamMultiCallable[RequestT, ReplyT], request: RequestT, origin: Origin
    ) -> AsyncGenerator[ReplyT, None]:
        """Yield the replies of a streaming RPC as `call` does. Close the generator (`aclosing`) to leave early."""
        with self._outgoing_call(methods()[request.DESCRIPTOR.full_name], origin) as metadata:
            replies = rpc(request, timeout=origin.remaining_s() * _HEADROOM, metadata=metadata)
            try:
                async for reply in replies:
                    yield reply
            finally:
                replies.cancel()

    @contextmanager
    def _outgoing_call(self, method: Method, origin: Origin) -> Iterator[tuple[tuple[str, str], ...]]:
        """Trace and measure a call; yields its metadata. Raises Unavailable in place of transport errors."""
        try:
            with observed_call(method.full_name, origin.trace) as trace:
                yield (
                    ("authorization", f"Bearer {self._tokens.token(origin.tenant_id)}"),
                    ("traceparent", trace.header()),
                    ("x-actor", quote(origin.actor)),
                )
        except grpc.aio.AioRpcError as error:
            if error.code() in {StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED, StatusCode.RESOURCE_EXHAUSTED}:
                raise Unavailable(f"The service {self._service}") from error
            raise
