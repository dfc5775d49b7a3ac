"""SQL for the facts of invoices: what the allocations of each charge sum to."""

from collections.abc import Mapping, Sequence
from datetime import date
from decimal import Decimal
from typing import Final
from uuid import UUID

from sqlalchemy import select

from kit.db import ReadSession
from kit.money import Money
from services.entities.domain.billing_documents import LineKind
from services.entities.domain.consolidation import Charge
from services.entities.domain.verifications import Settlement
from services.entities.models.contracts import ContractRow
from services.entities.models.invoices import InvoiceChargeRow, InvoiceFeeRow, InvoiceRow

_SUMS: Final = """
    select charge.id, cost.entity_id, cost.department_id, cost.gl_code,
        case when cost.counterparty_entity_id = any($3) then cost.counterparty_entity_id end as supplier_id,
        case when $4 then cost.allocation_date end as day,
        sum(cost.amount) as original_amount, cost.currency_code as original_currency_code,
        sum(cost.entity_amount) as booked_amount, cost.entity_currency_code as booked_currency_code,
        min(cost.allocation_date) as first_date, max(cost.allocation_date) as last_date, count(*) as item_count
    from invoice_charges charge cross join lateral unnest(charge.allocation_ids) as each(id)
    join cost_allocations cost on cost.tenant_id = $1 and cost.id = each.id
    where charge.tenant_id = $1 and charge.invoice_id = $2
    group by charge.id, cost.entity_id, cost.department_id, cost.gl_code, 5, 6, cost.currency_code,
        cost.entity_currency_code
    order by charge.id"""


_SETTLEMENT: Final = """
    select coalesce(sum(amounts.paid), 0) as paid, coalesce(sum(amounts.exchange_difference), 0) as exchange_difference,
        coalesce(sum(amounts.offset_amount), 0) as offset, coalesce(sum(amounts.credit_amount), 0) as credited_balance,
        coalesce(sum(amounts.refunded), 0) as refunded, coalesce((
            select invoice_held from line_holds where tenant_id = $1 and invoice_id = $2 order by id desc limit 1
        ), 0) as held
    from (
        select applied_amount as paid, exchange_difference, 0 as offset_amount, 0 as credit_amount, 0 as refunded
        from invoice_payments where tenant_id = $1 and invoice_id = $2
        union all
        select 0, 0, offset_amount, credit_amount, 0 from credit_notes where tenant_id = $1 and invoice_id = $2
        union all
        select 0, 0, 0, 0, amount from credit_note_refunds
        where tenant_id = $1 and invoice_id = $2 and state <> 'FAILED'
    ) amounts"""
_CREDITED: Final = """
    select credited.line_id, sum(credited.amount) as amount
    from credit_notes note
    join credit_note_lines credited on credited.tenant_id = $1 and credited.credit_note_id = note.id
    where note.tenant_id = $1 and note.invoice_id = $2
    group by credited.line_id"""
_HELD: Final = """
    select line_id, sum(amount) as amount from line_holds where tenant_id = $1 and invoice_id = $2 group by line_id"""


async def sum_settlement(tx: ReadSession, invoice: InvoiceRow) -> Settlement:
    """Return the sums of the invoice's payments, credit notes, refunds and holds."""
    (row,) = await tx.fetch(_SETTLEMENT, tx.tenant_id, invoice.id)
    return Settlement(**dict(row))


async def sum_credited(tx: ReadSession, invoice: InvoiceRow) -> Mapping[UUID, Decimal]:
    """Return what credit notes have credited of each line."""
    return {row["line_id"]: row["amount"] for row in await tx.fetch(_CREDITED, tx.tenant_id, invoice.id)}


async def sum_held(tx: ReadSession, invoice: InvoiceRow) -> Mapping[UUID, Decimal]:
    """Return what disputes hold of each line."""
    return {row["line_id"]: row["amount"] for row in await tx.fetch(_HELD, tx.tenant_id, invoice.id)}


async def sum_allocations(tx: ReadSession, invoice: InvoiceRow, day: date, *, by_day: bool) -> Sequence[Charge]:
    """Return what the allocations of the invoice's charges sum to, by charge.

    Charges of one day each if `by_day`; otherwise they are converted on `day`. A charge with allocations that do not
    belong together leads to several.
    """
    rows = await tx.fetch(_SUMS, tx.tenant_id, invoice.id, list(invoice.entity_ids), by_day)
    return [
        Charge(
            id=row["id"],
            kind=LineKind.ALLOCATIONS,
            entity_id=row["entity_id"],
            department_id=row["department_id"],
            gl_code=row["gl_code"],
            contract_id=None,
            supplier_id=row["supplier_id"],
            original=Money(row["original_amount"], row["original_currency_code"]),
            booked=Money(row["booked_amount"], row["booked_currency_code"]),
            day=row["day"] or day,
            first_date=row["first_date"],
            last_date=row["last_date"],
            item_count=row["item_count"],
        )
        for row in rows
    ]


async def list_charges(tx: ReadSession, invoice: InvoiceRow) -> Sequence[InvoiceChargeRow]:
    """Return the charges of the invoice as they are stored."""
    query = select(InvoiceChargeRow).where(InvoiceChargeRow.invoice_id == invoice.id)
    return await tx.all(query.order_by(InvoiceChargeRow.id))


async def list_fees(tx: ReadSession, invoice: InvoiceRow) -> Sequence[tuple[InvoiceFeeRow, UUID]]:
    """Return the fees of the invoice, each with the entity of its contract."""
    query = (
        select(InvoiceFeeRow, ContractRow.entity_id)
        .join(ContractRow, ContractRow.id == InvoiceFeeRow.contract_id)
        .where(InvoiceFeeRow.invoice_id == invoice.id)
    )
    return [(fee, entity_id) for fee, entity_id in await tx.rows(query.order_by(InvoiceFeeRow.id))]
