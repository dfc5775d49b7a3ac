"""Allocation rules, what their targets weigh, and what was split."""

from collections.abc import Collection, Mapping, Sequence
from datetime import date
from decimal import Decimal
from uuid import UUID

from sqlalchemy import ColumnElement, Select, Uuid, delete, func, literal, or_, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.exc import IntegrityError

from kit.db import ReadSession, WriteSession, constraint_name
from services.entities.domain.allocation_rules import Link, RuleState, RuleType, Target
from services.entities.errors.allocation_rules import AllocationRuleNotFound, CostAlreadySplit
from services.entities.models.allocation_rules import AllocationRuleRow, AllocationTargetRow, CostSplitRow
from services.entities.models.allocations import AllocationRow
from services.entities.models.entities import DepartmentRow
from serving.pages import Page, Slice


def _visible_rules(tx: ReadSession) -> Select[AllocationRuleRow]:
    """Rules that the caller may see: those whose departments are all covered."""
    wanted = select(AllocationRuleRow)
    if tx.scope is None:
        return wanted
    covered = tx.scope.department_ids  # which are also those of the entities that are covered
    source = AllocationRuleRow.source_department_id
    outside = select(AllocationTargetRow.id).where(
        AllocationTargetRow.rule_id == AllocationRuleRow.id, AllocationTargetRow.department_id.not_in(covered)
    )
    return wanted.where(~outside.exists(), or_(source.is_(None), source.in_(covered)))


async def get(tx: ReadSession, rule_id: UUID) -> AllocationRuleRow:
    """The rule; raises AllocationRuleNotFound."""
    return _found_rule(await tx.one_or_none(_visible_rules(tx).where(AllocationRuleRow.id == rule_id)), rule_id)


async def lock(tx: WriteSession, rule_id: UUID) -> AllocationRuleRow:
    """The rule, locked until the transaction ends; raises AllocationRuleNotFound."""
    locked = _visible_rules(tx).where(AllocationRuleRow.id == rule_id).with_for_update(key_share=True)
    return _found_rule(await tx.one_or_none(locked), rule_id)


async def lock_shared(tx: WriteSession, rule_id: UUID) -> AllocationRuleRow:
    """The rule, kept from changing until the transaction ends; raises AllocationRuleNotFound."""
    kept = _visible_rules(tx).where(AllocationRuleRow.id == rule_id).with_for_update(read=True)
    return _found_rule(await tx.one_or_none(kept), rule_id)


def _found_rule(rule: AllocationRuleRow | None, rule_id: UUID) -> AllocationRuleRow:
    if rule is None:
        raise AllocationRuleNotFound(rule_id)
    return rule


async def list_page(
    tx: ReadSession,
    page: Page,
    *,
    state: RuleState | None,
    rule_type: RuleType | None,
    target_department_id: UUID | None,
    source_department_id: UUID | None,
    category: str,
    effective_on: date | None,
) -> Slice[AllocationRuleRow]:
    """One page of the rules that fit all filters given, oldest first."""
    wanted = _visible_rules(tx)
    if state is not None:
        wanted = wanted.where(AllocationRuleRow.state == state)
    if rule_type is not None:
        wanted = wanted.where(AllocationRuleRow.rule_type == rule_type)
    if target_department_id is not None:
        wanted = wanted.where(AllocationRuleRow.id.in_(_rules_with_targets([target_department_id])))
    if source_department_id is not None:
        wanted = wanted.where(AllocationRuleRow.source_department_id == source_department_id)
    if category:
        wanted = wanted.where(AllocationRuleRow.category == category)
    if effective_on is not None:
        wanted = wanted.where(*_effective_on(effective_on))
    return page.slice(await tx.all(page.narrow(wanted, AllocationRuleRow.id)))


def _rules_with_targets(department_ids: Collection[UUID]) -> Select[UUID]:
    return select(AllocationTargetRow.rule_id).where(AllocationTargetRow.department_id.in_(department_ids))


def _effective_on(day: date) -> Sequence[ColumnElement[bool]]:
    until = AllocationRuleRow.effective_to
    return AllocationRuleRow.effective_from <= day, or_(until.is_(None), until > day)


async def find_targets(tx: ReadSession, rule_ids: Collection[UUID]) -> Mapping[UUID, Sequence[AllocationTargetRow]]:
    """The targets of the rules, by rule, in their order."""
    wanted = select(AllocationTargetRow).where(AllocationTargetRow.rule_id.in_(rule_ids))
    found: dict[UUID, list[AllocationTargetRow]] = {rule_id: [] for rule_id in rule_ids}
    for row in await tx.all(wanted.order_by(AllocationTargetRow.rule_id, AllocationTargetRow.position)):
        found[row.rule_id].append(row)
    return found


async def replace_targets(tx: WriteSession, rule_id: UUID, targets: Sequence[Target]) -> Sequence[AllocationTargetRow]:
    """Give the rule these targets in place of those that it has."""
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


async def lock_all(tx: WriteSession) -> None:
    """Let nobody else of the tenant change what rules there are until the transaction ends.

    Two rules that must not be there together may be new both, so that there is no row to lock.
    """
    name = f"allocation rules {tx.tenant_id}"
    await tx.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(name, 0))))


async def find_links(tx: ReadSession, *, sources: Collection[UUID], target: UUID | None) -> Sequence[Link]:
    """What the active rules do whose source is one of these, or which have this target; of the whole tenant.

    The caller's scope is not looked at: what goes in a circle does so also where they do not see all of it.
    """
    touched = [AllocationRuleRow.source_department_id.in_(sources)]
    if target is not None:
        touched.append(AllocationRuleRow.id.in_(_rules_with_targets([target])))
    wanted = select(AllocationRuleRow).where(AllocationRuleRow.state == RuleState.ACTIVE, or_(*touched))
    rules = await tx.all(wanted.order_by(AllocationRuleRow.id))
    targets = await find_targets(tx, [rule.id for rule in rules])
    return [Link(rule.id, rule.reach, tuple(row.department_id for row in targets[rule.id])) for rule in rules]


async def find_headcounts(tx: ReadSession, department_ids: Collection[UUID]) -> Mapping[UUID, int]:
    """How many people work in each of the departments today."""
    wanted = select(DepartmentRow.id, DepartmentRow.headcount).where(DepartmentRow.id.in_(department_ids))
    return {id: headcount for id, headcount in await tx.rows(wanted)}  # noqa: C416 - a row is not a pair for mypy


async def sum_usage(
    tx: ReadSession, department_ids: Collection[UUID], *, unit: str, category: str, start: date, end: date
) -> Mapping[UUID, Decimal]:
    """How much of `unit` was allocated to each of the departments itself from `start` until before `end`.

    Reversals count as what they take back. Departments without any are left out.
    """
    wanted = select(AllocationRow.department_id, func.sum(AllocationRow.quantity)).where(
        AllocationRow.department_id.in_(department_ids),
        AllocationRow.allocation_date >= start,
        AllocationRow.allocation_date < end,
        AllocationRow.unit == unit,
        AllocationRow.quantity.is_not(None),
    )
    if category:
        wanted = wanted.where(AllocationRow.category == category)
    summed = await tx.rows(wanted.group_by(AllocationRow.department_id))
    return {id: quantity for id, quantity in summed if id and quantity is not None}


async def hold_split(tx: WriteSession, source_ref: str) -> None:
    """Let nobody else split the cost of this name until the transaction ends; raises CostAlreadySplit."""
    name = f"cost split {tx.tenant_id} {source_ref}"
    await tx.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(name, 0))))
    if await tx.one_or_none(select(CostSplitRow.id).where(CostSplitRow.source_ref == source_ref)):
        raise CostAlreadySplit(source_ref)


async def save_split(tx: WriteSession, split: CostSplitRow) -> None:
    """Record that a cost was split; raises CostAlreadySplit where it was before."""
    ref = split.source_ref  # a flush that fails takes the row's values with it
    tx.add(split)
    try:
        await tx.flush()
    except IntegrityError as error:
        if constraint_name(error) in {"cost_splits_ref_key", "cost_splits_allocation_key"}:
            raise CostAlreadySplit(ref) from error
        raise


async def list_splits(
    tx: ReadSession, page: Page, *, rule_id: UUID | None, source_ref: str, start: date | None, end: date | None
) -> Slice[CostSplitRow]:
    """One page of the splits that fit all filters given, oldest first; `end` is the day after the last one."""
    wanted = select(CostSplitRow)
    if tx.scope is not None:
        wanted = wanted.where(
            CostSplitRow.department_ids.contained_by(literal(list(tx.scope.department_ids), ARRAY(Uuid)))
        )
    if rule_id is not None:
        wanted = wanted.where(CostSplitRow.rule_id == rule_id)
    if source_ref:
        wanted = wanted.where(CostSplitRow.source_ref == source_ref)
    if start is not None:
        wanted = wanted.where(CostSplitRow.allocation_date >= start)
    if end is not None:
        wanted = wanted.where(CostSplitRow.allocation_date < end)
    return page.slice(await tx.all(page.narrow(wanted, CostSplitRow.id)))
