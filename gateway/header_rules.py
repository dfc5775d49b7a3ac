"""Rules for the headers of every request."""

from collections import Counter
from collections.abc import Iterable, Mapping

from kit.errors import InvalidFields, MalformedRequest, Violation

_SENT_ONCE = frozenset({
    "authorization", "content-encoding", "content-length", "content-type", "expect", "host", "idempotency-key",
    "if-match", "last-event-id", "proxy-authorization", "request-timeout", "traceparent", "transfer-encoding",
    "user-agent", "x-request-id",
})  # fmt: skip
"""Headers with one value: of two, a proxy might use the first one and the gateway the second one."""


def check(pairs: Iterable[tuple[bytes, bytes]], headers: Mapping[str, str], http_version: str) -> None:
    """Raise InvalidFields if a header is repeated that may be sent only once, MalformedRequest if Host is missing."""
    if "host" not in headers and http_version == "1.1":
        raise MalformedRequest("The header Host is missing.")
    counts = Counter(name.decode("latin-1") for name, _ in pairs)
    repeated = sorted(name.title() for name in counts.keys() & _SENT_ONCE if counts[name] > 1)
    if repeated:
        raise InvalidFields(
            [Violation(f"header {name}", "is set more than once", "field.repeated") for name in repeated]
        )
