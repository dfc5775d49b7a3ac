"""The routes that no RPC stands behind: health, metrics, documentation, and who the caller is."""

import asyncio
import html
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import grpc
import orjson
import prometheus_client
from grpc import aio
from grpc_health.v1 import health, health_pb2

from contract import codec, descriptors, openapi
from gateway import problems
from gateway.answers import Answer, Endpoint, Request
from kit.auth import ROLES, Authenticator, Principal, bearer
from kit.errors import RouteNotFound

BASE = "/api/enterprise-billing"
_HTML = ("content-type", "text/html; charset=utf-8")
_JSON = ("content-type", "application/json")
_POLICY = (
    "content-security-policy",
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'",
)
_UI_FILES = {
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "swagger-ui.css": "text/css; charset=utf-8",
    "favicon.png": "image/png",
}
_UI_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>API</title><link rel="icon" href="/docs/favicon.png">
<link rel="stylesheet" href="/docs/swagger-ui.css"></head>
<body><div id="ui"></div><script src="/docs/swagger-ui-bundle.js"></script><script src="/docs/start.js"></script></body>
</html>"""
_UI_START = """SwaggerUIBundle({url: "/openapi.json", dom_id: "#ui", deepLinking: true, persistAuthorization: true,
  tryItOutEnabled: true, displayRequestDuration: true, docExpansion: "none", filter: true});"""
_READY_FOR_S = 1.0
_READY_WITHIN_S = 0.8


class Page:
    """A route answered by a function."""

    def __init__(self, function: Callable[[Request], Awaitable[Answer]]) -> None:
        self._function = function

    async def answer(self, request: Request) -> Answer:
        """What the function gives."""
        return await self._function(request)

    def refused(self, error: Exception, request: Request) -> Answer:
        """The refusal as problem+json."""
        return problems.answer(problems.of(error), request.id, request.trace.trace_id)


def pages(
    channels: Mapping[str, aio.Channel], authenticator: Authenticator, is_draining: Callable[[], bool]
) -> Mapping[str, Endpoint]:
    """What is answered here, by template; all are GET."""
    people = _People(authenticator)
    return {
        "/healthz": Page(_healthz),
        "/readyz": Page(_Readiness(channels, is_draining).answer),
        "/metrics": Page(_metrics),
        "/openapi.json": Page(_openapi),
        "/docs": Page(_docs),
        "/docs/{file}": Page(_docs_file),
        "/errors/{reason}": Page(_reason),
        f"{BASE}/me": Page(people.me),
        f"{BASE}/roles": Page(people.roles),
    }


class _Readiness:
    """Whether every service that routes lead to answers; asked again once a second at most."""

    def __init__(self, channels: Mapping[str, aio.Channel], is_draining: Callable[[], bool]) -> None:
        self._checks = {room: _check(channel) for room, channel in channels.items()}
        self._is_draining = is_draining
        self._states: dict[str, str] = {}
        self._until = 0.0
        self._asking = asyncio.Lock()

    async def answer(self, _: Request) -> Answer:
        async with self._asking:
            if self._until < time.monotonic():
                asked = await asyncio.gather(*map(self._state, self._checks))
                self._states = dict(zip(self._checks, asked, strict=True))
                self._until = time.monotonic() + _READY_FOR_S
        missing = sorted(room for room, state in self._states.items() if state != "SERVING")
        ready = not missing and not self._is_draining()
        found = {"ready": ready, "draining": self._is_draining(), "services": self._states, "not_ready": missing}
        return Answer(200 if ready else 503, codec.dumps(found), [_JSON])

    async def _state(self, room: str) -> str:
        try:
            reply = await self._checks[room](health_pb2.HealthCheckRequest(), timeout=_READY_WITHIN_S)
        except grpc.RpcError:
            return "UNREACHABLE"
        return health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)


def _check(channel: aio.Channel) -> Any:
    return channel.unary_unary(
        f"/{health.SERVICE_NAME}/Check",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )


class _People:
    """Who the caller is, and what roles there are."""

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator

    async def me(self, request: Request) -> Answer:
        principal = await self._known(request)
        told = {**asdict(principal), "tenant_id": str(principal.tenant_id)}
        return Answer(200, orjson.dumps(told, default=sorted), [_JSON])

    async def roles(self, request: Request) -> Answer:
        await self._known(request)
        listed = [{"role": role, "permissions": sorted(permissions)} for role, permissions in ROLES.items()]
        return Answer(200, codec.dumps({"roles": listed}), [_JSON])

    async def _known(self, request: Request) -> Principal:
        request.principal = await self._authenticator.authenticate(bearer(request.headers.get("authorization")))
        return request.principal


async def _healthz(_: Request) -> Answer:
    return Answer(200, b'{"alive":true}', [_JSON])


async def _metrics(_: Request) -> Answer:
    return Answer(200, prometheus_client.generate_latest(), [("content-type", prometheus_client.CONTENT_TYPE_LATEST)])


async def _openapi(_: Request) -> Answer:
    return Answer(200, _described(), [_JSON])


@lru_cache(maxsize=1)
def _described() -> bytes:
    return json.dumps(openapi.document()).encode()


async def _docs(_: Request) -> Answer:
    return Answer(200, _UI_PAGE.encode(), [_HTML, _POLICY])


async def _docs_file(request: Request) -> Answer:
    name = request.variables["file"]
    if name == "start.js":
        return Answer(200, _UI_START.encode(), [("content-type", _UI_FILES["swagger-ui-bundle.js"])])
    if name not in _UI_FILES:
        raise RouteNotFound(f"There is no {name[:100]} here.")
    return Answer(200, _ui_file(name), [("content-type", _UI_FILES[name])])


@lru_cache
def _ui_file(name: str) -> bytes:
    """A file of Swagger UI, from the package that ships it; importing that one would bring FastAPI along."""
    package = find_spec("fastapi_offline")
    if package is None or package.origin is None:
        raise RouteNotFound("Swagger UI is not installed here.")
    return (Path(package.origin).parent / "static" / name).read_bytes()


async def _reason(request: Request) -> Answer:
    reason = descriptors.reasons().get(request.variables["reason"])
    if reason is None:
        raise RouteNotFound(f"There is no reason {request.variables['reason'][:100]}.")
    name, text = html.escape(reason.name), html.escape(reason.text)
    page = f"""<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{name}</title></head>
<body><h1>{name}</h1><p>{text}</p><p>HTTP {reason.status.value} · gRPC {reason.code}</p></body></html>"""
    return Answer(200, page.encode(), [_HTML, _POLICY])
