"""What operations sees of approvals: how long they take and what becomes of them. No ids are labels."""

from datetime import timedelta

from prometheus_client import Counter, Histogram

from services.approvals.domain.lives import ApprovalState, Funds

_HOUR: float = 3600.0
_CYCLE = Histogram(
    "billing_approvals_cycle_seconds",
    "From the request to its end, by outcome.",
    ("outcome",),
    buckets=(1, 60, 600, _HOUR, 4 * _HOUR, 8 * _HOUR, 24 * _HOUR, 48 * _HOUR, 96 * _HOUR, 192 * _HOUR, 720 * _HOUR),
)
_SETTLED = Counter("billing_approvals_funds", "What became of the money of requests, by outcome.", ("funds",))


def ended(outcome: ApprovalState, after: timedelta) -> None:
    """A request ended."""
    _CYCLE.labels(outcome.value).observe(after.total_seconds())


def settled(funds: Funds) -> None:
    """A budget followed a request, or could not."""
    _SETTLED.labels(funds.value).inc()
