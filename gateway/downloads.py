"""Endpoints of RPCs that return a file: its parts are passed on as they arrive, at the pace of the client."""

import asyncio
import re
from collections.abc import AsyncGenerator
from typing import Any, Final
from urllib.parse import quote

from billing.type.v1.file_pb2 import FileInfo
from google.api.httpbody_pb2 import HttpBody
from grpc import aio

from gateway.http_types import Headers, Request, Response, ResponseBroken
from gateway.transcoding import UnaryEndpoint
from kit.errors import BillingError, DeadlineExceeded, MethodNotAllowed
from serving import clients

_BUFFERED_BYTES_MAX: Final = 6 * 1024 * 1024
"""How much of a file gRPC receives (measured) while the client does not read; counted as memory of the request."""
_NOT_IN_NAMES: Final = re.compile(r"[^A-Za-z0-9 ._-]")


class DownloadEndpoint(UnaryEndpoint):
    """Handles one route whose RPC streams a file in messages of the type google.api.HttpBody."""

    async def handle(self, request: Request) -> Response:
        """Return the file, in parts. Raises an error that occurs before the first part."""
        if request.verb == "HEAD":
            raise MethodNotAllowed("HEAD is not allowed for a file.", allowed=["GET"])
        message, metadata = await self._admit(request)
        with clients.observed_call(self._method, request.trace) as trace:
            # Without a deadline: it would also limit the time in which the client reads the file.
            call = self._rpc(message.SerializeToString(), metadata=(*metadata, ("traceparent", trace.header())))
            parts = self._parts(call, request)
            first = HttpBody.FromString(await anext(parts))
        info = _info(first)
        try:
            request.reserve(min(info.size_bytes, _BUFFERED_BYTES_MAX))
        except BillingError:
            await parts.aclose()
            raise
        return Response(200, first.data, _headers(first.content_type, info), stream=parts)

    async def _parts(self, call: Any, request: Request) -> AsyncGenerator[bytes, None]:
        """Yield the first message as it is, then the content of each further one."""
        disconnected = asyncio.create_task(request.wait_for_disconnect())
        try:
            async with asyncio.timeout(self._timeout_s(request.headers, self._settings.deadline_max_s)):
                first = await call.read()
            if first is aio.EOF:
                raise RuntimeError(f"{self._method} returned no file")
            yield first
            while (raw := await self._next(call, disconnected)) is not aio.EOF:
                yield HttpBody.FromString(raw).data
        except TimeoutError:
            raise DeadlineExceeded from None
        finally:
            call.cancel()
            disconnected.cancel()
            await asyncio.gather(disconnected, return_exceptions=True)

    async def _next(self, call: Any, disconnected: "asyncio.Task[None]") -> Any:
        """Return the next message; EOF also if the client has gone. Raises ResponseBroken."""
        reading = asyncio.ensure_future(call.read())
        await asyncio.wait({reading, disconnected}, return_when=asyncio.FIRST_COMPLETED)
        if not reading.done():
            reading.cancel()
            return aio.EOF
        try:
            return reading.result()
        except aio.AioRpcError as error:
            raise ResponseBroken(f"{self._method} failed with {error.code().name}") from error


def _info(first: HttpBody) -> FileInfo:
    """Return the description of the file. Raises ValueError if the first message has none."""
    info = FileInfo()
    if not any(extension.Unpack(info) for extension in first.extensions):
        raise ValueError("the first message of a file has no FileInfo")
    return info


def _headers(media_type: str, info: FileInfo) -> Headers:
    return [
        ("content-type", media_type),
        ("content-length", str(info.size_bytes)),
        ("content-disposition", _disposition(info.name)),
        ("etag", f'"{info.sha256}"'),
    ]


def _disposition(name: str) -> str:
    """Return the header that makes browsers save a file under a name (RFC 6266)."""
    plain = _NOT_IN_NAMES.sub("_", name)
    encoded = "" if plain == name else f"; filename*=UTF-8''{quote(name, safe='')}"
    return f'attachment; filename="{plain}"{encoded}'
