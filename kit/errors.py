"""Errors that callers see: one class per situation, with its gRPC code and reason.

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

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from grpc import StatusCode

VIOLATIONS_MAX: Final = 50
"""Maximum number of violations in an error. Checks stop when they have found more."""
TRUNCATED: Final = "truncated"
"""Key in the metadata of an error that was cut to its maximum size."""
KNOWN_NAMES: Final = (" known are: ", "must be one of ")
"""What precedes a list of names in the description of a violation. Each list appears once in an error."""

_NAMES_REPEATED_MAX: Final = 60
"""Longer lists of names are not repeated."""


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

    def reduced(self, message: str, keys: Collection[str]) -> "FailedPrecondition":
        """Return an error with the same reason, but with another message and only the metadata of these keys."""
        error = FailedPrecondition(message)
        error.reason = self.reason
        error.metadata = {key: value for key, value in self.metadata.items() if key in keys}
        return error


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
        name = resource.replace("_", " ")
        super().__init__(
            f"The tenant has reached its share of {name}; retry when some of its calls have ended.",
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
