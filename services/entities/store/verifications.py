"""SQL for the facts of invoices: what the allocations of each charge sum to."""

from collections.abc import Sequence
from datetime import date
from typing import Final
from uuid import UUID

from sqlalchemy import select

from kit.db import ReadSession
from kit.money import Money
from services.entities.domain.billing_documents import LineKind
from services.entities.domain.consolidation import Charge
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
