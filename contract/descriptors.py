"""The protos as the gateway reads them: descriptors in a pool of their own, their comments, and the error reasons."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus

from billing.options.v1 import options_pb2
from google.protobuf.descriptor_pb2 import DescriptorProto, EnumDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from grpc import StatusCode

from contract.methods import descriptor_set

_Named = Iterator[tuple[tuple[int, ...], str]]

_HTTP = {
    StatusCode.INVALID_ARGUMENT: HTTPStatus.BAD_REQUEST,
    StatusCode.UNAUTHENTICATED: HTTPStatus.UNAUTHORIZED,
    StatusCode.PERMISSION_DENIED: HTTPStatus.FORBIDDEN,
    StatusCode.NOT_FOUND: HTTPStatus.NOT_FOUND,
    StatusCode.ALREADY_EXISTS: HTTPStatus.CONFLICT,
    StatusCode.FAILED_PRECONDITION: HTTPStatus.CONFLICT,
    StatusCode.ABORTED: HTTPStatus.CONFLICT,
    StatusCode.RESOURCE_EXHAUSTED: HTTPStatus.TOO_MANY_REQUESTS,
    StatusCode.DEADLINE_EXCEEDED: HTTPStatus.GATEWAY_TIMEOUT,
    StatusCode.UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
}
_HTTP_OF_REASON = {  # where HTTP is finer than gRPC
    "UNSUPPORTED_MEDIA_TYPE": HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    "METHOD_NOT_ALLOWED": HTTPStatus.METHOD_NOT_ALLOWED,
    "MESSAGE_TOO_LARGE": HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    "IDEMPOTENCY_MISMATCH": HTTPStatus.UNPROCESSABLE_ENTITY,
    "ETAG_MISMATCH": HTTPStatus.PRECONDITION_FAILED,
}


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a call may be refused: a value of one of the `ErrorReason` enums."""

    name: str
    code: str
    """The gRPC code that goes with it."""
    text: str
    """Its comment in the proto."""

    @property
    def status(self) -> HTTPStatus:
        """The HTTP status that goes with it."""
        return http_status(StatusCode[self.code], self.name)

    @property
    def title(self) -> str:
        """The first sentence of the comment."""
        return self.text.partition(". ")[0].rstrip(".")


def http_status(code: StatusCode, reason: str) -> HTTPStatus:
    """The HTTP status for a gRPC code and a reason."""
    return _HTTP_OF_REASON.get(reason) or _HTTP.get(code, HTTPStatus.INTERNAL_SERVER_ERROR)


@lru_cache(maxsize=1)
def pool() -> DescriptorPool:
    """Every descriptor of the contract and of what it imports."""
    made = DescriptorPool()
    for file in descriptor_set().file:
        made.Add(file)
    return made


@lru_cache(maxsize=1)
def reasons() -> dict[str, Reason]:
    """Every reason for a refusal, by name."""
    return {
        value.name: Reason(value.name, code, comments().get(f"{file.package}.{enum.name}.{value.name}", ""))
        for file in descriptor_set().file
        for enum in file.enum_type
        if enum.name == "ErrorReason"
        for value in enum.value
        if (code := value.options.Extensions[options_pb2.code])
    }


@lru_cache(maxsize=1)
def comments() -> dict[str, str]:
    """The comment above each thing in the protos, by the thing's full name; enum values as `<enum>.<VALUE>`."""
    found = {}
    for file in descriptor_set().file:
        above = {tuple(place.path): place.leading_comments for place in file.source_code_info.location}
        for path, name in _of_file(file):
            text = above.get(path, "")
            if text:
                found[name] = "\n".join(line.removeprefix(" ").rstrip() for line in text.strip("\n").split("\n"))
    return found


def _of_file(file: FileDescriptorProto) -> _Named:
    """What has a name in a file, with its path as descriptor.proto numbers it."""
    for i, message in enumerate(file.message_type):
        yield from _of_message((4, i), f"{file.package}.{message.name}", message)
    for i, enum in enumerate(file.enum_type):
        yield from _of_enum((5, i), f"{file.package}.{enum.name}", enum)
    for i, service in enumerate(file.service):
        yield (6, i), f"{file.package}.{service.name}"
        for j, method in enumerate(service.method):
            yield (6, i, 2, j), f"{file.package}.{service.name}.{method.name}"


def _of_message(path: tuple[int, ...], name: str, message: DescriptorProto) -> _Named:
    yield path, name
    for i, field in enumerate(message.field):
        yield (*path, 2, i), f"{name}.{field.name}"
    for i, nested in enumerate(message.nested_type):
        yield from _of_message((*path, 3, i), f"{name}.{nested.name}", nested)
    for i, enum in enumerate(message.enum_type):
        yield from _of_enum((*path, 4, i), f"{name}.{enum.name}", enum)


def _of_enum(path: tuple[int, ...], name: str, enum: EnumDescriptorProto) -> _Named:
    yield path, name
    for i, value in enumerate(enum.value):
        yield (*path, 2, i), f"{name}.{value.name}"
