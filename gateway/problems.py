"""Errors as problem+json (RFC 9457), in the same form whether a service or the gateway raised them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import uuid4

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode, aio

from contract import codec, descriptors
from gateway.http_types import Request, Response
from kit.error_status import STATUS_METADATA_KEY, to_status
from kit.errors import (
    TRUNCATED,
    BillingError,
    DeadlineExceeded,
    Internal,
    InvalidFields,
    MessageTooLarge,
    Overloaded,
    Unavailable,
    Violation,
    violations_message,
)
from kit.telemetry import Trace, log

MEDIA_TYPE = "application/problem+json"
_CODES = {code.value[0]: code for code in StatusCode}
_RETRYABLE = {StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED, StatusCode.ABORTED, StatusCode.RESOURCE_EXHAUSTED}
_NOT_RETRYABLE = {"ETAG_MISMATCH", "MESSAGE_TOO_LARGE"}
"""Reasons for which the same request fails again although their code is retryable."""

RenameFields = Callable[[list[Violation]], list[Violation]]


def error_response(error: BaseException, request: Request, rename_fields: RenameFields = list) -> Response:
    """Return the response for an error; `rename_fields` gives fields the names that they have in REST."""
    status = _status_of(error)
    details = _Details(status)
    code = _CODES.get(status.code, StatusCode.UNKNOWN)
    http = descriptors.http_status(code, details.reason)
    reason = descriptors.reasons().get(details.reason)
    retryable = code in _RETRYABLE and details.reason not in _NOT_RETRYABLE
    violations = rename_fields(details.violations)
    problem: dict[str, Any] = {
        "type": f"/errors/{details.reason}",
        "title": reason.title if reason else http.phrase,
        "status": http.value,
        "detail": details.message(violations),
        "code": details.reason,
        "request_id": request.id,
        "trace_id": request.trace.trace_id,
        "retryable": retryable,
        "metadata": details.metadata,
        "errors": [{"field": v.field, "code": v.rule, "detail": v.description} for v in violations],
    }
    headers = [("content-type", MEDIA_TYPE)]
    if code is StatusCode.UNAUTHENTICATED:
        headers.append(("www-authenticate", "Bearer"))
    if retryable and http.value in {429, 503}:
        headers.append(("retry-after", str(max(1, round(details.retry_after_s)))))
    if "accept_encoding" in details.metadata:
        headers.append(("accept-encoding", details.metadata["accept_encoding"]))
    if details.reason == "METHOD_NOT_ALLOWED":
        headers.append(("allow", details.metadata.get("allowed", "")))
    return Response(http.value, codec.dumps(problem), headers, reason=details.reason)


def connection_response(error: BillingError) -> Response:
    """Return the response to a request that could not be read; it gets a trace and an id of its own."""
    trace = Trace.from_header(None)
    return error_response(error, Request("", "", {}, _no_body, set(), trace, trace.trace_id))


async def _no_body() -> Mapping[str, Any]:
    return {"type": "http.disconnect"}


def _status_of(error: BaseException) -> status_pb2.Status:
    """Return the status of an error. An unexpected exception is logged under an id, and only the id is returned."""
    if isinstance(error, aio.AioRpcError):
        return _status_of_service(error)
    if isinstance(error, BillingError):
        return to_status(error)
    if isinstance(error, TimeoutError):
        return to_status(DeadlineExceeded())
    incident = uuid4().hex
    log.error("internal error", incident=incident, exc_info=error)
    return to_status(Internal(incident))


def _status_of_service(error: aio.AioRpcError) -> status_pb2.Status:
    """Return the status that a service sent; for an error of gRPC itself, the closest error of ours."""
    for key, value in error.trailing_metadata() or ():
        if key == STATUS_METADATA_KEY and isinstance(value, bytes):
            try:
                return status_pb2.Status.FromString(value)
            except DecodeError:
                break
    closest = _error_of_grpc(error)
    log.warning("a service sent no error details", code=error.code().name, **closest.metadata)
    return to_status(closest)


def _error_of_grpc(error: grpc.RpcError) -> BillingError:
    match error.code():
        case StatusCode.DEADLINE_EXCEEDED:
            return DeadlineExceeded()
        case StatusCode.RESOURCE_EXHAUSTED if "larger than max" in (error.details() or ""):
            return MessageTooLarge("The message is larger than the limit of one call.")
        case StatusCode.RESOURCE_EXHAUSTED:
            return Overloaded()
        case StatusCode.UNAVAILABLE | StatusCode.CANCELLED | StatusCode.UNIMPLEMENTED:
            return Unavailable("The service")
    return Internal(uuid4().hex)


class _Details:
    """The details of a status, with defaults for those that are missing."""

    def __init__(self, status: status_pb2.Status) -> None:
        self._message: str = status.message
        self.reason = "INTERNAL"
        self.metadata: dict[str, str] = {}
        self.violations: list[Violation] = []
        self.retry_after_s = 1.0
        info, fields, retry = (
            error_details_pb2.ErrorInfo(),
            error_details_pb2.BadRequest(),
            error_details_pb2.RetryInfo(),
        )
        for detail in status.details:
            if detail.Unpack(info):
                self.reason, self.metadata = info.reason, dict(info.metadata)
            elif detail.Unpack(fields):
                self.violations = [Violation(v.field, v.description, v.reason) for v in fields.field_violations]
            elif detail.Unpack(retry):
                self.retry_after_s = retry.retry_delay.ToTimedelta().total_seconds()

    def message(self, violations: Sequence[Violation]) -> str:
        """Return the text of the error; one that lists violations has the names of `violations`."""
        if self.reason != InvalidFields.reason:
            return self._message
        return violations_message(violations, more=TRUNCATED in self.metadata)
