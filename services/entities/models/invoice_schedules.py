"""Tables of invoice schedules and their runs."""

from collections.abc import Iterable, Sequence
from datetime import date, datetime
from uuid import UUID

from sqlalchemy import Boolean, Date, DateTime, Integer, String, Uuid
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from kit import ids
from kit.db import TenantRow, VersionedRow, text_enum
from services.entities.domain.billing_documents import RatePolicy
from services.entities.domain.invoice_schedules import (
    InvoiceFrequency,
    InvoiceRunAction,
    InvoiceRunState,
    RunProblem,
    RunTiming,
)
from services.entities.domain.invoices import InvoiceState
from services.entities.domain.proration import DateRange


class InvoiceScheduleRow(VersionedRow):
    """A schedule of the invoices of an entity."""

    __tablename__ = "invoice_schedules"
    audited_as = ids.INVOICE_SCHEDULE

    entity_id: Mapped[UUID] = mapped_column(Uuid)
    billing_profile_id: Mapped[UUID | None] = mapped_column(Uuid)
    currency_code: Mapped[str] = mapped_column(String)
    """Empty: that of the entity at the time of the run."""
    rate_policy: Mapped[RatePolicy] = mapped_column(text_enum(RatePolicy))
    frequency: Mapped[InvoiceFrequency] = mapped_column(text_enum(InvoiceFrequency))
    day_of_month: Mapped[int] = mapped_column(Integer)
    time_of_day: Mapped[str] = mapped_column(String)
    """HH:MM."""
    time_zone: Mapped[str] = mapped_column(String)
    action: Mapped[InvoiceRunAction] = mapped_column(text_enum(InvoiceRunAction))
    require_einvoice: Mapped[bool] = mapped_column(Boolean)
    active: Mapped[bool] = mapped_column(Boolean)
    next_period_end: Mapped[date] = mapped_column(Date)
    """First day after the period of the next run. Only a run, and the end of a pause, move it on."""
    delete_time: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))

    @property
    def timing(self) -> RunTiming:
        """When its runs are due."""
        return RunTiming(self.frequency, self.day_of_month, self.time_of_day, self.time_zone)

    @property
    def next_period(self) -> DateRange:
        """The period of the next run."""
        return self.timing.period(self.next_period_end)

    @property
    def next_run_time(self) -> datetime:
        """When the next run is due, if the schedule is active."""
        return self.timing.run_time(self.next_period_end)


class InvoiceRunRow(TenantRow):
    """What a schedule made for a period, or could not make."""

    __tablename__ = "invoice_runs"
    audited_as = "invoice_run"

    schedule_id: Mapped[UUID] = mapped_column(Uuid)
    entity_id: Mapped[UUID] = mapped_column(Uuid)
    period_start: Mapped[date] = mapped_column(Date)
    period_end: Mapped[date] = mapped_column(Date)
    """First day after the period."""
    due_time: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    state: Mapped[InvoiceRunState] = mapped_column(text_enum(InvoiceRunState))
    attempts: Mapped[int] = mapped_column(Integer)
    attempt_time: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    """Time of the last attempt."""
    retry_time: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    """Time of the next attempt; None unless the state is RETRYING."""
    invoice_id: Mapped[UUID | None] = mapped_column(Uuid)
    invoice_number: Mapped[str] = mapped_column(String)
    """Empty unless the run has issued the invoice."""
    invoice_state: Mapped[InvoiceState | None] = mapped_column(text_enum(InvoiceState))
    """The state in which the run left the invoice."""
    problem_records: Mapped[list[dict[str, str]]] = mapped_column("problems", JSONB)

    @property
    def problems(self) -> Sequence[RunProblem]:
        """Why the run has not done what its schedule says."""
        return [RunProblem(record["reason"], record["message"]) for record in self.problem_records]

    def set_problems(self, problems: Iterable[RunProblem]) -> None:
        """Store the problems."""
        self.problem_records = [{"reason": each.reason, "message": each.message} for each in problems]
