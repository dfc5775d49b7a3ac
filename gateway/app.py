"""The gateway as an ASGI application: routes each request to its endpoint, then logs and measures it."""

import asyncio
import random
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from http import HTTPStatus
from typing import Any
from weakref import WeakSet

from opentelemetry.trace import SpanKind
from prometheus_client import Gauge, Histogram

from contract import routes
from contract.methods import COMMON_APIS
from contract.routes import Route, Router
from gateway import builtin_routes, header_rules, problems
from gateway.capacity import Capacity, Usage
from gateway.downloads import DownloadEndpoint
from gateway.fan_out import FanOutEndpoint
from gateway.http_types import Endpoint, Receive, Request, Response, ResponseBroken
from gateway.rate_limits import RateLimits
from gateway.streaming import StreamEndpoint
from gateway.transcoding import UnaryEndpoint
from kit import telemetry
from kit.auth import Authenticator
from kit.errors import ConcurrencyLimited, Overloaded
from kit.settings import Settings
from kit.telemetry import Trace, log
from serving import clients

DURATION = Histogram(
    "http_server_request_duration_seconds",
    "Duration of HTTP requests.",
    ("http_request_method", "url_scheme", "http_route", "http_response_status_code"),
    buckets=telemetry.DURATION_BUCKETS,
)
ACTIVE_REQUESTS = Gauge(
    "http_server_active_requests",
    "HTTP requests in progress, including open streams.",
    ("http_request_method", "url_scheme"),
)
_SCHEME = "http"
"""Label required by OpenTelemetry; TLS ends in front of the gateway."""
_VERBS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
_OTHER_VERB = "_OTHER"
_active_requests = dict.fromkeys((*_VERBS, _OTHER_VERB), 0)
for _verb in _active_requests:  # evaluated on scrape, since a gauge would take a lock twice for each request
    ACTIVE_REQUESTS.labels(_verb, _SCHEME).set_function(partial(_active_requests.__getitem__, _verb))
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_PART_BYTES = 64 * 1024
"""Larger bodies are sent in parts of this size."""
_COMMON_HEADERS = [(b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff")]

Send = Callable[[Mapping[str, Any]], Awaitable[None]]


class App:
    """Routes requests to endpoints; every response gets a trace id, a request id, a log line and metrics."""

    def __init__(self, settings: Settings, route_list: Sequence[Route] = ()) -> None:
        route_list = route_list or routes.routes()
        services = {route.service for route in route_list}
        # A common API is called on every service whose address is configured.
        services = (services | settings.addresses.keys() if services & COMMON_APIS else services) - COMMON_APIS
        self.channels = {service: clients.channel(settings, service) for service in sorted(services)}
        self.limits = RateLimits(settings)
        self._capacity = Capacity(settings)
        self.draining = False
        """True once the process is shutting down: /readyz fails, and responses close their connection."""
        self._stream_watchers: WeakSet[asyncio.Task[None]] = WeakSet()
        authenticator = Authenticator(settings)
        self._router: Router[tuple[str, Endpoint]] = Router()
        self._durations: dict[tuple[str, str, int], Any] = {}
        for route in route_list:
            if route.service in COMMON_APIS:
                endpoint: Endpoint = FanOutEndpoint(route, self.channels, authenticator, self.limits, settings)
            else:
                endpoint = _kind(route)(route, self.channels[route.service], authenticator, self.limits, settings)
            self._router.add(route.verb, route.template, (route.template, endpoint))
        builtin = builtin_routes.endpoints(self.channels, authenticator, lambda: self.draining)
        for template, builtin_endpoint in builtin.items():
            self._router.add("GET", template, (template, builtin_endpoint))

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """Handle one request."""
        started = time.perf_counter()
        verb, usage = _verb_label(scope["method"]), Usage(self._capacity)
        _active_requests[verb] += 1
        try:
            request = self._request(scope, receive, usage)
            route, response = await self._handle(request, scope)
            if usage.is_large:
                usage.end_large()
            if len(response.body) > _PART_BYTES:
                response = _reserve_memory(request, response)
            await self._send(request, response, send)
        finally:
            usage.release()
            _active_requests[verb] -= 1
        self._record(request, route, response, time.perf_counter() - started)

    def _request(self, scope: Mapping[str, Any], receive: Receive, usage: Usage) -> Request:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        client_id = headers.get("x-request-id", "")
        return Request(
            verb=scope["method"],
            query=scope["query_string"].decode("latin-1"),
            headers=headers,
            receive=receive,
            trace=Trace.from_header(headers.get("traceparent")),
            stream_watchers=self._stream_watchers,
            usage=usage,
            id=client_id if _REQUEST_ID.fullmatch(client_id) else f"{random.getrandbits(128):032x}",
        )

    async def _handle(self, request: Request, scope: Mapping[str, Any]) -> tuple[str, Response]:
        """Return the template of the route and the response; never raises."""
        telemetry.current.set(request.trace)
        try:
            headers = request.headers
            if len(headers) != len(scope["headers"]) or "host" not in headers:
                header_rules.check(scope["headers"], headers, scope["http_version"])
            (route, endpoint), request.variables = self._router.find(request.verb, scope["raw_path"].decode("latin-1"))
        except Exception as error:  # noqa: BLE001 - an unexpected error is logged by error_response
            return "", problems.error_response(error, request)
        if not request.trace.sampled:
            return route, await _handle_errors(endpoint, request)
        attributes = {"http.request.method": request.verb, "http.route": route, "billing.request_id": request.id}
        with telemetry.span(f"{request.verb} {route}", request.trace, SpanKind.SERVER, attributes) as request.trace:
            telemetry.current.set(request.trace)
            response = await _handle_errors(endpoint, request)
            telemetry.set_outcome(
                {"http.response.status_code": response.status},
                error_type=response.reason,
                fault=response.status >= HTTPStatus.INTERNAL_SERVER_ERROR,
            )
            return route, response

    async def _send(self, request: Request, response: Response, send: Send) -> None:
        headers = [
            *_COMMON_HEADERS,
            (b"x-request-id", request.id.encode()),
            (b"traceparent", request.trace.header().encode()),
        ]
        for name, value in (*request.response_headers, *response.headers):
            headers.append((name.encode(), value.encode("latin-1", "replace")))
        if response.stream is None:
            headers.append((b"content-length", b"%d" % len(response.body)))
        if self.draining:
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        body, sent = response.body, 0
        while len(body) - sent > _PART_BYTES:  # each part waits until the client has read those before it
            await send({"type": "http.response.body", "body": body[sent : sent + _PART_BYTES], "more_body": True})
            sent += _PART_BYTES
        body = body[sent:] if sent else body
        await send({"type": "http.response.body", "body": body, "more_body": response.stream is not None})
        if response.stream is not None:
            try:
                async with aclosing(response.stream):
                    async for chunk in response.stream:
                        await send({"type": "http.response.body", "body": chunk, "more_body": True})
            except ResponseBroken as error:
                log.warning("response broken", error=error, request_id=request.id)
                return  # without the end of the body, so that the connection is closed
            await send({"type": "http.response.body"})

    def _record(self, request: Request, route: str, response: Response, seconds: float) -> None:
        label = request.verb, route, response.status
        duration = self._durations.get(label)
        if duration is None:
            labels = _verb_label(request.verb), _SCHEME, route, str(response.status)
            duration = self._durations[label] = DURATION.labels(*labels)
        duration.observe(seconds)
        principal = request.principal
        log.info(
            "request",
            http_method=request.verb,
            route=route,
            status=response.status,
            reason=response.reason,
            ms=round(seconds * 1e3, 2),
            request_id=request.id,
            tenant_id=principal.tenant_id if principal else None,
            actor=principal.subject if principal else None,
        )

    def drain(self) -> None:
        """Start shutting down: report not ready, close connections after each response, and end streams."""
        self.draining = True
        for watcher in self._stream_watchers:
            watcher.cancel()

    async def close(self) -> None:
        """Close the channels and the database pool."""
        for channel in self.channels.values():
            await channel.close()
        await self.limits.close()


def _kind(route: Route) -> type[UnaryEndpoint]:
    if route.returns_file:
        return DownloadEndpoint
    return StreamEndpoint if route.streams else UnaryEndpoint


def _verb_label(verb: str) -> str:
    """Return the method as a metric label; callers choose unknown methods, so they all share one label."""
    return verb if verb in _VERBS else _OTHER_VERB


def _reserve_memory(request: Request, response: Response) -> Response:
    """Count a large response, which the client may read slowly; without room for it, return an error instead."""
    try:
        request.reserve(len(response.body))
    except (ConcurrencyLimited, Overloaded) as error:
        return problems.error_response(error, request)
    return response


async def _handle_errors(endpoint: Endpoint, request: Request) -> Response:
    try:
        return await endpoint.handle(request)
    except Exception as error:  # noqa: BLE001 - an unexpected error is logged by error_response
        return endpoint.error_response(error, request)
