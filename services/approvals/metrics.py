"""Metrics of approvals. Labels never contain ids."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Final

from prometheus_client import Counter, Gauge, Histogram

from services.approvals.domain.approvals import ApprovalState, ReservationState

_HOUR: float = 3600.0
_CYCLE = Histogram(
    "billing_approvals_cycle_seconds",
    "Time from the creation of a request to its final state, by outcome.",
    ("outcome",),
    buckets=(1, 60, 600, _HOUR, 4 * _HOUR, 8 * _HOUR, 24 * _HOUR, 48 * _HOUR, 96 * _HOUR, 192 * _HOUR, 720 * _HOUR),
)
_OLDEST = Gauge("billing_approvals_pending_oldest_seconds", "Age of the oldest undecided request; 0 if there is none.")
_PENDING = Gauge("billing_approvals_pending", "Number of undecided requests, by maximum age.", ("age",))
AGES: Final[Mapping[str, timedelta]] = {
    "hour": timedelta(hours=1), "day": timedelta(days=1), "three days": timedelta(days=3), "week": timedelta(weeks=1),
}  # fmt: skip
"""Maximum age of each group of undecided requests, by its label."""
_OLDER: Final = "older"
_RESERVATIONS = Counter(
    "billing_approvals_funds",
    "Requests whose reservation the budgets service settled, by reservation state.",
    ("funds",),
)


def record_outcome(state: ApprovalState, age: timedelta) -> None:
    """Count a request that reached a final state."""
    _CYCLE.labels(state.value).observe(age.total_seconds())


def record_reservation(state: ReservationState) -> None:
    """Count a request whose reservation was settled."""
    _RESERVATIONS.labels(state.value).inc()


def set_pending_ages(oldest: timedelta, counts: Sequence[int]) -> None:
    """Set the age of the oldest undecided request, and the number in each group of AGES and above all of them."""
    _OLDEST.set(oldest.total_seconds())
    for age, count in zip([*AGES, _OLDER], counts, strict=True):
        _PENDING.labels(age).set(count)
