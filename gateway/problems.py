"""Refusals as problem+json (RFC 9457), the same whether a service refused or the gateway itself did."""

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode, aio

from contract import codec, descriptors
from gateway.answers import Answer
from kit.errors import (
    BillingError,
    DeadlineExceeded,
    Internal,
    InvalidFields,
    MessageTooLarge,
    Overloaded,
    Unavailable,
    Violation,
    to_status,
    violations_message,
)
from kit.telemetry import log

MEDIA_TYPE = "application/problem+json"
_CODES = {code.value[0]: code for code in StatusCode}
_AGAIN = {StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED, StatusCode.ABORTED, StatusCode.RESOURCE_EXHAUSTED}
_NEVER_AGAIN = {"ETAG_MISMATCH", "MESSAGE_TOO_LARGE"}
_DETAILS = "grpc-status-details-bin"

Locate = Callable[[list[Violation]], list[Violation]]


def of(error: BaseException) -> status_pb2.Status:
    """The refusal that a caller is told; of what is our own fault only an id by which it is found in the log."""
    if isinstance(error, aio.AioRpcError):
        return _of_service(error)
    if isinstance(error, BillingError):
        return to_status(error)
    if isinstance(error, TimeoutError):
        return to_status(DeadlineExceeded())
    incident = uuid4().hex
    log.error("fault", incident=incident, exc_info=error)
    return to_status(Internal(incident))


def _of_service(error: aio.AioRpcError) -> status_pb2.Status:
    """What a service refused; where gRPC itself did, the reason that fits."""
    for key, value in error.trailing_metadata() or ():
        if key == _DETAILS and isinstance(value, bytes):
            try:
                return status_pb2.Status.FromString(value)
            except DecodeError:
                break
    log.warning("no answer from a service", code=error.code().name, details=error.details())
    return to_status(_of_grpc(error))


def _of_grpc(error: grpc.RpcError) -> BillingError:
    match error.code():
        case StatusCode.DEADLINE_EXCEEDED:
            return DeadlineExceeded()
        case StatusCode.RESOURCE_EXHAUSTED if "larger than max" in (error.details() or ""):
            return MessageTooLarge("The message is larger than what one call may carry.")
        case StatusCode.RESOURCE_EXHAUSTED:
            return Overloaded()
        case StatusCode.UNAVAILABLE | StatusCode.CANCELLED | StatusCode.UNIMPLEMENTED:
            return Unavailable("The service")
    return Internal(uuid4().hex)


def answer(status: status_pb2.Status, request_id: str, trace_id: str, locate: Locate = list) -> Answer:
    """The refusal over HTTP. `locate` names the places of fields as REST has them."""
    found = _Details(status)
    code = _CODES.get(status.code, StatusCode.UNKNOWN)
    http = descriptors.http_status(code, found.reason)
    reason = descriptors.reasons().get(found.reason)
    retryable = code in _AGAIN and found.reason not in _NEVER_AGAIN
    violations = locate(found.violations)
    problem: dict[str, Any] = {
        "type": f"/errors/{found.reason}",
        "title": reason.title if reason else http.phrase,
        "status": http.value,
        "detail": violations_message(violations) if found.reason == InvalidFields.reason else status.message,
        "code": found.reason,
        "request_id": request_id,
        "trace_id": trace_id,
        "retryable": retryable,
        "metadata": found.metadata,
        "errors": [{"field": v.field, "code": v.rule, "detail": v.description} for v in violations],
    }
    headers = [("content-type", MEDIA_TYPE)]
    if code is StatusCode.UNAUTHENTICATED:
        headers.append(("www-authenticate", "Bearer"))
    if retryable and http.value in {429, 503}:
        headers.append(("retry-after", str(max(1, round(found.retry_after_s)))))
    if found.reason == "METHOD_NOT_ALLOWED":
        headers.append(("allow", found.metadata.get("allowed", "")))
    return Answer(http.value, codec.dumps(problem), headers, reason=found.reason)


class _Details:
    """What the details of a status say."""

    def __init__(self, status: status_pb2.Status) -> None:
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
