"""Errors that callers see: one class per situation, with its gRPC code and reason; `to_status` serializes them all.

    BillingError
    ├── InvalidArgument ── InvalidFields, MalformedBody, PageTokenInvalid, UnsupportedMediaType
    ├── Unauthenticated ── TokenMissing, TokenInvalid, TokenExpired
    ├── PermissionDenied ── PermissionMissing
    ├── NotFound ── RouteNotFound, MethodNotAllowed
    ├── AlreadyExists ── IdempotencyMismatch
    ├── FailedPrecondition
    ├── Aborted ── EtagMismatch, Conflict
    ├── ResourceExhausted ── RateLimited, Overloaded, MessageTooLarge
    └── DeadlineExceeded, Unavailable, Internal

The leaves in this module can occur in any call; those of a service are in its `errors/` package.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from google.protobuf import any_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode

DOMAIN = "enterprise-billing"
STATUS_METADATA_KEY = "grpc-status-details-bin"
"""Key of the trailing metadata in which gRPC sends a serialized google.rpc.Status."""


@dataclass(frozen=True, slots=True)
class Violation:
    """An invalid field of a request: what is wrong, what is allowed, and the id of the rule."""

    field: str
    description: str
    rule: str = ""


class BillingError(Exception):
    """An error whose text the caller sees. `metadata` has the values that vary in the text."""

    code: StatusCode = StatusCode.INTERNAL
    reason: str = "INTERNAL"

    def __init__(
        self,
        message: str,
        *,
        violations: Sequence[Violation] = (),
        retry_after_s: float | None = None,
        **metadata: object,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.violations = list(violations)
        self.retry_after_s = retry_after_s
        self.metadata = {key: _text(value) for key, value in metadata.items() if value is not None}


def error_type(error: BaseException) -> str:
    """Return the reason of an error of ours, or the name of the class of any other, for spans."""
    return error.reason if isinstance(error, BillingError) else type(error).__name__


def _text(value: object) -> str:
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, Iterable) and not isinstance(value, str):
        return ", ".join(_text(item) for item in value)
    return str(value)


def to_status(error: BillingError) -> status_pb2.Status:
    """Convert to google.rpc.Status, with ErrorInfo and the other standard details that apply."""
    details = [error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.metadata)]
    status = status_pb2.Status(code=error.code.value[0], message=error.message, details=map(_pack, details))
    if error.violations:
        fields = [
            error_details_pb2.BadRequest.FieldViolation(field=v.field, description=v.description, reason=v.rule)
            for v in error.violations
        ]
        status.details.append(_pack(error_details_pb2.BadRequest(field_violations=fields)))
    if error.code is StatusCode.FAILED_PRECONDITION:
        failure = error_details_pb2.PreconditionFailure.Violation(type=error.reason, description=error.message)
        status.details.append(_pack(error_details_pb2.PreconditionFailure(violations=[failure])))
    if error.retry_after_s is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(int(error.retry_after_s * 1e9))
        status.details.append(_pack(retry))
    return status


def _pack(detail: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(detail)
    return packed


class InvalidArgument(BillingError):
    code = StatusCode.INVALID_ARGUMENT


class Unauthenticated(BillingError):
    code = StatusCode.UNAUTHENTICATED


class PermissionDenied(BillingError):
    code = StatusCode.PERMISSION_DENIED


class NotFound(BillingError):
    code = StatusCode.NOT_FOUND


class AlreadyExists(BillingError):
    code = StatusCode.ALREADY_EXISTS


class FailedPrecondition(BillingError):
    code = StatusCode.FAILED_PRECONDITION


class Aborted(BillingError):
    code = StatusCode.ABORTED


class ResourceExhausted(BillingError):
    code = StatusCode.RESOURCE_EXHAUSTED


class InvalidFields(InvalidArgument):
    reason = "INVALID_FIELDS"

    def __init__(self, violations: Sequence[Violation]) -> None:
        super().__init__(violations_message(violations), violations=violations)


def violations_message(violations: Sequence[Violation]) -> str:
    """Return one sentence that lists all violations."""
    return "Invalid request: " + "; ".join(f"{v.field}: {v.description}" for v in violations)


class MalformedBody(InvalidArgument):
    reason = "MALFORMED_BODY"


class PageTokenInvalid(InvalidArgument):
    reason = "PAGE_TOKEN_INVALID"

    def __init__(self) -> None:
        message = "The page token is invalid or belongs to another list; start again without page_token."
        super().__init__(message, violations=[Violation("page_token", message, "page_token.invalid")])


class UnsupportedMediaType(InvalidArgument):
    reason = "UNSUPPORTED_MEDIA_TYPE"


class TokenMissing(Unauthenticated):
    reason = "TOKEN_MISSING"

    def __init__(self) -> None:
        super().__init__("The call has no token; send `Authorization: Bearer <token>`.")


class TokenInvalid(Unauthenticated):
    reason = "TOKEN_INVALID"

    def __init__(self) -> None:
        super().__init__("The token is invalid.")


class TokenExpired(Unauthenticated):
    reason = "TOKEN_EXPIRED"

    def __init__(self) -> None:
        super().__init__("The token has expired; request a new one.")


class PermissionMissing(PermissionDenied):
    reason = "PERMISSION_MISSING"

    def __init__(self, permission: str) -> None:
        super().__init__(f"The call requires the permission {permission}.", permission=permission)


class RouteNotFound(NotFound):
    reason = "ROUTE_NOT_FOUND"


class MethodNotAllowed(BillingError):
    code = StatusCode.UNIMPLEMENTED
    reason = "METHOD_NOT_ALLOWED"


class IdempotencyMismatch(AlreadyExists):
    reason = "IDEMPOTENCY_MISMATCH"

    def __init__(self, key: str, *, other_user: bool = False) -> None:
        before = "by another user" if other_user else "with another input"
        super().__init__(f"The key {key!r} was used before {before}; use a new key.", request_id=key)


class EtagMismatch(Aborted):
    reason = "ETAG_MISMATCH"

    def __init__(self, expected: str, current: str) -> None:
        super().__init__(
            "The resource changed since it was read; read it again and retry with its etag.",
            given=expected,
            etag=current,
        )


class Conflict(Aborted):
    reason = "CONFLICT"

    def __init__(self) -> None:
        super().__init__("The call conflicts with a concurrent one and had no effect; retry it.", retry_after_s=0.1)


class RateLimited(ResourceExhausted):
    reason = "RATE_LIMITED"


class Overloaded(ResourceExhausted):
    reason = "OVERLOADED"

    def __init__(self) -> None:
        super().__init__("Too many calls are in progress; retry shortly.", retry_after_s=0.5)


class MessageTooLarge(ResourceExhausted):
    reason = "MESSAGE_TOO_LARGE"


class DeadlineExceeded(BillingError):
    code = StatusCode.DEADLINE_EXCEEDED
    reason = "DEADLINE_EXCEEDED"

    def __init__(self) -> None:
        super().__init__(
            "The deadline passed. A write may have taken effect; retry with the same key to get its result."
        )


class Unavailable(BillingError):
    code = StatusCode.UNAVAILABLE
    reason = "UNAVAILABLE"

    def __init__(self, component: str) -> None:
        super().__init__(f"{component} is unavailable; retry with the same key.", retry_after_s=1.0)


class Internal(BillingError):
    def __init__(self, incident: str) -> None:
        super().__init__(f"Internal error; operators find it in the logs as {incident}.", incident=incident)
