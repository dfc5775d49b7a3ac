"""Errors of rendering."""

from grpc import StatusCode

from kit.errors import BillingError, FailedPrecondition
from kit.failures import LoggedText


class RenderingTimedOut(BillingError):
    code = StatusCode.DEADLINE_EXCEEDED
    reason = "RENDERING_TIMED_OUT"

    def __init__(self, limit_s: float) -> None:
        super().__init__(f"The document was not rendered within {limit_s:g} seconds.", limit_seconds=f"{limit_s:g}")


class DocumentTooLarge(FailedPrecondition):
    reason = "DOCUMENT_TOO_LARGE"

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(
            f"Rendering the document needs more than {limit_bytes >> 20} MiB of memory. Use another format.",
            limit_bytes=limit_bytes,
        )


class RenderingFailed(LoggedText):
    """A worker ended without a document. Callers get an internal error; the text has no values of the document."""
