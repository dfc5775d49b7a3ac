"""The gateway as an ASGI application: one request's way through."""

import asyncio
import random
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any
from weakref import WeakSet

from opentelemetry.trace import SpanKind
from prometheus_client import Histogram

from contract import routes
from contract.methods import SHARED
from contract.routes import Route, Router
from gateway import handwritten, problems
from gateway.answers import Answer, Endpoint, Receive, Request
from gateway.limits import Limits
from gateway.merging import Merged
from gateway.streaming import Stream
from gateway.transcoding import Transcoder
from kit import telemetry
from kit.auth import Authenticator
from kit.settings import Settings
from kit.telemetry import Trace, log
from serving import clients

DURATION = Histogram(
    "http_server_request_duration_seconds",
    "Duration of HTTP requests.",
    ("http_request_method", "http_route", "http_response_status_code"),
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)
_VERBS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_ALWAYS = [(b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff")]

Send = Callable[[Mapping[str, Any]], Awaitable[None]]


class App:
    """Routes requests to what answers them, and sees to what all of them have: trace, problems, log, metrics."""

    def __init__(self, settings: Settings, found: Sequence[Route] = ()) -> None:
        found = found or routes.routes()
        rooms = {route.room for route in found}
        # What every service has is asked of all whose address we are told.
        rooms = (rooms | settings.addresses.keys() if rooms & SHARED else rooms) - SHARED
        self.channels = {room: clients.channel(settings, room) for room in sorted(rooms)}
        self.limits = Limits(settings)
        self.draining = False
        """Whether the process is about to end: it says so, and lets go of connections."""
        self._listening: WeakSet[asyncio.Task[None]] = WeakSet()
        authenticator = Authenticator(settings)
        self._router: Router[tuple[str, Endpoint]] = Router()
        self._durations: dict[tuple[str, str, int], Any] = {}
        for route in found:
            if route.room in SHARED:
                endpoint: Endpoint = Merged(route, self.channels, authenticator, self.limits, settings)
            else:
                kind = Stream if route.streams else Transcoder
                endpoint = kind(route, self.channels[route.room], authenticator, self.limits, settings)
            self._router.add(route.verb, route.template, (route.template, endpoint))
        for template, page in handwritten.pages(self.channels, authenticator, lambda: self.draining).items():
            self._router.add("GET", template, (template, page))

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        started = time.perf_counter()
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        asked_id = headers.get("x-request-id", "")
        request = Request(
            verb=scope["method"],
            query=scope["query_string"].decode("latin-1"),
            headers=headers,
            receive=receive,
            trace=Trace.from_header(headers.get("traceparent")),
            listening=self._listening,
            id=asked_id if _REQUEST_ID.fullmatch(asked_id) else f"{random.getrandbits(128):032x}",
        )
        route, answer = await self._answered(request, scope["raw_path"].decode("latin-1"))
        await self._send(request, answer, send)
        self._note(request, route, answer, time.perf_counter() - started)

    async def _answered(self, request: Request, path: str) -> tuple[str, Answer]:
        """The template of the route, and the answer; nothing is raised."""
        telemetry.current.set(request.trace)
        try:
            (route, endpoint), request.variables = self._router.find(request.verb, path)
        except Exception as error:  # noqa: BLE001 - `problems.of` logs what is no refusal
            return "", problems.answer(problems.of(error), request.id, request.trace.trace_id)
        if not request.trace.sampled:
            return route, await _tried(endpoint, request)
        attributes = {"http.request.method": request.verb, "http.route": route, "billing.request_id": request.id}
        with telemetry.span(f"{request.verb} {route}", request.trace, SpanKind.SERVER, attributes) as request.trace:
            telemetry.current.set(request.trace)
            return route, await _tried(endpoint, request)

    async def _send(self, request: Request, answer: Answer, send: Send) -> None:
        headers = [
            *_ALWAYS,
            (b"x-request-id", request.id.encode()),
            (b"traceparent", request.trace.header().encode()),
        ]
        for name, value in (*request.told, *answer.headers):
            headers.append((name.encode(), value.encode("latin-1", "replace")))
        if answer.more is None:
            headers.append((b"content-length", b"%d" % len(answer.body)))
        if self.draining:
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body, "more_body": answer.more is not None})
        if answer.more is not None:
            async with aclosing(answer.more):
                async for piece in answer.more:
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body"})

    def _note(self, request: Request, route: str, answer: Answer, seconds: float) -> None:
        label = request.verb, route, answer.status
        duration = self._durations.get(label)
        if duration is None:
            verb = request.verb if request.verb in _VERBS else "_OTHER"
            duration = self._durations[label] = DURATION.labels(verb, route, str(answer.status))
        duration.observe(seconds)
        principal = request.principal
        log.info(
            "request",
            http_method=request.verb,
            route=route,
            status=answer.status,
            reason=answer.reason,
            ms=round(seconds * 1e3, 2),
            request_id=request.id,
            tenant_id=principal.tenant_id if principal else None,
            actor=principal.subject if principal else None,
        )

    def drain(self) -> None:
        """Say from now on that the process is about to end, and end what streams."""
        self.draining = True
        for listening in self._listening:
            listening.cancel()

    async def close(self) -> None:
        """Let the services and the database go."""
        for channel in self.channels.values():
            await channel.close()
        await self.limits.close()


async def _tried(endpoint: Endpoint, request: Request) -> Answer:
    try:
        return await endpoint.answer(request)
    except Exception as error:  # noqa: BLE001 - `problems.of` logs what is no refusal
        return endpoint.refused(error, request)
