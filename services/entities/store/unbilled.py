"""SQL for the queue of allocations that no invoice has taken, and for the charges that invoices made of them."""

from collections.abc import Collection, Mapping, Sequence
from datetime import date
from typing import Any, Final
from uuid import UUID

import asyncpg

from kit.db import ReadSession, WriteSession
from kit.money import Money
from services.entities.domain.billing_documents import LineKind
from services.entities.domain.consolidation import Charge
from services.entities.domain.unbilled import CostPosition, CurrencySum, UnbilledItem, UnbilledKind
from services.entities.errors.invoices import InvoiceAmountTooLarge

_SORT_IN_MEMORY: Final = "set local work_mem = '64MB'"
_TAKE: Final = """
    with covered as (
        select * from unnest($2::uuid[], $3::date[]) as each(entity_id, first_date)
    ), taken as (
        delete from unbilled_allocations cost using covered
        where cost.tenant_id = $1 and cost.entity_id = covered.entity_id
        and cost.allocation_date >= covered.first_date and cost.allocation_date < $4
        returning cost.*
    )
    insert into invoice_charges (
        tenant_id, id, invoice_id, entity_id, department_id, gl_code, supplier_id, day,
        original_amount, original_currency_code, booked_amount, booked_currency_code,
        first_date, last_date, allocation_ids
    )
    select $1, uuidv7(), $5, cost.entity_id, cost.department_id, cost.gl_code, supplier.entity_id,
        case when $6 then cost.allocation_date end,
        sum(cost.amount), cost.currency_code, sum(cost.entity_amount), cost.entity_currency_code,
        min(cost.allocation_date), max(cost.allocation_date), array_agg(cost.allocation_id)
    from taken cost left join covered supplier on supplier.entity_id = cost.counterparty_entity_id
    group by 4, 5, 6, 7, 8, cost.currency_code, cost.entity_currency_code
    returning id, entity_id, department_id, gl_code, supplier_id, day, original_amount, original_currency_code,
        booked_amount, booked_currency_code, first_date, last_date, cardinality(allocation_ids) as item_count"""

_PUT_BACK: Final = """
    insert into unbilled_allocations (
        tenant_id, entity_id, allocation_date, allocation_id, department_id, gl_code, counterparty_entity_id, amount,
        currency_code, entity_amount, entity_currency_code
    )
    select cost.tenant_id, cost.entity_id, cost.allocation_date, cost.id, cost.department_id, cost.gl_code,
        cost.counterparty_entity_id, cost.amount, cost.currency_code, cost.entity_amount, cost.entity_currency_code
    from invoice_charges charge cross join lateral unnest(charge.allocation_ids) as each(id)
    join cost_allocations cost on cost.tenant_id = $1 and cost.id = each.id
    where charge.tenant_id = $1 and charge.invoice_id = $2"""


async def take(
    tx: WriteSession, invoice_id: UUID, first_days: Mapping[UUID, date], end: date, *, by_day: bool, day: date
) -> Sequence[Charge]:
    """Take all unbilled allocations from the first day of each entity until before `end`, and return them as charges.

    Charges of one day each if `by_day`; otherwise they are converted on `day`. A concurrent transaction can't take the
    same allocations. Raises InvoiceAmountTooLarge.
    """
    await tx.fetch(_SORT_IN_MEMORY)
    values = tx.tenant_id, list(first_days), list(first_days.values()), end, invoice_id, by_day
    try:
        rows = await tx.fetch(_TAKE, *values)
    except asyncpg.NumericValueOutOfRangeError as error:
        raise InvoiceAmountTooLarge from error
    return [_charge(row, day) for row in rows]


def _charge(row: Any, day: date) -> Charge:
    return Charge(
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


async def put_back(tx: WriteSession, invoice_id: UUID) -> None:
    """Make the allocations that an invoice took unbilled again."""
    await tx.fetch(_PUT_BACK, tx.tenant_id, invoice_id)


_SUMS: Final = """
    select cost.entity_id, cost.department_id, cost.gl_code, cost.currency_code, sum(cost.amount) as amount,
        count(*) as allocations, min(cost.allocation_date) as first_date, max(cost.allocation_date) as last_date
    from unbilled_allocations cost
    where cost.tenant_id = $1 and cost.entity_id = any($2) and cost.entity_id >= $3
    and (cost.entity_id, coalesce(cost.department_id, $7), cost.gl_code, cost.currency_code) > ($3, $4, $5, $6)
    group by cost.entity_id, cost.department_id, cost.gl_code, cost.currency_code
    order by cost.entity_id, coalesce(cost.department_id, $7), cost.gl_code, cost.currency_code
    limit $8"""
_NO_DEPARTMENT: Final = UUID(int=0)
_BEGINNING: Final = CostPosition(UUID(int=0), _NO_DEPARTMENT, "", "")
"""Before every sum of costs."""

_TOTALS: Final = """
    select cost.currency_code, sum(cost.amount) as amount, count(*) as allocations
    from unbilled_allocations cost
    where cost.tenant_id = $1 and cost.entity_id = any($2)
    group by cost.currency_code order by cost.currency_code"""


async def list_sums(
    tx: ReadSession, entity_ids: Collection[UUID], after: CostPosition | None, limit: int
) -> Sequence[UnbilledItem]:
    """Return the next sums of unbilled allocations by entity, department, GL code and currency."""
    position = after or _BEGINNING
    rows = await tx.fetch(_SUMS, tx.tenant_id, list(entity_ids), *position, _NO_DEPARTMENT, limit)
    return [
        UnbilledItem(
            kind=UnbilledKind.ALLOCATIONS,
            entity_id=row["entity_id"],
            department_id=row["department_id"],
            gl_code=row["gl_code"],
            amount=Money(row["amount"], row["currency_code"]),
            item_count=row["allocations"],
            first_date=row["first_date"],
            last_date=row["last_date"],
        )
        for row in rows
    ]


async def sum_by_currency(tx: ReadSession, entity_ids: Collection[UUID]) -> Sequence[CurrencySum]:
    """Return the sums of the unbilled allocations by currency, sorted."""
    rows = await tx.fetch(_TOTALS, tx.tenant_id, list(entity_ids))
    return [CurrencySum(Money(row["amount"], row["currency_code"]), row["allocations"]) for row in rows]
