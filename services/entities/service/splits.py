"""What can be done to split costs, as a finance person would say it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from decimal import Decimal
from uuid import UUID

from kit import ids
from kit.db import ReadSession, WriteSession
from kit.money import Money
from services.entities import domain, service, store
from services.entities.domain.allocation_rules import Link, Reach, RuleAction, RuleBasis, RuleType, Terms
from services.entities.domain.allocations import AllocationDraft, AllocationSource
from services.entities.domain.field_violations import FieldViolation
from services.entities.domain.splits import Share
from services.entities.errors.allocation_rules import AllocationIsShare
from services.entities.models.allocation_rules import AllocationRuleRow, CostSplitRow, ShareRecord
from services.entities.models.entities import DepartmentRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What is to be split."""

    amount: Money
    allocation_date: date
    category: str
    gl_code: str
    """Empty: each department's usual one."""
    description: str
    source_ref: str
    source_department_id: UUID | None
    """Whose cost it was; None: nobody's in particular, or that of an entity as a whole."""
    source_entity_id: UUID | None = None
    """The entity whose cost it was as a whole."""
    counterparty_entity_id: UUID | None = None
    """The entity of the group that supplied it."""


@dataclass(frozen=True, slots=True)
class Period:
    """Days from `start` until before `end`."""

    start: date
    end: date


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitAsk:
    """A split as it is asked for: one of `rule_id` and `terms` is given, and one of `cost` and `allocation_id`."""

    rule_id: UUID | None
    terms: Terms | None
    cost: Cost | None
    allocation_id: UUID | None
    description: str
    """Empty: that of the allocation."""
    usage: Period | None
    """Whose usage is weighed; None: the month of the cost."""

    @property
    def source_ref(self) -> str:
        """The name of the cost, under which it is split once."""
        return self.cost.source_ref if self.cost else ids.ALLOCATION.format_optional(self.allocation_id)


async def split(tx: WriteSession, ask: SplitAsk) -> CostSplitRow:
    """Split a cost and allocate to each target what it bears; a cost is split once.

    With an allocation that one is reversed, and what it was is split.
    """
    await store.allocation_rules.hold_split(tx, ask.source_ref)
    rule, terms, cost = await _terms_for(tx, ask, ask.cost or await _taken_back(tx, ask))
    named = service.allocation_rules.places_of(terms.targets, cost.source_department_id, path="" if rule else "terms.")
    departments = await service.allocation_rules.find_all_departments(tx, named)
    await _check_goes_no_further(tx, rule, terms, cost)
    usage = (
        (ask.usage or Period(*domain.allocation_rules.month_of(cost.allocation_date)))
        if terms.basis is RuleBasis.USAGE
        else None
    )
    shares = domain.splits.split_money(cost.amount, await _weigh(tx, terms, usage))
    rows = await service.allocations.allocate(tx, list(_drafts(cost, terms, shares, departments)))
    allocated = {row.department_id: row.id for row in rows}
    split = CostSplitRow(
        source_ref=cost.source_ref,
        rule_id=rule.id if rule else None,
        rule_version=rule.version if rule else None,
        rule_type=terms.rule_type,
        basis=terms.basis,
        amount=cost.amount.amount,
        currency_code=cost.amount.currency,
        allocation_date=cost.allocation_date,
        category=cost.category,
        gl_code=cost.gl_code,
        description=cost.description,
        source_department_id=cost.source_department_id,
        split_allocation_id=ask.allocation_id,
        usage_start=usage.start if usage else None,
        usage_end=usage.end if usage else None,
        shares=[
            _record(departments[target.department_id], share, allocated.get(target.department_id))
            for target, share in zip(terms.targets, shares, strict=True)
        ],
        department_ids=list(departments),
    )
    await store.allocation_rules.save_split(tx, split)
    return split


async def _taken_back(tx: WriteSession, ask: SplitAsk) -> Cost:
    """Reverse the allocation that is to be split, and give what it was; raises AllocationIsShare."""
    if ask.allocation_id is None:
        raise ValueError("there is nothing to split")
    row = await store.allocations.get(tx, ask.allocation_id)
    if row.source is AllocationSource.SPLIT:
        raise AllocationIsShare(row.id)
    await service.allocations.reverse(tx, row.id, reason="Split over departments")
    return Cost(
        amount=row.money,
        allocation_date=row.allocation_date,
        category=row.category,
        gl_code=row.gl_code,
        description=ask.description or row.description,
        source_ref=ask.source_ref,
        source_department_id=row.department_id,
        source_entity_id=row.entity_id,
        counterparty_entity_id=row.counterparty_entity_id,
    )


async def _terms_for(tx: WriteSession, ask: SplitAsk, cost: Cost) -> tuple[AllocationRuleRow | None, Terms, Cost]:
    """The rule, if there is one, its terms or those of the request, and the cost with its source."""
    if ask.terms is not None:
        violations = [
            violation._replace(field=f"terms.{violation.field}")
            for violation in domain.allocation_rules.terms_violations(ask.terms)
        ]
        service.field_violations.raise_any([*violations, *_source_violations(ask.terms, cost)])
        return None, ask.terms, cost
    if ask.rule_id is None:
        raise ValueError("there is nothing to split by")
    rule = await store.allocation_rules.lock_shared(tx, ask.rule_id)
    domain.allocation_rules.advance(rule.id, rule.state, RuleAction.APPLY)
    domain.allocation_rules.check_applies(
        rule.id,
        rule.reach,
        day=cost.allocation_date,
        category=cost.category,
        source_department_id=cost.source_department_id,
    )
    terms = rule.terms((await store.allocation_rules.find_targets(tx, [rule.id]))[rule.id])
    source_id, category = cost.source_department_id or rule.source_department_id, cost.category or rule.category
    return rule, terms, replace(cost, source_department_id=source_id, category=category)


def _source_violations(terms: Terms, cost: Cost) -> Iterator[FieldViolation]:
    for place, target in enumerate(terms.targets):
        if target.department_id == cost.source_department_id:
            field = f"terms.targets[{place}].department_id"
            yield FieldViolation(field, "is the source, whose costs are split", "target.source")


async def _check_goes_no_further(tx: WriteSession, rule: AllocationRuleRow | None, terms: Terms, cost: Cost) -> None:
    """Raise AllocationRulesChain where a target is the source of another rule that splits such a cost on that day."""
    if cost.source_department_id is None:
        return
    day, targets = cost.allocation_date, tuple(target.department_id for target in terms.targets)
    reach = Reach(
        source_department_id=cost.source_department_id,
        category=cost.category,
        effective_from=day,
        effective_to=day + timedelta(days=1),
    )
    others = await store.allocation_rules.find_links(tx, sources=targets, target=None)
    service.allocation_rules.refuse_chain(tx, Link(rule.id if rule else None, reach, targets), others)


async def _weigh(tx: ReadSession, terms: Terms, usage: Period | None) -> Sequence[Decimal]:
    """What each of the targets weighs, in their order."""
    department_ids = [target.department_id for target in terms.targets]
    if terms.rule_type is RuleType.FIXED_PERCENT:
        return [Decimal(target.percent_bp) for target in terms.targets]
    if terms.basis is RuleBasis.GIVEN:
        return [target.weight or Decimal(0) for target in terms.targets]
    if terms.basis is RuleBasis.HEADCOUNT:
        headcounts = await store.allocation_rules.find_headcounts(tx, department_ids)
        return [Decimal(headcounts[department_id]) for department_id in department_ids]
    if usage is not None:
        summed = await store.allocation_rules.sum_usage(
            tx,
            department_ids,
            unit=terms.usage_unit,
            category=terms.usage_category,
            start=usage.start,
            end=usage.end,
        )
        return [summed.get(department_id, Decimal(0)) for department_id in department_ids]
    return [Decimal(1)] * len(department_ids)


def _drafts(
    cost: Cost, terms: Terms, shares: Sequence[Share], departments: Mapping[UUID, DepartmentRow]
) -> Iterator[AllocationDraft]:
    """What is allocated to whom: nothing to those who bear nothing."""
    for target, share in zip(terms.targets, shares, strict=True):
        department = departments[target.department_id]
        if share.amount.amount:
            yield AllocationDraft(
                entity_id=department.entity_id,
                department_id=department.id,
                category=cost.category,
                source=AllocationSource.SPLIT,
                source_ref=f"{cost.source_ref}/{ids.DEPARTMENT.format(department.id)}",
                amount=share.amount,
                quantity=None,
                unit="",
                gl_code=cost.gl_code,
                counterparty_entity_id=_supplier(cost, department.entity_id, departments),
                allocation_date=cost.allocation_date,
                description=cost.description,
            )


def _supplier(cost: Cost, entity_id: UUID, departments: Mapping[UUID, DepartmentRow]) -> UUID | None:
    """The entity that passes the cost on to `entity_id`; within one entity, who supplied it before, if anybody."""
    source = departments[cost.source_department_id].entity_id if cost.source_department_id else cost.source_entity_id
    return source if source not in {None, entity_id} else cost.counterparty_entity_id


def _record(department: DepartmentRow, share: Share, allocation_id: UUID | None) -> ShareRecord:
    return ShareRecord(
        department_id=ids.DEPARTMENT.format(department.id),
        entity_id=ids.ENTITY.format(department.entity_id),
        weight=f"{share.weight.normalize():f}",
        fraction=str(share.fraction),
        amount=share.amount.text(),
        allocation_id=ids.ALLOCATION.format_optional(allocation_id),
    )
