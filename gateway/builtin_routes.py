"""Routes that the gateway serves itself: health, documentation, the caller's identity, and the roles."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from typing import Any

import grpc
import orjson
from grpc import aio
from grpc_health.v1 import health, health_pb2

from contract import codec
from gateway import api_docs, problems
from gateway.http_types import Endpoint, Request, Response
from kit.auth import CONFINED_ROLES, ROLES, Authenticator, Principal, bearer_token

BASE = "/api/enterprise-billing"
_JSON = ("content-type", "application/json")
_READINESS_CACHE_S = 1.0
_HEALTH_TIMEOUT_S = 0.8


class FunctionEndpoint:
    """Handles one route with a function."""

    def __init__(self, function: Callable[[Request], Awaitable[Response]]) -> None:
        self._function = function

    async def handle(self, request: Request) -> Response:
        """Call the function."""
        return await self._function(request)

    def error_response(self, error: Exception, request: Request) -> Response:
        """Return the error as problem+json."""
        return problems.error_response(error, request)


def endpoints(
    channels: Mapping[str, aio.Channel], authenticator: Authenticator, is_draining: Callable[[], bool]
) -> Mapping[str, Endpoint]:
    """Return the endpoints by path template; all are GET routes."""
    identity = _Identity(authenticator)
    return {
        "/healthz": FunctionEndpoint(_healthz),
        "/readyz": FunctionEndpoint(_Readiness(channels, is_draining).get),
        "/openapi.json": FunctionEndpoint(api_docs.openapi_document),
        "/docs": FunctionEndpoint(api_docs.page),
        "/docs/{file}": FunctionEndpoint(api_docs.page_file),
        "/errors/{reason}": FunctionEndpoint(api_docs.reason_page),
        f"{BASE}/me": FunctionEndpoint(identity.me),
        f"{BASE}/roles": FunctionEndpoint(identity.roles),
    }


class _Readiness:
    """Checks the services behind the routes; the result is cached for a second.

    The gateway is ready while at least one service is serving: to remove all replicas of the gateway from the load
    balancer because one service is down would make the others unavailable, too. If it reaches none of them, another
    replica may, so it is not ready.
    """

    def __init__(self, channels: Mapping[str, aio.Channel], is_draining: Callable[[], bool]) -> None:
        self._checks = {service: _health_check(channel) for service, channel in channels.items()}
        self._is_draining = is_draining
        self._states: dict[str, str] = {}
        self._expires_at = 0.0
        self._lock = asyncio.Lock()

    async def get(self, _: Request) -> Response:
        async with self._lock:
            if self._expires_at < time.monotonic():
                states = await asyncio.gather(*map(self._state, self._checks))
                self._states = dict(zip(self._checks, states, strict=True))
                self._expires_at = time.monotonic() + _READINESS_CACHE_S
        not_ready = sorted(service for service, state in self._states.items() if state != "SERVING")
        draining = self._is_draining()
        ready = len(not_ready) < len(self._states) and not draining
        body = {
            "ready": ready,
            "degraded": bool(not_ready),
            "draining": draining,
            "services": self._states,
            "not_ready": not_ready,
        }
        return Response(200 if ready else 503, codec.dumps(body), [_JSON])

    async def _state(self, service: str) -> str:
        try:
            reply = await self._checks[service](health_pb2.HealthCheckRequest(), timeout=_HEALTH_TIMEOUT_S)
        except grpc.RpcError:
            return "UNREACHABLE"
        return health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)


def _health_check(channel: aio.Channel) -> Any:
    return channel.unary_unary(
        f"/{health.SERVICE_NAME}/Check",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )


class _Identity:
    """The caller's identity, and the roles."""

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator

    async def me(self, request: Request) -> Response:
        principal = await self._authenticate(request)
        body = {**asdict(principal), "tenant_id": str(principal.tenant_id)}
        return Response(200, orjson.dumps(body, default=sorted), [_JSON])

    async def roles(self, request: Request) -> Response:
        await self._authenticate(request)
        roles = [
            {"role": role, "permissions": sorted(permissions), "needs_scope": role in CONFINED_ROLES}
            for role, permissions in ROLES.items()
        ]
        return Response(200, codec.dumps({"roles": roles}), [_JSON])

    async def _authenticate(self, request: Request) -> Principal:
        request.principal = await self._authenticator.authenticate(bearer_token(request.headers.get("authorization")))
        return request.principal


async def _healthz(_: Request) -> Response:
    return Response(200, b'{"alive":true}', [_JSON])
