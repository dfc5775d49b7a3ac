"""Calls to other services: one channel each, over all its replicas, with retries only where they are safe."""

import json
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TypeVar
from urllib.parse import quote
from uuid import uuid4

import grpc
from google.protobuf.message import Message
from grpc import StatusCode, aio
from opentelemetry.trace import SpanKind

from contract.methods import SHARED, Method, methods
from kit import telemetry
from kit.auth import ServiceTokens
from kit.errors import Unavailable
from kit.origin import Origin
from kit.settings import Settings

_HEADROOM = 0.9
"""Share of the time left that a call to another service gets, so that its failure can still be answered."""

_OPTIONS: list[tuple[str, str | int]] = [
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
]

RequestT = TypeVar("RequestT", bound=Message)
ReplyT = TypeVar("ReplyT", bound=Message)


def channel(settings: Settings, service: str) -> aio.Channel:
    """A channel to all replicas of `service`, balanced round robin; raises KeyError where no address is known."""
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
    ]
    return aio.insecure_channel(addresses if "://" in addresses else f"ipv4:{addresses}", options=options)


@lru_cache
def service_config(service: str) -> str:
    """GRPC's service config: UNAVAILABLE is tried again where that does no harm, nothing else is."""
    retry = {
        "maxAttempts": 4,
        "initialBackoff": "0.05s",
        "maxBackoff": "1s",
        "backoffMultiplier": 3,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
    repeatable = [
        {"service": method.service, "method": method.name}
        for method in methods().values()
        if method.repeatable and method.room in {service, *SHARED}
    ]
    return json.dumps(
        {
            "loadBalancingConfig": [{"round_robin": {}}],
            "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.1},
            "methodConfig": [{"name": repeatable, "retryPolicy": retry}],
        }
    )


class ServiceClient:
    """Another service, called with a token of our own on behalf of whoever called us."""

    def __init__(self, settings: Settings, service: str) -> None:
        self.channel = channel(settings, service)
        self._service = service
        self._tokens = ServiceTokens(settings)

    async def call(
        self, rpc: aio.UnaryUnaryMultiCallable[RequestT, ReplyT], request: RequestT, origin: Origin
    ) -> ReplyT:
        """The reply, within the time that `origin` has left; raises Unavailable where the service gives none.

        Never inside a transaction: it would hold its locks for as long as the other service takes.
        """
        method = methods()[request.DESCRIPTOR.full_name]
        if method.keyed and not request.request_id:  # type: ignore[attr-defined]  # `keyed` says that it has one
            request.request_id = uuid4().hex  # type: ignore[attr-defined]  # so that the channel's retry does it once
        with self._asking(method, origin) as metadata:
            return await rpc(request, timeout=origin.remaining_s() * _HEADROOM, metadata=metadata)

    async def stream(
        self, rpc: aio.UnaryStreamMultiCallable[RequestT, ReplyT], request: RequestT, origin: Origin
    ) -> AsyncGenerator[ReplyT, None]:
        """The replies as they come, under the same terms. Close it where you leave before its end (`aclosing`)."""
        with self._asking(methods()[request.DESCRIPTOR.full_name], origin) as metadata:
            replies = rpc(request, timeout=origin.remaining_s() * _HEADROOM, metadata=metadata)
            try:
                async for reply in replies:
                    yield reply
            finally:
                replies.cancel()

    @contextmanager
    def _asking(self, method: Method, origin: Origin) -> Iterator[tuple[tuple[str, str], ...]]:
        """What a call bears as metadata; it is traced and measured, and Unavailable if the service gives no answer."""
        started = time.perf_counter()
        code = StatusCode.OK
        attributes = {"rpc.system.name": "grpc", "rpc.method": method.full_name}
        with telemetry.span(method.full_name, origin.trace, SpanKind.CLIENT, attributes) as trace:
            try:
                yield (
                    ("authorization", f"Bearer {self._tokens.token(origin.tenant_id)}"),
                    ("traceparent", trace.header()),
                    ("x-actor", quote(origin.actor)),
                )
            except grpc.aio.AioRpcError as error:
                code = error.code()
                if code in {StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED, StatusCode.RESOURCE_EXHAUSTED}:
                    raise Unavailable(f"The service {self._service}") from error
                raise
            finally:
                seconds = time.perf_counter() - started
                telemetry.CLIENT_DURATION.labels(method.full_name, code.name).observe(seconds)
