"""Endpoints of streaming RPCs: the reply is a stream of server-sent events, one per message."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from grpc import aio

from contract import sse
from gateway.http_types import Request, Response
from gateway.transcoding import UnaryEndpoint
from kit.errors import MethodNotAllowed

_HEADERS = [("content-type", "text/event-stream"), ("x-accel-buffering", "no")]
_KEEP_ALIVE_S = 15.0
_FIRST_REPLY_S = 0.5
"""How long to wait for the first message or error before the response starts; an error until then sets the status."""


class StreamEndpoint(UnaryEndpoint):
    """Handles one route with a streaming RPC, until the client disconnects or the stream ends."""

    async def handle(self, request: Request) -> Response:
        """Return the messages as they arrive. Raises an error that occurs before the first message."""
        if request.verb == "HEAD":
            raise MethodNotAllowed("HEAD is not allowed for a stream.", allowed=["GET"])
        message, metadata = await self._admit(request)
        metadata = (*metadata, ("traceparent", request.trace.header()))  # without a span: it would last for an hour
        end = request.usage.begin_stream() if request.usage else asyncio.get_running_loop().create_future()
        events = self._events(self._rpc(message.SerializeToString(), metadata=metadata), request, end)
        return Response(200, await anext(events), _HEADERS, stream=events)

    async def _events(self, call: Any, request: Request, end: "asyncio.Future[None]") -> AsyncGenerator[bytes, None]:
        started = False
        reading = asyncio.ensure_future(call.read())
        disconnected = asyncio.create_task(request.wait_for_disconnect())
        request.stream_watchers.add(disconnected)
        try:
            async with asyncio.timeout(self._settings.deadline_default_s):
                await call.initial_metadata()
            await asyncio.wait({reading}, timeout=_FIRST_REPLY_S)
            if reading.done():
                reading.result()
            started = True
            yield sse.START
            while not disconnected.done():
                waiting = {reading, disconnected, end}
                await asyncio.wait(waiting, timeout=_KEEP_ALIVE_S, return_when=asyncio.FIRST_COMPLETED)
                if end.done():
                    end.result()
                if not reading.done():
                    yield sse.KEEP_ALIVE
                elif reading.result() is aio.EOF:
                    return
                else:
                    yield self._encode(self._parse_reply(reading.result()))
                    reading = asyncio.ensure_future(call.read())
        except Exception as error:
            if not started:
                raise
            yield sse.error(self.error_response(error, request).body)
        finally:
            call.cancel()
            reading.cancel()
            disconnected.cancel()
            await asyncio.gather(reading, disconnected, return_exceptions=True)
