"""SQL for credit notes, and for what is credited and held of the lines of an invoice."""

from collections.abc import Collection, Mapping, Sequence
from decimal import Decimal
from typing import Final
from uuid import UUID

from sqlalchemy import ARRAY, Select, Uuid, any_, func, literal, or_, select

from kit import clock
from kit.columns import Columns, of_table
from kit.db import ReadSession, WriteSession, found, scope_filter
from services.entities.domain.consolidation import TaxKey
from services.entities.domain.credit_notes import CreditNoteFilter
from services.entities.errors.credit_notes import CreditNoteNotFound
from services.entities.models.credit_notes import CreditedLine, CreditNoteLineRow, CreditNoteRow
from services.entities.models.invoices import InvoiceLineRow
from serving.pages import Page, Slice

_LINES: Final = Columns[CreditNoteLineRow](of_table(CreditNoteLineRow))
_INSERT_LINES: Final = _LINES.insert("credit_note_lines")
_UPDATE_LINES: Final = """
    update invoice_lines line set credited = line.credited + change.credited, held = line.held + change.held
    from unnest($2::uuid[], $3::numeric[], $4::numeric[]) as change (id, credited, held)
    where line.tenant_id = $1 and line.id = change.id"""


def _visible(tx: ReadSession) -> Select[CreditNoteRow]:
    """Select the credit notes of the entities that the caller may see."""
    covered = scope_filter(tx.scope, CreditNoteRow.entity_id)
    return select(CreditNoteRow) if covered is None else select(CreditNoteRow).where(covered)


async def get(tx: ReadSession, credit_note_id: UUID) -> CreditNoteRow:
    """Return the credit note. Raises CreditNoteNotFound."""
    row = await tx.one_or_none(_visible(tx).where(CreditNoteRow.id == credit_note_id))
    return found(row, CreditNoteNotFound(credit_note_id))


async def list_page(tx: ReadSession, page: Page, filters: CreditNoteFilter) -> Slice[CreditNoteRow]:
    """Return one page of the credit notes that match all filters, newest first."""
    query = _visible(tx)
    if filters.invoice_id is not None:
        query = query.where(CreditNoteRow.invoice_id == filters.invoice_id)
    if filters.entity_id is not None:
        query = query.where(CreditNoteRow.entity_id == filters.entity_id)
    if filters.start is not None:
        query = query.where(CreditNoteRow.issue_date >= filters.start)
    if filters.end is not None:
        query = query.where(CreditNoteRow.issue_date < filters.end)
    if filters.text:
        searched = CreditNoteRow.number, CreditNoteRow.reason, CreditNoteRow.recipient_name
        query = query.where(or_(*(column.icontains(filters.text, autoescape=True) for column in searched)))
    return await page.fetch(tx, query, CreditNoteRow.id, newest_first=True)


async def list_lines(tx: ReadSession, page: Page, credit_note_id: UUID) -> Slice[CreditNoteLineRow]:
    """Return one page of the lines of a credit note, in the order of the invoice."""
    query = select(CreditNoteLineRow).where(CreditNoteLineRow.credit_note_id == credit_note_id)
    return await page.fetch(tx, query, CreditNoteLineRow.id)


async def list_first_lines(tx: ReadSession, credit_note_id: UUID, limit: int) -> Sequence[CreditNoteLineRow]:
    """Return the first lines of a credit note, in the order of the invoice."""
    query = select(CreditNoteLineRow).where(CreditNoteLineRow.credit_note_id == credit_note_id)
    return await tx.all(query.order_by(CreditNoteLineRow.id).limit(limit))


async def with_invoice_lines(tx: ReadSession, rows: Sequence[CreditNoteLineRow]) -> Sequence[CreditedLine]:
    """Return these lines of a credit note with the lines of the invoice that they credit."""
    lines = {line.id: line for line in await _find_lines(tx, [row.line_id for row in rows])}
    return [CreditedLine(lines[row.line_id], row.amount) for row in rows]


async def _find_lines(tx: ReadSession, line_ids: Collection[UUID]) -> Sequence[InvoiceLineRow]:
    if not line_ids:
        return []
    ids = any_(literal(list(line_ids), ARRAY(Uuid)))
    return await tx.all(select(InvoiceLineRow).where(InvoiceLineRow.id == ids).order_by(InvoiceLineRow.number))


async def find_invoice_lines(
    tx: ReadSession, invoice_id: UUID, line_ids: Collection[UUID] | None = None
) -> Sequence[InvoiceLineRow]:
    """Return those of the lines that belong to the invoice, in its order; all lines of the invoice for None."""
    if line_ids is None:
        query = select(InvoiceLineRow).where(InvoiceLineRow.invoice_id == invoice_id)
        return await tx.all(query.order_by(InvoiceLineRow.number))
    return [line for line in await _find_lines(tx, line_ids) if line.invoice_id == invoice_id]


async def sum_by_tax(tx: ReadSession, invoice_id: UUID) -> Mapping[TaxKey, tuple[Decimal, Decimal]]:
    """Return the net amounts that are credited and held of an invoice, by treatment and rate."""
    keys = InvoiceLineRow.tax_treatment, InvoiceLineRow.tax_rate_bp
    query = select(*keys, func.sum(InvoiceLineRow.credited), func.sum(InvoiceLineRow.held))
    rows = await tx.rows(query.where(InvoiceLineRow.invoice_id == invoice_id).group_by(*keys))
    return {TaxKey(treatment, rate_bp): (credited, held) for treatment, rate_bp, credited, held in rows}


async def update_invoice_lines(tx: WriteSession, changes: Mapping[UUID, tuple[Decimal, Decimal]]) -> None:
    """Add to the net amounts that are credited and held of lines; the invoice must be locked."""
    amounts = list(changes.values())
    await tx.fetch(
        _UPDATE_LINES, tx.tenant_id, list(changes), [credited for credited, _ in amounts], [held for _, held in amounts]
    )


async def insert_lines(tx: WriteSession, rows: Collection[CreditNoteLineRow]) -> None:
    """Insert the lines of a credit note, which is inserted later in the transaction; they may be thousands."""
    now = clock.now()
    for row in rows:
        row.tenant_id, row.create_time = tx.tenant_id, now
    await tx.fetch(_INSERT_LINES, *_LINES.parameters(list(rows)))


async def insert(tx: WriteSession, note: CreditNoteRow) -> None:
    """Insert the credit note."""
    tx.add(note)
    await tx.flush()
