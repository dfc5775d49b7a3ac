"""SQL for the minimum commitments of contracts, and for the costs that count for them."""

from collections.abc import Collection, Mapping, Sequence
from datetime import date
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, and_, case, false, func, or_, select, union_all
from sqlalchemy.orm import InstrumentedAttribute, aliased

from kit.db import ReadSession, scope_filter
from kit.money import Money
from services.entities import domain
from services.entities.domain.allocations import AllocationSource
from services.entities.domain.commitments import Commitment, UsageQuery
from services.entities.domain.proration import DateRange
from services.entities.models.allocations import AllocationRow
from services.entities.models.contracts import ContractRow

_DAYS = ContractRow.start_date, ContractRow.end_date, ContractRow.termination_date
_ACTIVATED = ContractRow.activate_time.is_not(None)


class LinkedContract(NamedTuple):
    """The columns of a contract that the link of a cost to it depends on."""

    entity_id: UUID
    activated: bool
    days: DateRange


async def find_linked(tx: ReadSession, contract_ids: Collection[UUID]) -> Mapping[UUID, LinkedContract]:
    """Return those of the contracts that the caller may see, by id."""
    if not contract_ids:
        return {}
    query = select(ContractRow.id, ContractRow.entity_id, _ACTIVATED, *_DAYS).where(ContractRow.id.in_(contract_ids))
    covered = scope_filter(tx.scope, ContractRow.entity_id)
    rows = await tx.rows(query if covered is None else query.where(covered))
    return {
        id: LinkedContract(entity_id, activated, domain.commitments.days_in_force(start, end, termination))
        for id, entity_id, activated, start, end, termination in rows
    }


async def list_activated(tx: ReadSession, entity_id: UUID) -> Sequence[Commitment]:
    """Return the commitments of the entity that are or were in force, oldest first, also outside of the scope."""
    query = select(ContractRow.id, *_DAYS).where(
        ContractRow.entity_id == entity_id, ContractRow.minimum_commitment.is_not(None), _ACTIVATED
    )
    rows = await tx.rows(query.order_by(ContractRow.id))
    return [
        Commitment(id, domain.commitments.days_in_force(start, end, termination))
        for id, start, end, termination in rows
    ]


async def sum_usage(tx: ReadSession, query: UsageQuery) -> Sequence[Money]:
    """Return the costs that count for the commitment, one amount per currency.

    A reversal or credit of unlinked usage counts for the commitment that the usage counts for, whatever its own day is.
    The caller's scope is not applied: access to the contract includes access to its usage.
    """
    exact = AllocationRow.currency_code == query.currency
    amount = case((exact, AllocationRow.amount), else_=AllocationRow.entity_amount).label("amount")
    currency = case((exact, AllocationRow.currency_code), else_=AllocationRow.entity_currency_code).label("currency")
    usage = (
        AllocationRow.entity_id == query.entity_id,
        AllocationRow.source == AllocationSource.USAGE,
        AllocationRow.contract_id.is_(None),
    )
    day, corrected = AllocationRow.allocation_date, aliased(AllocationRow)
    corrected_id = func.coalesce(AllocationRow.reversal_of, AllocationRow.credit_of)
    since = query.unlinked[0].start if query.unlinked else date.max  # no correction is dated before its cost
    costs = union_all(
        select(amount, currency).where(AllocationRow.contract_id == query.contract_id),
        select(amount, currency).where(*usage, corrected_id.is_(None), _within(day, query.unlinked)),
        select(amount, currency)
        .join(corrected, corrected.id == corrected_id)
        .where(*usage, corrected_id.is_not(None), day >= since, _within(corrected.allocation_date, query.unlinked)),
    ).subquery()
    sums = select(costs.c.currency, func.sum(costs.c.amount)).group_by(costs.c.currency).order_by(costs.c.currency)
    return [Money(total, currency) for currency, total in await tx.rows(sums)]


def _within(day: InstrumentedAttribute[date], ranges: Sequence[DateRange]) -> ColumnElement[bool]:
    """Return the condition that the day is in one of the ranges, which are in order."""
    if not ranges:
        return false()
    # The outer bounds let the index on the entity and the day be used for several ranges, too.
    bounds = day >= ranges[0].start, day < ranges[-1].end
    return and_(*bounds, or_(*(and_(day >= each.start, day < each.end) for each in ranges)))
