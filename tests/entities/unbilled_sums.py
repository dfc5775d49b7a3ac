"""Sums of allocations and fees, by what invoices have billed and what is unbilled, in one snapshot."""

import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from datetime import date, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from kit.db import Database, ReadSession
from kit.origin import Origin
from services.entities import domain, service, store
from services.entities.domain.unbilled import UnbilledKind, UnbilledQuery

Key = tuple[UUID, str]
"""Entity and currency."""
Sums = Mapping[Key, tuple[Decimal, int]]
"""Amount and number of allocations."""

_ALLOCATED: Final = """
    select entity_id, currency_code, sum(amount) as amount, count(*) as number
    from cost_allocations group by entity_id, currency_code"""
_BILLED: Final = """
    select billed.entity_id, billed.currency_code, sum(amount) as amount, sum(billed.item_count) as number from (
        select invoice_id, entity_id, original_currency_code as currency_code, original_amount as amount,
            item_count
        from invoice_lines where kind = 'ALLOCATIONS'
        union all
        select invoice_id, buyer_entity_id, original_currency_code, original_amount, allocation_count
        from invoice_eliminations
    ) billed join consolidated_invoices invoice on invoice.id = billed.invoice_id and invoice.state <> 'VOID'
    group by billed.entity_id, billed.currency_code"""
_BILLED_FEES: Final = """
    select line.entity_id, line.original_currency_code as currency_code, sum(line.original_amount) as amount,
        sum(line.item_count) as number
    from invoice_lines line join consolidated_invoices invoice on invoice.id = line.invoice_id
    where line.kind = 'CONTRACT_FEE' and invoice.state <> 'VOID' group by 1, 2"""
_EVERYTHING: Final = 1_000_000


async def check_sums(db: Database, origin: Origin, entity_id: UUID, as_of: date) -> tuple[int, int]:
    """Check that billed + unbilled = allocated, and the same for fees, by entity and currency.

    All of it is read in one snapshot. Returns the numbers of billed and unbilled allocations.
    """
    async with db.read(replace(origin, deadline=time.monotonic() + 30), snapshot=True) as tx:
        query = UnbilledQuery(entity_id=entity_id, include_descendants=True, as_of=as_of, after=None, limit=_EVERYTHING)
        unbilled = await service.unbilled.list_page(tx, query)
        allocated, billed = await _sums(tx, _ALLOCATED), await _sums(tx, _BILLED)
        billed_fees = await _sums(tx, _BILLED_FEES)
        due = await _fees_due(tx, list(unbilled.entity_codes), as_of)
    waiting = defaultdict[Key, tuple[Decimal, int]](lambda: (Decimal(0), 0))
    waiting_fees = defaultdict[Key, Decimal](Decimal)
    for item in unbilled.items:
        key = item.entity_id, item.amount.currency
        if item.kind is UnbilledKind.CONTRACT_FEES:
            waiting_fees[key] += item.amount.amount
        else:
            waiting[key] = waiting[key][0] + item.amount.amount, waiting[key][1] + item.item_count
    for key in {*allocated, *billed, *waiting}:
        of_invoices, zero = billed.get(key, (Decimal(0), 0)), (Decimal(0), 0)
        total = of_invoices[0] + waiting[key][0], of_invoices[1] + waiting[key][1]
        assert total == allocated.get(key, zero), (key, of_invoices, waiting[key], allocated.get(key))
    for key in {*due, *billed_fees, *waiting_fees}:
        billed_fee = billed_fees.get(key, (Decimal(0), 0))[0]
        assert billed_fee + waiting_fees[key] == due.get(key, Decimal(0)), (key, billed_fee, waiting_fees[key])
    for each in unbilled.totals:
        by_currency = [amount for (_, currency), (amount, _) in waiting.items() if currency == each.currency]
        assert each.allocated.amount.amount == sum(by_currency)
    return sum(number for _, number in billed.values()), sum(number for _, number in waiting.values())


async def _sums(tx: ReadSession, statement: str) -> Sums:
    rows: Any = await tx.fetch(statement)
    return {(row["entity_id"], row["currency_code"]): (row["amount"], int(row["number"])) for row in rows}


async def _fees_due(tx: ReadSession, entity_ids: list[UUID], as_of: date) -> Mapping[Key, Decimal]:
    """Everything that has fallen due, whether it was billed or not."""
    until, due = as_of + timedelta(days=1), defaultdict[Key, Decimal](Decimal)
    for contract in await store.invoices.find_contracts(tx, entity_ids, until):
        plan = domain.fees.build_plan(contract.terms, contract.termination_date)
        amount = domain.fees.total_due(plan, until)
        due[contract.entity_id, amount.currency] += amount.amount
    return due
