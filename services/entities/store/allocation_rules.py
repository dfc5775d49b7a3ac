"""SQL for allocation rules, their targets, and the weights of targets."""

from collections.abc import Collection, Mapping, Sequence
from datetime import date
from decimal import Decimal
from uuid import UUID

from sqlalchemy import ColumnElement, Select, delete, func, or_, select

from kit.db import ReadSession, WriteSession, found
from services.entities.domain.allocation_rules import (
    AllocationRuleFilter,
    AllocationRuleState,
    RuleLink,
    SplitTarget,
)
from services.entities.errors.allocation_rules import AllocationRuleNotFound
from services.entities.models.allocation_rules import AllocationRuleRow, AllocationTargetRow
from services.entities.models.allocations import AllocationRow
from services.entities.models.entities import DepartmentRow
from serving.pages import Page, Slice


def _visible(tx: ReadSession) -> Select[AllocationRuleRow]:
    """Select the rules that the caller may see: those whose departments are all covered."""
    query = select(AllocationRuleRow)
    if tx.scope is None:
        return query
    covered = tx.scope.department_ids  # includes those of the covered entities
    source = AllocationRuleRow.source_department_id
    outside = select(AllocationTargetRow.id).where(
        AllocationTargetRow.rule_id == AllocationRuleRow.id, AllocationTargetRow.department_id.not_in(covered)
    )
    return query.where(~outside.exists(), or_(source.is_(None), source.in_(covered)))


async def get(tx: ReadSession, rule_id: UUID) -> AllocationRuleRow:
    """Return the rule. Raises AllocationRuleNotFound."""
    query = _visible(tx).where(AllocationRuleRow.id == rule_id)
    return found(await tx.one_or_none(query), AllocationRuleNotFound(rule_id))


async def lock(tx: WriteSession, rule_id: UUID) -> AllocationRuleRow:
    """Return the rule, locked until the transaction ends. Raises AllocationRuleNotFound."""
    query = _visible(tx).where(AllocationRuleRow.id == rule_id).with_for_update(key_share=True)
    return found(await tx.one_or_none(query), AllocationRuleNotFound(rule_id))


async def lock_shared(tx: WriteSession, rule_id: UUID) -> AllocationRuleRow:
    """Return the rule, protected from changes until the transaction ends. Raises AllocationRuleNotFound."""
    query = _visible(tx).where(AllocationRuleRow.id == rule_id).with_for_update(read=True)
    return found(await tx.one_or_none(query), AllocationRuleNotFound(rule_id))


async def lock_all(tx: WriteSession) -> None:
    """Prevent other transactions of the tenant from changing the set of rules until this one ends.

    Two rules that conflict may both be new, so row locks are not enough.
    """
    await tx.lock("allocation rules")


async def insert(tx: WriteSession, rule: AllocationRuleRow) -> None:
    """Insert a rule; the row then has its id and etag."""
    tx.add(rule)
    await tx.flush()


async def save(tx: WriteSession) -> None:
    """Write the changes of locked rules."""
    await tx.flush()


async def list_page(tx: ReadSession, page: Page, filters: AllocationRuleFilter) -> Slice[AllocationRuleRow]:
    """Return one page of the rules that match all filters, oldest first."""
    query = _visible(tx)
    if filters.state is not None:
        query = query.where(AllocationRuleRow.state == filters.state)
    if filters.rule_type is not None:
        query = query.where(AllocationRuleRow.rule_type == filters.rule_type)
    if filters.target_department_id is not None:
        query = query.where(AllocationRuleRow.id.in_(_rules_with_targets([filters.target_department_id])))
    if filters.source_department_id is not None:
        query = query.where(AllocationRuleRow.source_department_id == filters.source_department_id)
    if filters.category:
        query = query.where(AllocationRuleRow.category == filters.category)
    if filters.effective_on is not None:
        query = query.where(*_effective_on(filters.effective_on))
    return await page.fetch(tx, query, AllocationRuleRow.id)


def _rules_with_targets(department_ids: Collection[UUID]) -> Select[UUID]:
    return select(AllocationTargetRow.rule_id).where(AllocationTargetRow.department_id.in_(department_ids))


def _effective_on(day: date) -> Sequence[ColumnElement[bool]]:
    end = AllocationRuleRow.effective_to
    return AllocationRuleRow.effective_from <= day, or_(end.is_(None), end > day)


async def find_targets(tx: ReadSession, rule_ids: Collection[UUID]) -> Mapping[UUID, Sequence[AllocationTargetRow]]:
    """Return the targets of each rule, in their order."""
    query = select(AllocationTargetRow).where(AllocationTargetRow.rule_id.in_(rule_ids))
    targets: dict[UUID, list[AllocationTargetRow]] = {rule_id: [] for rule_id in rule_ids}
    for row in await tx.all(query.order_by(AllocationTargetRow.rule_id, AllocationTargetRow.position)):
        targets[row.rule_id].append(row)
    return targets


async def get_targets(tx: ReadSession, rule_id: UUID) -> Sequence[AllocationTargetRow]:
    """Return the targets of the rule, in their order."""
    return (await find_targets(tx, [rule_id]))[rule_id]


async def replace_targets(
    tx: WriteSession, rule_id: UUID, targets: Sequence[SplitTarget]
) -> Sequence[AllocationTargetRow]:
    """Replace the targets of the rule."""
    await tx.execute(delete(AllocationTargetRow).where(AllocationTargetRow.rule_id == rule_id))
    rows = [
        AllocationTargetRow(
            rule_id=rule_id,
            position=position,
            department_id=target.department_id,
            percent_bp=target.percent_bp,
            weight=target.weight,
        )
        for position, target in enumerate(targets)
    ]
    for row in rows:
        tx.add(row)
    await tx.flush()
    return rows


async def find_links(tx: ReadSession, *, sources: Collection[UUID], target: UUID | None) -> Sequence[RuleLink]:
    """Return the active rules whose source is one of `sources` or which have `target` as a target.

    The caller's scope is ignored, since rules outside of it can be part of a chain, too.
    """
    linked = [AllocationRuleRow.source_department_id.in_(sources)]
    if target is not None:
        linked.append(AllocationRuleRow.id.in_(_rules_with_targets([target])))
    query = select(AllocationRuleRow).where(AllocationRuleRow.state == AllocationRuleState.ACTIVE, or_(*linked))
    rules = await tx.all(query.order_by(AllocationRuleRow.id))
    targets = await find_targets(tx, [rule.id for rule in rules])
    return [RuleLink(rule.id, rule.scope, tuple(row.department_id for row in targets[rule.id])) for rule in rules]


async def find_headcounts(tx: ReadSession, department_ids: Collection[UUID]) -> Mapping[UUID, int]:
    """Return the current headcount of each department."""
    query = select(DepartmentRow.id, DepartmentRow.headcount).where(DepartmentRow.id.in_(department_ids))
    return {id: headcount for id, headcount in await tx.rows(query)}  # noqa: C416 - a row is not a pair for mypy


async def sum_usage(
    tx: ReadSession, department_ids: Collection[UUID], *, unit: str, category: str, start: date, end: date
) -> Mapping[UUID, Decimal]:
    """Return the quantity of `unit` allocated to each department itself from `start` until before `end`.

    Reversals are negative. Departments without such allocations are left out.
    """
    query = select(AllocationRow.department_id, func.sum(AllocationRow.quantity)).where(
        AllocationRow.department_id.in_(department_ids),
        AllocationRow.allocation_date >= start,
        AllocationRow.allocation_date < end,
        AllocationRow.unit == unit,
        AllocationRow.quantity.is_not(None),
    )
    if category:
        query = query.where(AllocationRow.category == category)
    sums = await tx.rows(query.group_by(AllocationRow.department_id))
    return {id: quantity for id, quantity in sums if id and quantity is not None}
