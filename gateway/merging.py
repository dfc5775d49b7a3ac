"""A REST route answered by every service: the lists of all of them as one, newest first."""

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
from gateway.answers import Answer, Headers, Request
from gateway.limits import Limits
from gateway.transcoding import Door
from kit.auth import Authenticator
from kit.errors import Unavailable
from kit.settings import Settings
from kit.telemetry import log
from serving.pages import SIZE_DEFAULT, Pages
from serving.timeline import Place, token_of

_ANSWER_S = 5.0
"""A service that takes longer is left out, so that the others' part is told in time."""
_OF_THE_CALLER = {StatusCode.INVALID_ARGUMENT, StatusCode.UNAUTHENTICATED, StatusCode.PERMISSION_DENIED}
"""What one service refuses like this, all do; other failures are that service's own."""


class Merged(Door):
    """Answers one route with what all services tell.

    The reply has one repeated field, whose lines say their `service`, `event_id` (a number that rises) and
    `change_time`; and `unavailable_services`, which is for us to fill.
    """

    def __init__(
        self,
        route: Route,
        channels: Mapping[str, aio.Channel],
        authenticator: Authenticator,
        limits: Limits,
        settings: Settings,
    ) -> None:
        super().__init__(route, authenticator, limits, settings)
        self._rpcs: Mapping[str, Any] = {
            service: channel.unary_unary(route.rpc) for service, channel in channels.items()
        }
        self._pages = Pages(settings)
        (self._lines,) = (
            attrgetter(field.name)
            for field in route.method.output_type.fields
            if field.is_repeated and field.message_type
        )

    async def answer(self, request: Request) -> Answer:
        """One page over all services; raises what concerns the caller, and Unavailable where no service answers."""
        message, metadata = await self._let_in(request)
        within_s = min(self._deadline_s(request.headers), _ANSWER_S)
        sent = message.SerializeToString()
        asked = [self._ask(service, sent, metadata, within_s) for service in self._rpcs]
        replies = dict(zip(self._rpcs, await asyncio.gather(*asked), strict=True))
        silent = [service for service, reply in replies.items() if reply is None]
        if len(silent) == len(replies):
            raise Unavailable("Every service")
        tenant_id = request.principal.tenant_id  # type: ignore[union-attr]  # whoever was let in is known
        page = self._merged(message, tenant_id, filter(None, replies.values()))
        page.unavailable_services.extend(silent)
        return Answer(200, codec.dumps(self._encode(page)), [("content-type", "application/json")])

    async def _ask(self, service: str, sent: bytes, metadata: Headers, within_s: float) -> Any:
        """The reply of one service; None where it gives none."""
        try:
            return self._reply(await self._rpcs[service](sent, timeout=within_s, metadata=metadata))
        except aio.AioRpcError as error:
            if error.code() in _OF_THE_CALLER:
                raise
            log.warning("a service is left out", service=service, code=error.code().name, details=error.details())
            return None

    def _merged(self, message: Message, tenant_id: UUID, replies: Iterable[Any]) -> Any:
        """The newest lines of all, and a token where there are more."""
        told = list(replies)
        size = getattr(message, "page_size") or SIZE_DEFAULT  # noqa: B009 - generated messages have no base with it
        lines = [(_place(line), line) for reply in told for line in self._lines(reply)]
        lines.sort(key=lambda placed: placed[0].order)
        page: Any = self._route.reply()
        self._lines(page).extend(map(itemgetter(1), lines[:size]))
        if len(lines) > size or any(reply.next_page_token for reply in told):
            last, method = lines[:size][-1][0], self._route.rpc.removeprefix("/")
            page.next_page_token = token_of(self._pages, last, message, method, tenant_id)
        return page


def _place(line: Any) -> Place:
    return Place(line.change_time.ToDatetime(tzinfo=UTC), line.service, int(line.event_id))
