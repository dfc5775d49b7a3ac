"""A REST route answered by its RPC: who calls, how often, what they want; the call; and the reply as JSON."""

from collections.abc import Mapping
from typing import Any

from google.protobuf.message import Message
from grpc import aio

from contract import codec, sse
from contract.binding import Binding
from contract.routes import Route
from gateway import problems
from gateway.answers import Answer, Headers, Request
from gateway.limits import Limits
from kit.auth import Authenticator, bearer
from kit.settings import Settings

_JSON = ("content-type", "application/json")


class Door:
    """What all routes of RPCs have: who may ask, what they ask for, and how they are refused."""

    def __init__(self, route: Route, authenticator: Authenticator, limits: Limits, settings: Settings) -> None:
        self._route = route
        self._authenticator = authenticator
        self._limits = limits
        self._settings = settings
        self._binding = Binding(route)
        self._reply = route.reply.FromString
        encoder = sse.encoder if route.streams else codec.encoder
        self._encode: Any = None if route.empty else encoder(route.method.output_type)

    async def _let_in(self, request: Request) -> tuple[Message, Headers]:
        """The request message of somebody who may ask, and the metadata that goes along."""
        request.principal = await self._authenticator.authenticate(bearer(request.headers.get("authorization")))
        request.told = await self._limits.take(request.principal.tenant_id)
        body = await request.body(self._settings.message_bytes_max)
        message = self._binding.request(request.variables, request.query, request.headers, body)
        return message, (
            ("authorization", request.headers["authorization"]),
            ("traceparent", request.trace.header()),
            ("x-request-id", request.id),
        )

    def refused(self, error: Exception, request: Request) -> Answer:
        """The refusal as problem+json, with REST's names for the fields."""
        return problems.answer(problems.of(error), request.id, request.trace.trace_id, self._binding.located)

    def _deadline_s(self, headers: Mapping[str, str]) -> float:
        """Seconds that the call may take; the caller may ask for fewer, or more up to the limit."""
        try:
            asked = float(headers.get("request-timeout", ""))
        except ValueError:
            return self._settings.deadline_default_s
        return min(asked, self._settings.deadline_max_s) if asked > 0 else self._settings.deadline_default_s


class Transcoder(Door):
    """Answers one route by the RPC of one service."""

    def __init__(
        self, route: Route, channel: aio.Channel, authenticator: Authenticator, limits: Limits, settings: Settings
    ) -> None:
        super().__init__(route, authenticator, limits, settings)
        self._rpc: Any = (channel.unary_stream if route.streams else channel.unary_unary)(route.rpc)
        self._keyed = "request_id" in route.headers

    async def answer(self, request: Request) -> Answer:
        """The RPC's reply; raises what was refused on the way, here or there."""
        message, metadata = await self._let_in(request)
        call = self._rpc(message.SerializeToString(), timeout=self._deadline_s(request.headers), metadata=metadata)
        reply = await call
        if self._encode is None:
            return Answer(204)
        values = self._encode(self._reply(reply))
        headers = [_JSON]
        if self._route.tagged and values["etag"]:
            headers.append(("etag", f'"{values["etag"]}"'))
        if self._keyed and (await call.trailing_metadata()).get("idempotency-replayed") == "true":
            headers.append(("idempotency-replayed", "true"))
        if self._route.creates and values["id"]:
            headers.append(("location", f"{self._route.filled(request.variables)}/{values['id']}"))
            return Answer(201, codec.dumps(values), headers)
        return Answer(200, codec.dumps(values), headers)
