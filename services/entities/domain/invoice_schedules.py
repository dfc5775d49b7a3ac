"""Invoice schedules: the periods of their runs, when a run is due, and input types."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from enum import StrEnum
from typing import Final
from uuid import UUID

from kit import dates
from services.entities.domain.billing_documents import RatePolicy
from services.entities.domain.proration import DateRange

RUN_TIMER: Final = "invoice-run"
TIME_OF_DAY_DEFAULT: Final = "06:00"
RETRY_EVERY: Final = timedelta(hours=1)
RETRY_FOR: Final = timedelta(days=3)
"""A run without a rate is retried for this long after its first attempt."""


class InvoiceFrequency(StrEnum):
    """InvoiceSchedule.Frequency."""

    MONTHLY = "MONTHLY"
    QUARTERLY = "QUARTERLY"


class InvoiceRunAction(StrEnum):
    """InvoiceSchedule.Action."""

    DRAFT = "DRAFT"
    ISSUE = "ISSUE"


class InvoiceRunState(StrEnum):
    """InvoiceRun.State."""

    COMPLETED = "COMPLETED"
    NOTHING_TO_BILL = "NOTHING_TO_BILL"
    RETRYING = "RETRYING"
    FAILED = "FAILED"


_MONTHS: Final[Mapping[InvoiceFrequency, int]] = {InvoiceFrequency.MONTHLY: 1, InvoiceFrequency.QUARTERLY: 3}


@dataclass(frozen=True, slots=True)
class RunTiming:
    """When the runs of a schedule are due."""

    frequency: InvoiceFrequency
    day_of_month: int
    """Of the first month after the period; the last day of a month that is shorter."""
    time_of_day: str
    """HH:MM."""
    time_zone: str

    def period(self, end: date) -> DateRange:
        """Return the month or quarter that ends before the day `end`."""
        return DateRange(dates.months_later(end, -_MONTHS[self.frequency]), end)

    def run_time(self, end: date) -> datetime:
        """Return when the run of the period that ends before `end` is due, in UTC.

        If a clock change skips this time, the run is later by as much; if the time occurs twice, it is the first one.
        """
        day = dates.on_anchor_day(end, self.day_of_month)
        return dates.moment_of(day, time.fromisoformat(self.time_of_day), self.time_zone)

    def end_after(self, end: date) -> date:
        """Return the end of the period that follows the one that ends before `end`."""
        return dates.months_later(end, _MONTHS[self.frequency])

    def first_end(self, now: datetime) -> date:
        """Return the end of the earliest period whose run is due after `now`."""
        today = dates.date_in(self.time_zone, now)
        months = _MONTHS[self.frequency]
        end = today.replace(month=today.month - (today.month - 1) % months, day=1)
        return end if self.run_time(end) > now else self.end_after(end)


@dataclass(frozen=True, slots=True, kw_only=True)
class InvoiceScheduleDraft:
    """Input for a new schedule."""

    entity_id: UUID
    billing_profile_id: UUID | None
    """None: the default profile at the time of each run."""
    currency_code: str
    """Empty: that of the entity."""
    rate_policy: RatePolicy
    frequency: InvoiceFrequency
    day_of_month: int
    time_of_day: str
    time_zone: str
    """Empty: that of the entity."""
    action: InvoiceRunAction
    require_einvoice: bool
    active: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class InvoiceScheduleFilter:
    """Filters of a list of schedules; None does not filter."""

    entity_id: UUID | None = None
    active: bool | None = None


@dataclass(frozen=True, slots=True)
class RunProblem:
    """Why a run has not done what its schedule says."""

    reason: str
    """Reason of the error, or code of the problem of the draft."""
    message: str
