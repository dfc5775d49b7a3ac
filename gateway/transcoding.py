"""Endpoints that transcode REST to gRPC: authenticate, limit the rate, build the request, call, encode the reply."""

from collections.abc import Mapping
from typing import Any

from google.protobuf.message import Message
from grpc import aio

from contract import codec, json_body, sse
from contract.access import AccessRule
from contract.binding import Binding
from contract.routes import Route
from gateway import problems
from gateway.http_types import Headers, Request, Response
from gateway.rate_limits import RateLimits
from kit.auth import Authenticator, bearer_token
from kit.settings import Settings
from serving import clients

_JSON = ("content-type", "application/json")


class RpcEndpoint:
    """Base class of the endpoints that call RPCs: admits requests and builds error responses."""

    def __init__(self, route: Route, authenticator: Authenticator, limits: RateLimits, settings: Settings) -> None:
        self._route = route
        self._method = route.rpc.removeprefix("/")
        self._access = AccessRule.of(route.method)
        self._authenticator = authenticator
        self._limits = limits
        self._settings = settings
        self._binding = Binding(route)
        self._parse_reply = route.reply.FromString
        encoder = sse.encoder if route.streams else codec.encoder
        has_json = not (route.returns_nothing or route.returns_file)
        self._encode: Any = encoder(route.method.output_type) if has_json else None

    async def _admit(self, request: Request) -> tuple[Message, Headers]:
        """Authenticate the caller and count the request; return the request message and the metadata of the call."""
        request.principal = await self._authenticator.authenticate(bearer_token(request.headers.get("authorization")))
        if request.usage:
            request.usage.begin(request.principal.tenant_id)
        request.response_headers = await self._limits.acquire(request.principal.tenant_id)
        self._access.check(request.principal)  # the service checks it too, but a refused body should not be read
        body = await request.body(self._settings.message_bytes_max)
        names = await json_body.count_names(body) if len(body) > json_body.SMALL_BYTES else None
        message = self._binding.request(request.variables, request.query, request.headers, body, names)
        return message, (
            ("authorization", request.headers["authorization"]),
            ("x-request-id", request.id),
        )

    def error_response(self, error: Exception, request: Request) -> Response:
        """Return the error as problem+json, with the field names of REST."""
        return problems.error_response(error, request, self._binding.with_header_names)

    def _timeout_s(self, headers: Mapping[str, str], default_s: float = 0.0) -> float:
        """Return the timeout of the call: the header `Request-Timeout` up to the limit, or the default."""
        default_s = default_s or self._settings.deadline_default_s
        try:
            requested = float(headers.get("request-timeout", ""))
        except ValueError:
            return default_s
        return min(requested, self._settings.deadline_max_s) if requested > 0 else default_s


class UnaryEndpoint(RpcEndpoint):
    """Handles one route with a unary RPC of one service."""

    def __init__(
        self, route: Route, channel: aio.Channel, authenticator: Authenticator, limits: RateLimits, settings: Settings
    ) -> None:
        super().__init__(route, authenticator, limits, settings)
        self._rpc: Any = (channel.unary_stream if route.streams else channel.unary_unary)(route.rpc)
        self._keyed = "request_id" in route.headers

    async def handle(self, request: Request) -> Response:
        """Call the RPC and return its reply as JSON."""
        message, metadata = await self._admit(request)
        payload, timeout_s = message.SerializeToString(), self._timeout_s(request.headers)
        with clients.observed_call(self._method, request.trace) as trace:
            call = self._rpc(payload, timeout=timeout_s, metadata=(*metadata, ("traceparent", trace.header())))
            reply = await call
        if self._encode is None:
            return Response(204)
        values = self._encode(self._parse_reply(reply))
        headers = [_JSON]
        if self._route.has_etag and values["etag"]:
            headers.append(("etag", f'"{values["etag"]}"'))
        if self._keyed and (await call.trailing_metadata()).get("idempotency-replayed") == "true":
            headers.append(("idempotency-replayed", "true"))
        if self._route.creates and values["id"]:
            headers.append(("location", self._route.location(request.variables, values["id"])))
            return Response(201, codec.dumps(values), headers)
        return Response(200, codec.dumps(values), headers)
