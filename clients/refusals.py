"""What another service refused, passed on as it said it: with its text, its numbers and its fields."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from google.rpc import error_details_pb2, status_pb2
from grpc.aio import AioRpcError

from kit.errors import BillingError, Violation


@contextmanager
def forward_errors(known: Mapping[str, type[BillingError]]) -> Iterator[None]:
    """Raise what another service refuses as the class of ours that has its reason; what has none stays as it is."""
    try:
        yield
    except AioRpcError as error:
        refusal = _refusal(error, known)
        if refusal is None:
            raise
        raise refusal from None


def _refusal(error: AioRpcError, known: Mapping[str, type[BillingError]]) -> BillingError | None:
    status = status_pb2.Status()
    for key, value in error.trailing_metadata():
        if key == "grpc-status-details-bin":
            status.ParseFromString(value if isinstance(value, bytes) else value.encode())
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for detail in status.details:
        if detail.Is(info.DESCRIPTOR):
            detail.Unpack(info)
        elif detail.Is(bad.DESCRIPTOR):
            detail.Unpack(bad)
    kind = known.get(info.reason)
    if kind is None:
        return None
    violations = [Violation(given.field, given.description, given.reason) for given in bad.field_violations]
    refusal = kind.__new__(kind)
    BillingError.__init__(refusal, status.message, violations=violations, **info.metadata)
    return refusal
