"""SQL for invoice schedules and their runs."""

from datetime import date
from uuid import UUID

from sqlalchemy import Select, select
from sqlalchemy.exc import IntegrityError

from kit.db import ReadSession, WriteSession, constraint_name, found, scope_filter
from services.entities.domain.invoice_schedules import InvoiceRunState, InvoiceScheduleFilter
from services.entities.errors.invoice_schedules import InvoiceScheduleExists, InvoiceScheduleNotFound
from services.entities.models.invoice_schedules import InvoiceRunRow, InvoiceScheduleRow
from serving.pages import Page, Slice


def _visible(tx: ReadSession) -> Select[InvoiceScheduleRow]:
    """Select the schedules of the entities that the caller may see."""
    covered = scope_filter(tx.scope, InvoiceScheduleRow.entity_id)
    return select(InvoiceScheduleRow) if covered is None else select(InvoiceScheduleRow).where(covered)


async def get(tx: ReadSession, schedule_id: UUID) -> InvoiceScheduleRow:
    """Return the schedule. Raises InvoiceScheduleNotFound."""
    query = _visible(tx).where(InvoiceScheduleRow.id == schedule_id)
    return found(await tx.one_or_none(query), InvoiceScheduleNotFound(schedule_id))


async def lock(tx: WriteSession, schedule_id: UUID) -> InvoiceScheduleRow:
    """Return the schedule, locked until the transaction ends. Raises InvoiceScheduleNotFound."""
    query = _visible(tx).where(InvoiceScheduleRow.id == schedule_id).with_for_update(key_share=True)
    return found(await tx.one_or_none(query), InvoiceScheduleNotFound(schedule_id))


async def save(tx: WriteSession, schedule: InvoiceScheduleRow) -> None:
    """Write a new or changed schedule; the row then has its id and etag. Raises InvoiceScheduleExists."""
    entity_id = schedule.entity_id  # a failed flush expires the row
    tx.add(schedule)
    try:
        await tx.flush()
    except IntegrityError as error:
        if constraint_name(error) == "invoice_schedules_entity_key":
            raise InvoiceScheduleExists(entity_id) from None
        raise


async def list_page(tx: ReadSession, page: Page, filters: InvoiceScheduleFilter) -> Slice[InvoiceScheduleRow]:
    """Return one page of the schedules that match all filters, without deleted ones, oldest first."""
    query = _visible(tx).where(InvoiceScheduleRow.delete_time.is_(None))
    if filters.entity_id is not None:
        query = query.where(InvoiceScheduleRow.entity_id == filters.entity_id)
    if filters.active is not None:
        query = query.where(InvoiceScheduleRow.active.is_(filters.active))
    return await page.fetch(tx, query, InvoiceScheduleRow.id)


async def find_run(tx: ReadSession, schedule_id: UUID, period_end: date) -> InvoiceRunRow | None:
    """Return the run of a period, or None if there was no attempt."""
    of_period = InvoiceRunRow.schedule_id == schedule_id, InvoiceRunRow.period_end == period_end
    return await tx.one_or_none(select(InvoiceRunRow).where(*of_period))


async def list_runs(
    tx: ReadSession, page: Page, schedule_id: UUID, state: InvoiceRunState | None
) -> Slice[InvoiceRunRow]:
    """Return one page of the runs of a schedule, newest first."""
    query = select(InvoiceRunRow).where(InvoiceRunRow.schedule_id == schedule_id)
    if state is not None:
        query = query.where(InvoiceRunRow.state == state)
    return await page.fetch(tx, query, InvoiceRunRow.id, newest_first=True)


async def save_run(tx: WriteSession, run: InvoiceRunRow) -> None:
    """Write a new or changed run."""
    tx.add(run)
    await tx.flush()
