"""The descriptors of the contract with their comments, and the error reasons with their HTTP status."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus

from billing.options.v1 import options_pb2
from google.protobuf.descriptor_pb2 import DescriptorProto, EnumDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from grpc import StatusCode

from contract.methods import descriptor_set

_Elements = Iterator[tuple[tuple[int, ...], str]]

_STATUS_BY_CODE = {
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
_STATUS_BY_REASON = {  # reasons for which HTTP has a more specific status than their gRPC code
    "UNSUPPORTED_MEDIA_TYPE": HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    "METHOD_NOT_ALLOWED": HTTPStatus.METHOD_NOT_ALLOWED,
    "HEADERS_TOO_LARGE": HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    "REQUEST_TIMEOUT": HTTPStatus.REQUEST_TIMEOUT,
    "MESSAGE_TOO_LARGE": HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    "IDEMPOTENCY_MISMATCH": HTTPStatus.UNPROCESSABLE_ENTITY,
    "ETAG_MISMATCH": HTTPStatus.PRECONDITION_FAILED,
}


@dataclass(frozen=True, slots=True)
class Reason:
    """An error reason: a value of one of the `ErrorReason` enums."""

    name: str
    code: str
    """The name of its gRPC code."""
    text: str
    """Its comment in the proto."""

    @property
    def status(self) -> HTTPStatus:
        """Its HTTP status."""
        return http_status(StatusCode[self.code], self.name)

    @property
    def title(self) -> str:
        """The first sentence of the comment."""
        return self.text.partition(". ")[0].rstrip(".")


def http_status(code: StatusCode, reason: str) -> HTTPStatus:
    """Return the HTTP status of a gRPC code and a reason."""
    return _STATUS_BY_REASON.get(reason) or _STATUS_BY_CODE.get(code, HTTPStatus.INTERNAL_SERVER_ERROR)


@lru_cache(maxsize=1)
def pool() -> DescriptorPool:
    """Return a pool with every descriptor of the contract and its imports."""
    descriptors = DescriptorPool()
    for file in descriptor_set().file:
        descriptors.Add(file)
    return descriptors


@lru_cache(maxsize=1)
def reasons() -> dict[str, Reason]:
    """Return every error reason by name."""
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
    """Return the leading comments of the protos by the full name of the element; enum values as `<enum>.<VALUE>`."""
    texts = {}
    for file in descriptor_set().file:
        by_path = {tuple(location.path): location.leading_comments for location in file.source_code_info.location}
        for path, name in _file_elements(file):
            text = by_path.get(path, "")
            if text:
                texts[name] = "\n".join(line.removeprefix(" ").rstrip() for line in text.strip("\n").split("\n"))
    return texts


def _file_elements(file: FileDescriptorProto) -> _Elements:
    """Yield each named element of a file with its path in SourceCodeInfo (descriptor.proto has the field numbers)."""
    for i, message in enumerate(file.message_type):
        yield from _message_elements((4, i), f"{file.package}.{message.name}", message)
    for i, enum in enumerate(file.enum_type):
        yield from _enum_elements((5, i), f"{file.package}.{enum.name}", enum)
    for i, service in enumerate(file.service):
        yield (6, i), f"{file.package}.{service.name}"
        for j, method in enumerate(service.method):
            yield (6, i, 2, j), f"{file.package}.{service.name}.{method.name}"


def _message_elements(path: tuple[int, ...], name: str, message: DescriptorProto) -> _Elements:
    yield path, name
    for i, field in enumerate(message.field):
        yield (*path, 2, i), f"{name}.{field.name}"
    for i, nested in enumerate(message.nested_type):
        yield from _message_elements((*path, 3, i), f"{name}.{nested.name}", nested)
    for i, enum in enumerate(message.enum_type):
        yield from _enum_elements((*path, 4, i), f"{name}.{enum.name}", enum)


def _enum_elements(path: tuple[int, ...], name: str, enum: EnumDescriptorProto) -> _Elements:
    yield path, name
    for i, value in enumerate(enum.value):
        yield (*path, 2, i), f"{name}.{value.name}"
