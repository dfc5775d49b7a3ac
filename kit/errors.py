"""Errors that callers see: one class per situation, with its gRPC code and reason; `to_status` serializes them all.

    BillingError
    ├── InvalidArgument ── InvalidFields, MalformedBody, MalformedRequest, HeadersTooLarge, PageTokenInvalid,
    │                      UnsupportedMediaType
    ├── Unauthenticated ── TokenMissing, TokenInvalid, TokenExpired
    ├── PermissionDenied ── PermissionMissing, ScopeMissing, CallerNotAllowed,
    │                       TenantScopeRequired
    ├── NotFound ── RouteNotFound, MethodNotAllowed
    ├── AlreadyExists ── IdempotencyMismatch
    ├── FailedPrecondition
    ├── Aborted ── EtagMismatch, Conflict
    ├── ResourceExhausted ── RateLimited, ConcurrencyLimited, Overloaded, MessageTooLarge
    └── DeadlineExceeded, RequestTimeout, Unavailable, Internal

The leaves in this module can occur in any call; those of a service are in its `errors/` package.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from google.protobuf import any_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode

DOMAIN = "enterprise-billing"
STATUS_METADATA_KEY = "grpc-status-details-bin"
"""Key of the trailing metadata in which gRPC sends a serialized google.rpc.Status."""

VIOLATIONS_MAX: Final = 50
"""Maximum number of violations in an error. Checks stop when they have found more."""
TRUNCATED: Final = "truncated"
"""Key in the metadata of an error that was cut to its maximum size."""
KNOWN_NAMES: Final = (" known are: ", "must be one of ")
"""What precedes a list of names in the description of a violation. Each list appears once in an error."""

_STATUS_BYTES_MAX: Final = 7_680
"""Maximum size of message and details on the wire: gRPC clients accept 8 KiB of metadata by default."""
_MESSAGE_BYTES_MAX: Final = 1_000
_METADATA_BYTES_MAX: Final = 2_000
_VALUE_BYTES_MAX: Final = 500
_PATH_BYTES_MAX: Final = 200
_NAMES_REPEATED_MAX: Final = 60
"""Longer lists of names are not repeated."""
_FRAMING: Final = 4
"""Bytes around a message within another one."""
_ANY_FRAMING: Final = 40
"""Bytes of an Any beside its value and the name of its type."""
_CHARACTER_BYTES_MAX: Final = 12
_PLAIN_BYTES: Final = bytes(byte for byte in range(0x20, 0x7F) if byte != ord("%"))
_ELLIPSIS: Final = "…"


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
    """Convert to google.rpc.Status, with ErrorInfo and the other standard details that apply.

    What does not fit into the trailing metadata of a call is left out: texts that were cut end with an ellipsis, and
    the metadata has `truncated`.
    """
    message = clip(error.message, _MESSAGE_BYTES_MAX)
    metadata = _fitting_metadata(error.metadata)
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata)
    details: list[Message] = [info]
    if error.code is StatusCode.FAILED_PRECONDITION:
        failure = error_details_pb2.PreconditionFailure.Violation(type=error.reason, description=message)
        details.append(error_details_pb2.PreconditionFailure(violations=[failure]))
    if error.retry_after_s is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(int(error.retry_after_s * 1e9))
        details.append(retry)
    # The message of an error with violations only repeats them.
    truncated = metadata != error.metadata or (message != error.message and not error.violations)
    if error.violations:
        room = (_STATUS_BYTES_MAX - _sent_size(message)) * 3 // 4  # the details are sent in base64
        fields = _fitting_fields(error.violations, room - len(message.encode()) - sum(map(_packed_size, details)))
        truncated = truncated or len(fields) < len(error.violations)
        details.insert(1, error_details_pb2.BadRequest(field_violations=fields))
    if truncated:
        info.metadata[TRUNCATED] = "true"
    return status_pb2.Status(code=error.code.value[0], message=message, details=map(_pack, details))


def _fitting_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    room, fitting = _METADATA_BYTES_MAX, dict[str, str]()
    for key, value in metadata.items():
        fitting[key] = clip(value, max(0, min(_VALUE_BYTES_MAX, room)))
        room -= _sent_size(fitting[key])
    return fitting


def _fitting_fields(violations: Sequence[Violation], room: int) -> list[error_details_pb2.BadRequest.FieldViolation]:
    fitting = []
    for violation in violations[:VIOLATIONS_MAX]:
        field = error_details_pb2.BadRequest.FieldViolation(
            field=clip(violation.field, _PATH_BYTES_MAX),
            description=clip(violation.description, _VALUE_BYTES_MAX),
            reason=violation.rule,
        )
        room -= field.ByteSize() + _FRAMING
        if room < 0:
            break
        fitting.append(field)
    return fitting


def _packed_size(detail: Message) -> int:
    return detail.ByteSize() + len(detail.DESCRIPTOR.full_name) + _ANY_FRAMING


def clip(text: str, bytes_max: int) -> str:
    """Return the text, cut with an ellipsis if it is larger than `bytes_max` in the form in which gRPC sends it."""
    if len(text) * _CHARACTER_BYTES_MAX <= bytes_max:
        return text
    head = text[: bytes_max + 1]
    if _sent_size(head) <= bytes_max:
        return text
    room = bytes_max - _sent_size(_ELLIPSIS)
    for index, character in enumerate(head):
        room -= _sent_size(character)
        if room < 0:
            return head[:index] + _ELLIPSIS
    return head


def _sent_size(text: str) -> int:
    """Return the size of a text in percent-encoding: gRPC encodes all bytes but printable ASCII with three."""
    data = text.encode("utf-8", "replace")
    return len(data) + 2 * len(data.translate(None, _PLAIN_BYTES))


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
    """Invalid fields of a request; of more than VIOLATIONS_MAX violations the first ones are listed."""

    reason = "INVALID_FIELDS"

    def __init__(self, violations: Sequence[Violation]) -> None:
        listed, more = _names_once(violations[:VIOLATIONS_MAX]), len(violations) > VIOLATIONS_MAX
        super().__init__(violations_message(listed, more=more), violations=listed)
        if more:
            self.metadata[TRUNCATED] = "true"


def violations_message(violations: Sequence[Violation], *, more: bool = False) -> str:
    """Return one sentence that lists all violations; with `more`, it states that they are not all."""
    listed = "; ".join(f"{v.field}: {v.description}" if v.field else v.description for v in violations)
    if more:
        return f"Invalid request, with more violations than the {len(violations)} listed: {listed}"
    return f"Invalid request: {listed}"


def _names_once(violations: Sequence[Violation]) -> list[Violation]:
    """Return the violations with a reference to the first one in place of each repeated list of names."""
    first: dict[str, str] = {}
    listed = []
    for violation in violations:
        head, prefix, names = _split_names(violation.description)
        if len(names) > _NAMES_REPEATED_MAX and first.setdefault(names, violation.field) != violation.field:
            violation = replace(violation, description=f"{head}{prefix}those listed for {first[names]}")  # noqa: PLW2901
        listed.append(violation)
    return listed


def _split_names(description: str) -> tuple[str, str, str]:
    for prefix in KNOWN_NAMES:
        if prefix in description:
            return description.partition(prefix)
    return description, "", ""


class MalformedBody(InvalidArgument):
    reason = "MALFORMED_BODY"


class PageTokenInvalid(InvalidArgument):
    reason = "PAGE_TOKEN_INVALID"

    def __init__(self) -> None:
        message = "The page token is invalid or belongs to another list; start again without page_token."
        super().__init__(message, violations=[Violation("page_token", message, "page_token.invalid")])


class UnsupportedMediaType(InvalidArgument):
    reason = "UNSUPPORTED_MEDIA_TYPE"


class MalformedRequest(InvalidArgument):
    reason = "MALFORMED_REQUEST"


class HeadersTooLarge(InvalidArgument):
    reason = "HEADERS_TOO_LARGE"

    def __init__(self, bytes_max: int) -> None:
        message = f"The request line and the headers may have {bytes_max} bytes at most."
        super().__init__(message, bytes_max=bytes_max)


class TokenMissing(Unauthenticated):
    reason = "TOKEN_MISSING"

    def __init__(self) -> None:
        super().__init__("The call has no token; send `Authorization: Bearer <token>`.")


class TokenInvalid(Unauthenticated):
    reason = "TOKEN_INVALID"

    def __init__(self, message: str = "The token is invalid.") -> None:
        super().__init__(message)


class TokenExpired(Unauthenticated):
    reason = "TOKEN_EXPIRED"

    def __init__(self) -> None:
        super().__init__("The token has expired; request a new one.")


class PermissionMissing(PermissionDenied):
    reason = "PERMISSION_MISSING"

    def __init__(self, permission: str) -> None:
        super().__init__(f"The call requires the permission {permission}.", permission=permission)


class ScopeMissing(PermissionDenied):
    reason = "SCOPE_MISSING"

    def __init__(self, permission: str, role: str) -> None:
        super().__init__(
            f"The call requires the permission {permission}. The role {role} grants it only within a scope, but the"
            " token has neither entity_scope nor department_scope.",
            permission=permission,
            role=role,
        )


class CallerNotAllowed(PermissionDenied):
    reason = "CALLER_NOT_ALLOWED"

    def __init__(self, service: str) -> None:
        super().__init__(f"The service {service} is not among the callers that this RPC declares.", service=service)


class TenantScopeRequired(PermissionDenied):
    reason = "TENANT_SCOPE_REQUIRED"

    def __init__(self) -> None:
        super().__init__("The call concerns the whole tenant, but the token is confined to entities or departments.")


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


class ConcurrencyLimited(ResourceExhausted):
    reason = "CONCURRENCY_LIMITED"

    def __init__(self, resource: str) -> None:
        super().__init__(
            f"The tenant uses as much as one tenant may of: {resource}. Retry when some of its calls have ended.",
            retry_after_s=1.0,
            resource=resource,
        )


class MessageTooLarge(ResourceExhausted):
    reason = "MESSAGE_TOO_LARGE"


class DeadlineExceeded(BillingError):
    code = StatusCode.DEADLINE_EXCEEDED
    reason = "DEADLINE_EXCEEDED"

    def __init__(self) -> None:
        super().__init__(
            "The deadline passed. A write may have taken effect; retry with the same key to get its result."
        )


class RequestTimeout(BillingError):
    code = StatusCode.DEADLINE_EXCEEDED
    reason = "REQUEST_TIMEOUT"

    def __init__(self, part: str, limit_s: float) -> None:
        super().__init__(f"The {part} of the request did not arrive within {limit_s:g} seconds; nothing was done.")


class Unavailable(BillingError):
    code = StatusCode.UNAVAILABLE
    reason = "UNAVAILABLE"

    def __init__(self, component: str) -> None:
        super().__init__(f"{component} is unavailable; retry with the same key.", retry_after_s=1.0)


class Internal(BillingError):
    def __init__(self, incident: str) -> None:
        super().__init__(f"Internal error; operators find it in the logs as {incident}.", incident=incident)
