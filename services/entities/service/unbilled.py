"""Use cases of what no invoice has taken."""

import asyncio
from collections.abc import Collection, Sequence
from datetime import date, timedelta
from typing import Final
from uuid import UUID

from kit import clock, dates
from kit.db import ReadSession
from services.entities import domain, store
from services.entities.domain.proration import DateRange
from services.entities.domain.unbilled import Unbilled, UnbilledItem, UnbilledQuery

_CONTRACTS_AT_ONCE: Final = 50
"""Contracts whose fees are computed before other calls run."""


async def list_page(tx: ReadSession, query: UnbilledQuery) -> Unbilled:
    """Return a page of what no invoice has taken, costs before fees, and the totals of all pages.

    `tx` must be a snapshot for the totals to fit to what invoices have billed. Raises EntityNotFound.
    """
    entity = await store.entities.get(tx, query.entity_id)
    entity_codes = {entity.id: entity.code}
    if query.include_descendants:
        nodes = await store.hierarchies.get(tx, entity.id, depth_max=0)
        below = await store.hierarchies.find_columns(tx, [node.id for node in nodes])
        entity_codes = {each.id: each.code for each in below}
    entity_ids = list(entity_codes)
    as_of = query.as_of or dates.date_in(entity.time_zone, clock.now())
    fees = await _find_fees(tx, entity_ids, as_of)
    if isinstance(query.after, UUID):
        items = [item for item in fees if item.contract_id and item.contract_id > query.after]
    else:
        items = [*await store.unbilled.list_sums(tx, entity_ids, query.after, query.limit), *fees]
    return Unbilled(
        as_of=as_of,
        items=items[: query.limit],
        totals=domain.unbilled.sum_totals(await store.unbilled.sum_by_currency(tx, entity_ids), fees),
        entity_codes=entity_codes,
    )


async def _find_fees(tx: ReadSession, entity_ids: Collection[UUID], as_of: date) -> Sequence[UnbilledItem]:
    """Return the unbilled fees of each contract that has some, in the order of the contracts' ids."""
    until = as_of + timedelta(days=1)
    contracts = await store.invoices.find_contracts(tx, entity_ids, until)
    billed = await store.invoices.sum_billed_fees(tx, [contract.id for contract in contracts])
    items = []
    for number, contract in enumerate(contracts):
        if number % _CONTRACTS_AT_ONCE == 0:
            await asyncio.sleep(0)
        period = DateRange(contract.start_date, until)
        plan = domain.fees.build_plan(contract.terms, contract.termination_date)
        due = domain.fees.fees_due(plan, period)
        changes = domain.consolidation.fees_to_bill(due, billed.get(contract.id, {}), period)
        if changes:
            items.append(domain.unbilled.fees_item(contract.entity_id, contract.id, contract.contract_number, changes))
    return items
