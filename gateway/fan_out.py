"""Fan-out endpoint: calls the same RPC of every service and merges their lists into one, newest first."""

import asyncio
from collections.abc import Iterable, Mapping
from datetime import UTC
from operator import attrgetter, itemgetter
from typing import Any
from uuid import UUID

from google.protobuf.message import Message
from grpc import StatusCode, aio

from contract import codec
from contract.routes import Route
from gateway.http_types import Headers, Request, Response
from gateway.rate_limits import RateLimits
from gateway.transcoding import RpcEndpoint
from kit.auth import Authenticator
from kit.errors import Unavailable
from kit.settings import Settings
from kit.telemetry import Trace, log
from serving import clients
from serving.pages import SIZE_DEFAULT, Pages
from serving.sealing import Seal
from serving.timeline import Position, encode_position

_TIMEOUT_S = 5.0
"""A slower service is left out of the page, so that the response is not delayed further."""
_CALLER_ERRORS = {StatusCode.INVALID_ARGUMENT, StatusCode.UNAUTHENTICATED, StatusCode.PERMISSION_DENIED}
"""Errors that every service returns alike; any other error concerns one service only."""


class FanOutEndpoint(RpcEndpoint):
    """Handles one route with the replies of all services.

    The reply has one repeated message field, whose items have `service`, `event_id` (a sealed increasing number) and
    `change_time`; and `unavailable_services`, which this endpoint fills.
    """

    def __init__(
        self,
        route: Route,
        channels: Mapping[str, aio.Channel],
        authenticator: Authenticator,
        limits: RateLimits,
        settings: Settings,
    ) -> None:
        super().__init__(route, authenticator, limits, settings)
        self._rpcs: Mapping[str, Any] = {
            service: channel.unary_unary(route.rpc) for service, channel in channels.items()
        }
        self._pages = Pages(settings)
        (self._items,) = (
            attrgetter(field.name)
            for field in route.method.output_type.fields
            if field.is_repeated and field.message_type
        )

    async def handle(self, request: Request) -> Response:
        """Return one page over all services. Raises errors of the caller, and Unavailable if no service replies."""
        message, metadata = await self._admit(request)
        timeout_s = min(self._timeout_s(request.headers), _TIMEOUT_S)
        payload = message.SerializeToString()
        calls = [self._call(service, payload, metadata, timeout_s, request.trace) for service in self._rpcs]
        replies = dict(zip(self._rpcs, await asyncio.gather(*calls), strict=True))
        unavailable = [service for service, reply in replies.items() if reply is None]
        if len(unavailable) == len(replies):
            raise Unavailable("Every service")
        tenant_id = request.principal.tenant_id  # type: ignore[union-attr]  # set by _admit
        page = self._merge(message, tenant_id, filter(None, replies.values()))
        page.unavailable_services.extend(unavailable)
        return Response(200, codec.dumps(self._encode(page)), [("content-type", "application/json")])

    async def _call(self, service: str, payload: bytes, metadata: Headers, timeout_s: float, parent: Trace) -> Any:
        """Return the reply of one service; None if it is unavailable."""
        try:
            with clients.observed_call(self._method, parent) as trace:
                metadata = (*metadata, ("traceparent", trace.header()))
                reply = await self._rpcs[service](payload, timeout=timeout_s, metadata=metadata)
            return self._parse_reply(reply)
        except aio.AioRpcError as error:
            if error.code() in _CALLER_ERRORS:
                raise
            log.warning("a service is left out of the list", service=service, code=error.code().name)
            return None

    def _merge(self, message: Message, tenant_id: UUID, replies: Iterable[Any]) -> Any:
        """Return a page with the newest items of all replies, and a token if there are more."""
        replies = list(replies)
        size = getattr(message, "page_size") or SIZE_DEFAULT  # noqa: B009 - generated messages have no common base
        seal = self._pages.seal(tenant_id)
        items = [(_position(item, seal), item) for reply in replies for item in self._items(reply)]
        items.sort(key=lambda entry: entry[0].sort_key)
        page: Any = self._route.reply()
        self._items(page).extend(map(itemgetter(1), items[:size]))
        if len(items) > size or any(reply.next_page_token for reply in replies):
            last, method = items[:size][-1][0], self._route.rpc.removeprefix("/")
            page.next_page_token = encode_position(self._pages, last, message, method, tenant_id)
        return page


def _position(item: Any, seal: Seal) -> Position:
    return Position(item.change_time.ToDatetime(tzinfo=UTC), item.service, seal.unseal(item.event_id))
