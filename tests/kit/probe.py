"""The probe service, generated while the tests run; each test sets what its servicer does."""

import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from billing.options.v1 import options_pb2
from billing.type.v1 import money_pb2
from buf.validate import validate_pb2
from google.api import annotations_pb2, httpbody_pb2
from google.api.httpbody_pb2 import HttpBody
from google.protobuf import descriptor_pb2, descriptor_pool, field_mask_pb2, message_factory
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.message import Message
from grpc import aio
from grpc_tools import protoc  # type: ignore[import-untyped]

from kit.origin import Call
from serving import files

# what probe.proto imports must be in the pool first
_IMPORTED = options_pb2, money_pb2, validate_pb2, annotations_pb2, httpbody_pb2, field_mask_pb2


def _generated() -> FileDescriptor:
    contract = Path(options_pb2.__file__).parents[3] / "billing.binpb"
    with tempfile.NamedTemporaryFile(suffix=".binpb") as out:
        folders = Path(__file__).parent, Path(httpbody_pb2.__file__).parents[2], Path(protoc.__file__).parent / "_proto"
        arguments = [
            f"--descriptor_set_in={contract}",
            f"--descriptor_set_out={out.name}",
            *(f"-I{each}" for each in folders),
        ]
        if protoc.main(["protoc", *arguments, "probe.proto"]) != 0:
            raise RuntimeError("protoc failed; its message is above")
        file = descriptor_pb2.FileDescriptorSet.FromString(Path(out.name).read_bytes()).file[0]
    return descriptor_pool.Default().AddSerializedFile(file.SerializeToString())


FILE = _generated()

if TYPE_CHECKING:

    class _Dynamic(Message):
        def __init__(self, **fields: Any) -> None: ...
        def __getattr__(self, name: str) -> Any: ...

    class DoRequest(_Dynamic): ...

    class Line(_Dynamic): ...

    class ListRequest(_Dynamic): ...

    class InsideRequest(_Dynamic): ...

    class WatchRequest(_Dynamic): ...

    class GetRequest(_Dynamic): ...

    class DownloadRequest(_Dynamic): ...

    class DoReply(_Dynamic): ...

    class WatchReply(_Dynamic): ...

else:
    _CLASSES = {name: message_factory.GetMessageClass(kind) for name, kind in FILE.message_types_by_name.items()}
    DoRequest, Line, DoReply = _CLASSES["DoRequest"], _CLASSES["Line"], _CLASSES["DoReply"]
    ListRequest, InsideRequest = _CLASSES["ListRequest"], _CLASSES["InsideRequest"]
    WatchRequest, WatchReply, GetRequest = _CLASSES["WatchRequest"], _CLASSES["WatchReply"], _CLASSES["GetRequest"]
    DownloadRequest = _CLASSES["DownloadRequest"]

CallHandler = Callable[[Any, Call], Awaitable[DoReply]]
WatchHandler = Callable[[Any, Call], AsyncIterator[WatchReply]]


class Probe:
    """billing.probe.v1.ProbeService: every method calls `on_call`, which returns the name of the method by default.

    The stream calls `on_watch`, which yields two messages by default.
    """

    service = FILE.services_by_name["ProbeService"]

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.on_call: CallHandler = self._reply_with_method
        self.on_watch: WatchHandler = self._two_messages

    @staticmethod
    async def _reply_with_method(request: Message, call: Call) -> DoReply:
        return DoReply(text=call.method.rpartition("/")[2])

    async def Do(self, request: DoRequest, call: Call) -> DoReply:
        self.calls.append(call)
        return await self.on_call(request, call)

    async def List(self, request: ListRequest, call: Call) -> DoReply:
        self.calls.append(call)
        return await self.on_call(request, call)

    async def Inside(self, request: InsideRequest, call: Call) -> DoReply:
        self.calls.append(call)
        return await self.on_call(request, call)

    async def Get(self, request: GetRequest, call: Call) -> DoReply:
        self.calls.append(call)
        return await self.on_call(request, call)

    @staticmethod
    async def _two_messages(request: Message, call: Call) -> AsyncIterator[WatchReply]:
        yield WatchReply(event_id="1")
        yield WatchReply(event_id="2")

    async def Watch(self, request: WatchRequest, call: Call) -> AsyncIterator[WatchReply]:
        self.calls.append(call)
        async for reply in self.on_watch(request, call):
            yield reply

    async def Download(self, request: DownloadRequest, call: Call) -> AsyncIterator[HttpBody]:
        self.calls.append(call)
        content = files.spooled(b"content")
        async with aclosing(files.messages(content, name="a.pdf", media_type="application/pdf")) as messages:
            async for message in messages:
                yield message


class ProbeStub:
    """Client of the probe service."""

    def __init__(self, channel: aio.Channel) -> None:
        path = f"/{Probe.service.full_name}"
        self.Do: aio.UnaryUnaryMultiCallable[Any, Any] = channel.unary_unary(
            f"{path}/Do", DoRequest.SerializeToString, DoReply.FromString
        )
        self.List: aio.UnaryUnaryMultiCallable[Any, Any] = channel.unary_unary(
            f"{path}/List", ListRequest.SerializeToString, DoReply.FromString
        )
        self.Inside: aio.UnaryUnaryMultiCallable[Any, Any] = channel.unary_unary(
            f"{path}/Inside", InsideRequest.SerializeToString, DoReply.FromString
        )
        self.Watch: aio.UnaryStreamMultiCallable[Any, Any] = channel.unary_stream(
            f"{path}/Watch", WatchRequest.SerializeToString, WatchReply.FromString
        )
        self.raw: aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"{path}/Do")
