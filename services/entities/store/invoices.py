"""SQL for consolidated invoices, their lines, eliminated charges and fees."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import date
from typing import Any, Final
from uuid import UUID

from sqlalchemy import ARRAY, ColumnElement, Select, Uuid, any_, delete, func, literal, or_, select

from kit import clock
from kit.columns import Columns, of_table
from kit.db import ReadSession, WriteSession, found, scope_filter
from kit.money import Money
from services.entities.domain.contracts import ContractState
from services.entities.domain.invoices import OUTSTANDING, InvoiceFilter, InvoiceState
from services.entities.domain.proration import DateRange
from services.entities.errors.invoices import InvoiceLineNotFound, InvoiceNotFound
from services.entities.models.allocations import AllocationRow
from services.entities.models.contracts import ContractRow
from services.entities.models.entities import DepartmentRow
from services.entities.models.invoices import (
    InvoiceChargeRow,
    InvoiceEliminationRow,
    InvoiceFeeRow,
    InvoiceLineRow,
    InvoiceRow,
)
from serving.pages import Page, Slice

_FIRST_BILLED: Final = """
    select covered.entity_id, min(invoice.period_start) as first_day
    from consolidated_invoices invoice cross join lateral unnest(invoice.entity_ids) as covered(entity_id)
    where invoice.state <> 'VOID' and covered.entity_id = any($1)
    group by covered.entity_id"""
_LINES: Final = Columns[InvoiceLineRow](of_table(InvoiceLineRow))
_INSERT_LINES: Final = _LINES.insert("invoice_lines")
_ELIMINATIONS: Final = Columns[InvoiceEliminationRow](of_table(InvoiceEliminationRow))
_INSERT_ELIMINATIONS: Final = _ELIMINATIONS.insert("invoice_eliminations")
_FEES: Final = Columns[InvoiceFeeRow](of_table(InvoiceFeeRow))
_INSERT_FEES: Final = _FEES.insert("invoice_fees")
_NEVER_BILLED: Final = (ContractState.DRAFT, ContractState.PENDING_APPROVAL, ContractState.PENDING_SIGNATURE)


def _visible(tx: ReadSession) -> Select[InvoiceRow]:
    """Select the invoices of the entities that the caller may see."""
    covered = scope_filter(tx.scope, InvoiceRow.entity_id)
    return select(InvoiceRow) if covered is None else select(InvoiceRow).where(covered)


def _any(ids: Collection[UUID]) -> ColumnElement[Any]:
    """Return the ids as one array parameter, to compare with."""
    return any_(literal(list(ids), ARRAY(Uuid)))


async def lock_unbilled(tx: WriteSession) -> None:
    """Prevent other transactions of the tenant from building or voiding invoices until this one ends.

    Whether a fee is billed, and whether a period is taken, has no row to lock.
    """
    await tx.lock("invoices")


async def get(tx: ReadSession, invoice_id: UUID) -> InvoiceRow:
    """Return the invoice. Raises InvoiceNotFound."""
    row = await tx.one_or_none(_visible(tx).where(InvoiceRow.id == invoice_id))
    return found(row, InvoiceNotFound(invoice_id))


async def lock(tx: WriteSession, invoice_id: UUID) -> InvoiceRow:
    """Return the invoice, locked until the transaction ends. Raises InvoiceNotFound."""
    query = _visible(tx).where(InvoiceRow.id == invoice_id).with_for_update(key_share=True)
    row = await tx.one_or_none(query.execution_options(populate_existing=True))
    return found(row, InvoiceNotFound(invoice_id))


async def save(tx: WriteSession, invoice: InvoiceRow) -> None:
    """Insert the invoice or write its changes, which gives it a new etag."""
    tx.add(invoice)
    await tx.flush()


async def find_overlapping(tx: ReadSession, entity_id: UUID, period: DateRange) -> InvoiceRow | None:
    """Return an invoice of the entity that is not void and whose period overlaps; None if there is none."""
    overlapping = InvoiceRow.period_start < period.end, InvoiceRow.period_end > period.start
    query = select(InvoiceRow).where(
        InvoiceRow.entity_id == entity_id, InvoiceRow.state != InvoiceState.VOID, *overlapping
    )
    return await tx.one_or_none(query.order_by(InvoiceRow.id).limit(1))


async def find_first_billed(tx: ReadSession, entity_ids: Collection[UUID]) -> Mapping[UUID, date]:
    """Return, for each entity that was billed before, the first day of the earliest period that is not void."""
    rows = await tx.fetch(_FIRST_BILLED, list(entity_ids))
    return {row["entity_id"]: row["first_day"] for row in rows}


async def find_departments(tx: ReadSession, department_ids: Collection[UUID]) -> Sequence[DepartmentRow]:
    """Return these departments, also outside of the caller's scope."""
    if not department_ids:
        return []
    return await tx.all(select(DepartmentRow).where(DepartmentRow.id == _any(department_ids)))


async def find_contracts(tx: ReadSession, entity_ids: Collection[UUID], until: date) -> Sequence[ContractRow]:
    """Return the contracts of these entities that were activated and begin before `until`."""
    query = select(ContractRow).where(
        ContractRow.entity_id == _any(entity_ids),
        ContractRow.activate_time.is_not(None),
        ContractRow.state.not_in(_NEVER_BILLED),
        ContractRow.start_date < until,
    )
    return await tx.all(query.order_by(ContractRow.id))


async def sum_billed_fees(tx: ReadSession, contract_ids: Collection[UUID]) -> Mapping[UUID, Mapping[date, Money]]:
    """Return what invoices that are not void have billed, by contract and due date."""
    if not contract_ids:
        return {}
    query = (
        select(
            InvoiceFeeRow.contract_id,
            InvoiceFeeRow.due_date,
            InvoiceFeeRow.currency_code,
            func.sum(InvoiceFeeRow.amount),
        )
        .join(InvoiceRow, InvoiceRow.id == InvoiceFeeRow.invoice_id)
        .where(InvoiceFeeRow.contract_id == _any(contract_ids), InvoiceRow.state != InvoiceState.VOID)
        .group_by(InvoiceFeeRow.contract_id, InvoiceFeeRow.due_date, InvoiceFeeRow.currency_code)
    )
    billed = defaultdict[UUID, dict[date, Money]](dict)
    for contract_id, due_date, currency, amount in await tx.rows(query):
        billed[contract_id][due_date] = Money(amount, currency)
    return billed


async def insert_content(
    tx: WriteSession,
    lines: Sequence[InvoiceLineRow],
    eliminations: Sequence[InvoiceEliminationRow],
    fees: Sequence[InvoiceFeeRow],
) -> None:
    """Insert the lines, eliminated charges and fees of a draft, which may be thousands."""
    now = clock.now()
    for row in (*lines, *eliminations, *fees):
        row.tenant_id, row.create_time = tx.tenant_id, now
    await tx.fetch(_INSERT_LINES, *_LINES.parameters(lines))
    if eliminations:
        await tx.fetch(_INSERT_ELIMINATIONS, *_ELIMINATIONS.parameters(eliminations))
    if fees:
        await tx.fetch(_INSERT_FEES, *_FEES.parameters(fees))


async def delete_content(tx: WriteSession, invoice_id: UUID) -> None:
    """Delete the lines, charges, eliminated charges and fees of a draft."""
    for table in (InvoiceFeeRow, InvoiceEliminationRow, InvoiceLineRow, InvoiceChargeRow):
        await tx.execute(
            delete(table).where(table.invoice_id == invoice_id).execution_options(synchronize_session=False)
        )


async def list_page(tx: ReadSession, page: Page, filters: InvoiceFilter) -> Slice[InvoiceRow]:
    """Return one page of the invoices that match all filters, newest first."""
    query = _visible(tx)
    if filters.entity_id is not None:
        query = query.where(InvoiceRow.entity_id == filters.entity_id)
    if filters.state is not None:
        query = query.where(InvoiceRow.state == filters.state)
    if filters.start is not None:
        query = query.where(InvoiceRow.period_end > filters.start)
    if filters.end is not None:
        query = query.where(InvoiceRow.period_start < filters.end)
    if filters.overdue:
        query = query.where(InvoiceRow.state.in_(OUTSTANDING), InvoiceRow.due_date < func.current_date())
    if filters.text:
        searched = InvoiceRow.number, InvoiceRow.recipient_name
        query = query.where(or_(*(column.icontains(filters.text, autoescape=True) for column in searched)))
    return await page.fetch(tx, query, InvoiceRow.id, newest_first=True)


async def list_first_lines(tx: ReadSession, invoice_id: UUID, limit: int) -> Sequence[InvoiceLineRow]:
    """Return the first lines of the invoice."""
    query = select(InvoiceLineRow).where(InvoiceLineRow.invoice_id == invoice_id)
    return await tx.all(query.order_by(InvoiceLineRow.number).limit(limit))


async def list_lines(tx: ReadSession, page: Page, invoice_id: UUID, entity_id: UUID | None) -> Slice[InvoiceLineRow]:
    """Return one page of the lines of the invoice, in order; with `entity_id`, only those of this entity."""
    query = select(InvoiceLineRow).where(InvoiceLineRow.invoice_id == invoice_id)
    if entity_id is not None:
        query = query.where(InvoiceLineRow.entity_id == entity_id)
    return await page.fetch(tx, query, InvoiceLineRow.id)


async def list_eliminations(tx: ReadSession, invoice_id: UUID) -> Sequence[InvoiceEliminationRow]:
    """Return the eliminated charges of the invoice, in order."""
    query = select(InvoiceEliminationRow).where(InvoiceEliminationRow.invoice_id == invoice_id)
    return await tx.all(query.order_by(InvoiceEliminationRow.number))


async def get_line(tx: ReadSession, invoice_id: UUID, line_id: UUID) -> InvoiceLineRow:
    """Return a line of the invoice. Raises InvoiceLineNotFound."""
    query = select(InvoiceLineRow).where(InvoiceLineRow.invoice_id == invoice_id, InvoiceLineRow.id == line_id)
    return found(await tx.one_or_none(query), InvoiceLineNotFound(line_id))


async def list_allocations(tx: ReadSession, page: Page, line: InvoiceLineRow) -> Slice[AllocationRow]:
    """Return one page of the allocations of a line, in the order of their ids."""
    ids = select(func.unnest(InvoiceChargeRow.allocation_ids)).where(InvoiceChargeRow.id == _any(line.charge_ids))
    return await page.fetch(tx, select(AllocationRow).where(AllocationRow.id.in_(ids)), AllocationRow.id)


async def list_fees(tx: ReadSession, page: Page, line: InvoiceLineRow) -> Slice[InvoiceFeeRow]:
    """Return one page of the fees of a line, in the order of their due dates."""
    return await page.fetch(tx, select(InvoiceFeeRow).where(InvoiceFeeRow.line_id == line.id), InvoiceFeeRow.id)
