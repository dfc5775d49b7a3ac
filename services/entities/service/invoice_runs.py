"""Runs of invoice schedules: each makes one invoice, or records why it could not."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from eventing import outbox
from eventing.timers import set_timer
from kit.db import Database, WriteSession
from kit.errors import AlreadyExists, BillingError, FailedPrecondition, InvalidArgument, NotFound
from kit.origin import Origin
from kit.rates import RateMissing
from services.entities import events, service, store
from services.entities.domain.invoice_schedules import (
    RETRY_EVERY,
    RETRY_FOR,
    RUN_TIMER,
    InvoiceRunAction,
    InvoiceRunState,
    RunProblem,
)
from services.entities.domain.invoices import InvoiceProblem, InvoiceTerms, Severity
from services.entities.errors.invoices import InvoiceEmpty
from services.entities.models.invoice_schedules import InvoiceRunRow, InvoiceScheduleRow

_REFUSALS: Final = AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
"""Errors that are recorded with the run. Others, such as a lock timeout, are left to the retries of the timer."""


class InvoiceRuns:
    """Runs schedules in transactions of its own: a refused invoice is rolled back before its failure is recorded."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def run(self, origin: Origin, schedule_id: UUID) -> None:
        """Make the invoice of the next period of a schedule, if it is due.

        May be called again, and by several replicas at once: the schedule is locked, and a period is run once.
        """
        try:
            async with self._db.write(origin) as tx:
                schedule = await _lock_due(tx, schedule_id)
                if schedule is not None:
                    await _make_invoice(tx, schedule)
                return
        except _REFUSALS as error:
            refusal = error
        problems = await self._find_problems(origin, schedule_id, refusal)
        async with self._db.write(origin) as tx:
            schedule = await _lock_due(tx, schedule_id)
            if schedule is not None:
                await _record_refusal(tx, schedule, refusal, problems)

    async def _find_problems(self, origin: Origin, schedule_id: UUID, refusal: BillingError) -> Sequence[RunProblem]:
        """Return why the run was refused: of missing rates all, not only the first one."""
        problems: list[RunProblem] = []
        if isinstance(refusal, RateMissing):
            async with self._db.write(origin, dry_run=True) as tx:
                schedule = await store.invoice_schedules.get(tx, schedule_id)
                preview = await service.invoices.create(tx, schedule.entity_id, _terms(schedule), dry_run=True)
                problems = _errors_of(preview.invoice.problems)
        return problems or [RunProblem(refusal.reason, refusal.message)]


async def _lock_due(tx: WriteSession, schedule_id: UUID) -> InvoiceScheduleRow | None:
    """Return the schedule, locked, if its next run is due; otherwise reset its timer."""
    schedule = await store.invoice_schedules.lock(tx, schedule_id)
    if not schedule.active:
        return None
    if schedule.next_run_time > await tx.now():
        service.invoice_schedules.set_run_timer(tx, schedule)
        return None
    return schedule


async def _make_invoice(tx: WriteSession, schedule: InvoiceScheduleRow) -> None:
    run, terms = await _get_run(tx, schedule), _terms(schedule)
    await _advance(tx, schedule)
    invoice = (await service.invoices.create(tx, schedule.entity_id, terms)).invoice
    state, problems = InvoiceRunState.COMPLETED, _errors_of(invoice.problems)
    if schedule.action is InvoiceRunAction.ISSUE:
        if problems:
            state = InvoiceRunState.FAILED
        else:
            # Last, because other issues of the series wait from here to the commit.
            await service.invoices.issue(tx, invoice.id, etag="")
    run.invoice_id, run.invoice_number, run.invoice_state = invoice.id, invoice.number, invoice.state
    await _end_attempt(tx, run, state, problems if state is InvoiceRunState.FAILED else ())


def _terms(schedule: InvoiceScheduleRow) -> InvoiceTerms:
    return InvoiceTerms(
        period=schedule.next_period,
        currency=schedule.currency_code,
        rate_policy=schedule.rate_policy,
        billing_profile_id=schedule.billing_profile_id,
        note="",
        require_einvoice=schedule.require_einvoice,
    )


def _errors_of(problems: Sequence[InvoiceProblem]) -> list[RunProblem]:
    return [RunProblem(each.code, each.message) for each in problems if each.severity is Severity.ERROR]


async def _get_run(tx: WriteSession, schedule: InvoiceScheduleRow) -> InvoiceRunRow:
    """Return the run of the next period: that of an earlier attempt, or a new one."""
    period = schedule.next_period
    run = await store.invoice_schedules.find_run(tx, schedule.id, period.end)
    return run or InvoiceRunRow(
        schedule_id=schedule.id,
        entity_id=schedule.entity_id,
        period_start=period.start,
        period_end=period.end,
        due_time=schedule.next_run_time,
        attempts=0,
        invoice_number="",
        create_time=await tx.now(),
    )


async def _advance(tx: WriteSession, schedule: InvoiceScheduleRow) -> None:
    """Go on to the next period. If its run is due, too, the timer calls it at once."""
    schedule.next_period_end = schedule.timing.end_after(schedule.next_period_end)
    await store.invoice_schedules.save(tx, schedule)
    service.invoice_schedules.set_run_timer(tx, schedule)


async def _record_refusal(
    tx: WriteSession, schedule: InvoiceScheduleRow, refusal: BillingError, problems: Sequence[RunProblem]
) -> None:
    """Record a run that made no invoice. One without a rate is retried, as long as that can help."""
    run = await _get_run(tx, schedule)
    now = await tx.now()
    if isinstance(refusal, RateMissing) and now < run.create_time + RETRY_FOR:
        retry_time = now + RETRY_EVERY
        set_timer(tx, RUN_TIMER, schedule.id, retry_time)
        await _end_attempt(tx, run, InvoiceRunState.RETRYING, problems, retry_time)
        return
    await _advance(tx, schedule)
    if isinstance(refusal, InvoiceEmpty):
        await _end_attempt(tx, run, InvoiceRunState.NOTHING_TO_BILL)
    else:
        await _end_attempt(tx, run, InvoiceRunState.FAILED, problems)


async def _end_attempt(
    tx: WriteSession,
    run: InvoiceRunRow,
    state: InvoiceRunState,
    problems: Sequence[RunProblem] = (),
    retry_time: datetime | None = None,
) -> None:
    """Store an attempt and publish its outcome; of failed ones only the first and the last."""
    run.state, run.attempts, run.attempt_time, run.retry_time = state, run.attempts + 1, await tx.now(), retry_time
    run.set_problems(problems)
    await store.invoice_schedules.save_run(tx, run)
    if state in {InvoiceRunState.COMPLETED, InvoiceRunState.NOTHING_TO_BILL}:
        outbox.append(tx, events.published.invoice_run_completed(run))
    elif state is InvoiceRunState.FAILED or run.attempts == 1:
        outbox.append(tx, events.published.invoice_run_failed(run))
