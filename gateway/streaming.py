"""A REST route answered by an RPC that streams: server-sent events, one for each message."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from grpc import aio

from contract import sse
from gateway.answers import Answer, Request
from gateway.transcoding import Transcoder
from kit.errors import MethodNotAllowed

_HEADERS = [("content-type", "text/event-stream"), ("x-accel-buffering", "no")]
_KEEP_ALIVE_S = 15.0
_REFUSED_WITHIN_S = 0.5  # what is refused is refused soon; after that the stream begins, though nothing came yet


class Stream(Transcoder):
    """Answers one route for as long as the caller listens."""

    async def answer(self, request: Request) -> Answer:
        """The RPC's messages as they come; raises what was refused before the first."""
        if request.verb == "HEAD":
            raise MethodNotAllowed("A stream has no HEAD.", allowed=["GET"])
        message, metadata = await self._let_in(request)
        events = self._events(self._rpc(message.SerializeToString(), metadata=metadata), request)
        return Answer(200, await anext(events), _HEADERS, more=events)

    async def _events(self, call: Any, request: Request) -> AsyncGenerator[bytes, None]:
        begun = False
        reading, leaving = asyncio.ensure_future(call.read()), asyncio.create_task(_left(request))
        request.listening.add(leaving)
        try:
            async with asyncio.timeout(self._settings.deadline_default_s):
                await call.initial_metadata()
            await asyncio.wait({reading}, timeout=_REFUSED_WITHIN_S)
            if reading.done():
                reading.result()
            begun = True
            yield sse.BEGIN
            while not leaving.done():
                await asyncio.wait({reading, leaving}, timeout=_KEEP_ALIVE_S, return_when=asyncio.FIRST_COMPLETED)
                if not reading.done():
                    yield sse.KEEP_ALIVE
                elif reading.result() is aio.EOF:
                    return
                else:
                    yield self._encode(self._reply(reading.result()))
                    reading = asyncio.ensure_future(call.read())
        except Exception as error:
            if not begun:
                raise
            yield sse.error(self.refused(error, request).body)
        finally:
            call.cancel()
            reading.cancel()
            leaving.cancel()
            await asyncio.gather(reading, leaving, return_exceptions=True)


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
