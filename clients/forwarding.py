"""Errors of other services, forwarded to our own caller with their text, metadata and violations."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Final, TypeVar

from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode
from grpc.aio import AioRpcError

from kit.error_status import STATUS_METADATA_KEY
from kit.errors import (
    Aborted,
    AlreadyExists,
    BillingError,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Violation,
)

DetailT = TypeVar("DetailT", bound=Message)

_CLASSES: Final[Mapping[StatusCode, type[BillingError]]] = {
    kind.code: kind
    for kind in (
        InvalidArgument, PermissionDenied, NotFound, AlreadyExists, FailedPrecondition, Aborted, ResourceExhausted,
    )
}  # fmt: skip


@contextmanager
def forward_errors(reasons: Collection[str]) -> Iterator[None]:
    """Convert errors of another service with one of these reasons to our own; other errors stay AioRpcError.

    They become errors of the class for their gRPC code, such as FailedPrecondition, with the same reason, text,
    metadata and violations. A service forwards the reasons of its own `errors.proto`, which are what its API documents:

        with forward_errors(ErrorReason.keys()):
            reply = await self._client.call(…)
    """
    try:
        yield
    except AioRpcError as error:
        status = _status(error)
        info = _detail(status, error_details_pb2.ErrorInfo())
        if info.reason not in reasons or error.code() not in _CLASSES:
            raise
        raise _to_billing_error(_CLASSES[error.code()], info, status) from None


def reason_of(error: AioRpcError) -> str:
    """Return the reason of an error that another service returned; empty if it has none."""
    reason: str = _detail(_status(error), error_details_pb2.ErrorInfo()).reason
    return reason


def _to_billing_error(
    kind: type[BillingError], info: error_details_pb2.ErrorInfo, status: status_pb2.Status
) -> BillingError:
    bad = _detail(status, error_details_pb2.BadRequest())
    violations = [Violation(field.field, field.description, field.reason) for field in bad.field_violations]
    error = kind(status.message, violations=violations)
    error.reason = info.reason
    error.metadata = dict(info.metadata)
    return error


def _status(error: AioRpcError) -> status_pb2.Status:
    status = status_pb2.Status()
    for key, value in error.trailing_metadata():
        if key == STATUS_METADATA_KEY:
            status.ParseFromString(value if isinstance(value, bytes) else value.encode())
    return status


def _detail(status: status_pb2.Status, detail: DetailT) -> DetailT:
    """Return the detail of this type, or the empty message if the status has none."""
    for packed in status.details:
        if packed.Unpack(detail):
            break
    return detail
