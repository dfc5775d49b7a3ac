"""SQL for the queue of allocations that no invoice has taken, and for the charges that invoices made of them."""

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, Final
from uuid import UUID

from kit.db import ReadSession, WriteSession
from kit.money import Money
from services.entities.domain.billing_documents import LineKind
from services.entities.domain.consolidation import Charge

_TAKE: Final = """
    with covered as (
        select * from unnest($2::uuid[], $3::date[]) as each(entity_id, first_date)
    ), taken as (
        delete from unbilled_allocations waiting using covered
        where waiting.tenant_id = $1 and waiting.entity_id = covered.entity_id
        and waiting.allocation_date >= covered.first_date and waiting.allocation_date < $4
        returning waiting.allocation_id
    )
    insert into invoice_charges (
        tenant_id, id, invoice_id, entity_id, department_id, gl_code, supplier_id, day,
        original_amount, original_currency_code, booked_amount, booked_currency_code,
        first_date, last_date, allocation_ids
    )
    select $1, uuidv7(), $5, cost.entity_id, cost.department_id, cost.gl_code, supplier.entity_id,
        case when $6 then cost.allocation_date end,
        sum(cost.amount), cost.currency_code, sum(cost.entity_amount), cost.entity_currency_code,
        min(cost.allocation_date), max(cost.allocation_date), array_agg(cost.id)
    from taken join cost_allocations cost on cost.tenant_id = $1 and cost.id = taken.allocation_id
    left join covered supplier on supplier.entity_id = cost.counterparty_entity_id
    group by 4, 5, 6, 7, 8, cost.currency_code, cost.entity_currency_code
    returning id, entity_id, department_id, gl_code, supplier_id, day, original_amount, original_currency_code,
        booked_amount, booked_currency_code, first_date, last_date, cardinality(allocation_ids) as item_count"""

_PUT_BACK: Final = """
    insert into unbilled_allocations (tenant_id, entity_id, allocation_date, allocation_id)
    select cost.tenant_id, cost.entity_id, cost.allocation_date, cost.id
    from invoice_charges charge cross join lateral unnest(charge.allocation_ids) as each(id)
    join cost_allocations cost on cost.tenant_id = $1 and cost.id = each.id
    where charge.tenant_id = $1 and charge.invoice_id = $2"""


async def take(
    tx: WriteSession, invoice_id: UUID, first_days: Mapping[UUID, date], end: date, *, by_day: bool, day: date
) -> Sequence[Charge]:
    """Take all unbilled allocations from the first day of each entity until before `end`, and return them as charges.

    Charges of one day each if `by_day`; otherwise they are converted on `day`. A concurrent transaction can't take the
    same allocations.
    """
    rows = await tx.fetch(_TAKE, tx.tenant_id, list(first_days), list(first_days.values()), end, invoice_id, by_day)
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


_TOTALS: Final = """
    select cost.entity_id, cost.currency_code, sum(cost.amount) as amount, count(*) as allocations,
        min(cost.allocation_date) as first_date, max(cost.allocation_date) as last_date
    from unbilled_allocations waiting
    join cost_allocations cost on cost.tenant_id = waiting.tenant_id and cost.id = waiting.allocation_id
    where waiting.tenant_id = $1 and waiting.entity_id = any($2)
    group by cost.entity_id, cost.currency_code order by cost.entity_id, cost.currency_code"""


async def sum_waiting(tx: ReadSession, entity_ids: Sequence[UUID]) -> Sequence[Any]:
    """Return the sums of the unbilled allocations by entity and currency."""
    return await tx.fetch(_TOTALS, tx.tenant_id, list(entity_ids))
