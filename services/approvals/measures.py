"""What operations sees of approvals: what waits, how long they take, what becomes of them. No ids are labels."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Final

from prometheus_client import Counter, Gauge, Histogram

from services.approvals.domain.lives import ApprovalState, Funds

_HOUR: float = 3600.0
_CYCLE = Histogram(
    "billing_approvals_cycle_seconds",
    "From the request to its end, by outcome.",
    ("outcome",),
    buckets=(1, 60, 600, _HOUR, 4 * _HOUR, 8 * _HOUR, 24 * _HOUR, 48 * _HOUR, 96 * _HOUR, 192 * _HOUR, 720 * _HOUR),
)
_OLDEST = Gauge("billing_approvals_pending_oldest_seconds", "Age of the oldest request that is undecided; 0 for none.")
_PENDING = Gauge("billing_approvals_pending", "Requests that are undecided, by how old they are at most.", ("age",))
AGES: Final[Mapping[str, timedelta]] = {
    "hour": timedelta(hours=1), "day": timedelta(days=1), "three days": timedelta(days=3), "week": timedelta(weeks=1),
}  # fmt: skip
"""How old requests are at most, by name."""
_OLDER: Final = "older"
_SETTLED = Counter("billing_approvals_funds", "What became of the money of requests, by outcome.", ("funds",))


def ended(outcome: ApprovalState, after: timedelta) -> None:
    """A request ended."""
    _CYCLE.labels(outcome.value).observe(after.total_seconds())


def settled(funds: Funds) -> None:
    """A budget followed a request, or could not."""
    _SETTLED.labels(funds.value).inc()


def waiting(oldest: timedelta, counts: Sequence[int]) -> None:
    """Say how old undecided requests are: the oldest, and how many are of each of AGES, and older."""
    _OLDEST.set(oldest.total_seconds())
    for age, count in zip([*AGES, _OLDER], counts, strict=True):
        _PENDING.labels(age).set(count)
