"""What can be done with allocation rules, as a finance person would say it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any
from uuid import UUID

from kit import clock
from kit.db import ReadSession, WriteSession
from services.entities import domain, service, store
from services.entities.domain.allocation_rules import (
    Link,
    Reach,
    RuleAction,
    RuleBasis,
    RuleState,
    RuleType,
    Target,
    Terms,
)
from services.entities.errors.allocation_rules import AllocationDepartmentsNotFound, AllocationRulesChain
from services.entities.models.allocation_rules import AllocationRuleRow, AllocationTargetRow
from services.entities.models.entities import DepartmentRow


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleDraft:
    """An allocation rule as it is asked for."""

    name: str
    rule_type: RuleType
    basis: RuleBasis | None
    usage_unit: str
    usage_category: str
    targets: tuple[Target, ...]
    source_department_id: UUID | None
    category: str
    effective_from: date
    effective_to: date | None

    @property
    def terms(self) -> Terms:
        """Over whom it splits costs."""
        return Terms(
            rule_type=self.rule_type,
            basis=self.basis,
            usage_unit=self.usage_unit,
            usage_category=self.usage_category,
            targets=self.targets,
        )

    @property
    def reach(self) -> Reach:
        """Which costs it splits."""
        return Reach(
            source_department_id=self.source_department_id,
            category=self.category,
            effective_from=self.effective_from,
            effective_to=self.effective_to,
        )


@dataclass(frozen=True, slots=True)
class Rule:
    """An allocation rule and its targets, in their order."""

    row: AllocationRuleRow
    targets: Sequence[AllocationTargetRow]


async def create(tx: WriteSession, draft: RuleDraft) -> Rule:
    """Create a rule that goes together, over departments that the caller sees, and that chains with no other."""
    await _check(tx, draft)
    await _check_chains_with_none(tx, None, draft)
    row = AllocationRuleRow(**_columns(draft), state=RuleState.ACTIVE)
    tx.add(row)
    await tx.flush()
    return Rule(row, await store.allocation_rules.replace_targets(tx, row.id, draft.targets))


async def get(tx: ReadSession, rule_id: UUID) -> Rule:
    """The rule with its targets; raises AllocationRuleNotFound."""
    row = await store.allocation_rules.get(tx, rule_id)
    return Rule(row, (await store.allocation_rules.find_targets(tx, [rule_id]))[rule_id])


async def update(tx: WriteSession, rule_id: UUID, changes: Mapping[str, Any], *, etag: str) -> Rule:
    """Change a rule that is not ended; as a whole it is checked as a new one is."""
    row = await store.allocation_rules.lock(tx, rule_id)
    row.check_etag(etag)
    domain.allocation_rules.advance(row.id, row.state, RuleAction.CHANGE)
    targets = (await store.allocation_rules.find_targets(tx, [rule_id]))[rule_id]
    draft = replace(_draft_of(row, targets), **changes)
    await _check(tx, draft)
    await _check_chains_with_none(tx, row.id, draft)
    for column, value in _columns(draft).items():
        setattr(row, column, value)
    if "targets" in changes:
        targets = await store.allocation_rules.replace_targets(tx, rule_id, draft.targets)
        row.update_time = clock.now()  # so that the etag is another one, although no other column may have changed
    await tx.flush()
    return Rule(row, targets)


async def delete(tx: WriteSession, rule_id: UUID, *, etag: str) -> Rule:
    """End a rule: it splits nothing any more, and can still be read."""
    row = await store.allocation_rules.lock(tx, rule_id)
    row.check_etag(etag)
    row.state = domain.allocation_rules.advance(row.id, row.state, RuleAction.END)
    await tx.flush()
    return Rule(row, (await store.allocation_rules.find_targets(tx, [rule_id]))[rule_id])


def _draft_of(row: AllocationRuleRow, targets: Sequence[AllocationTargetRow]) -> RuleDraft:
    return RuleDraft(
        name=row.name,
        rule_type=row.rule_type,
        basis=row.basis,
        usage_unit=row.usage_unit,
        usage_category=row.usage_category,
        targets=row.terms(targets).targets,
        source_department_id=row.source_department_id,
        category=row.category,
        effective_from=row.effective_from,
        effective_to=row.effective_to,
    )


def _columns(draft: RuleDraft) -> dict[str, Any]:
    return {name: getattr(draft, name) for name in RuleDraft.__dataclass_fields__ if name != "targets"}


async def _check(tx: ReadSession, draft: RuleDraft) -> None:
    service.field_violations.raise_any(
        [
            *domain.allocation_rules.terms_violations(draft.terms),
            *domain.allocation_rules.scope_violations(draft.reach, draft.targets),
        ]
    )
    await find_all_departments(tx, places_of(draft.targets, draft.source_department_id))


def places_of(targets: Sequence[Target], source_id: UUID | None, *, path: str = "") -> dict[str, UUID]:
    """The departments that a request names, by the field that does; targets stand below `path`."""
    named = {f"{path}targets[{place}].department_id": target.department_id for place, target in enumerate(targets)}
    return named if source_id is None else {**named, "source_department_id": source_id}


async def find_all_departments(tx: ReadSession, named: Mapping[str, UUID]) -> Mapping[UUID, DepartmentRow]:
    """The departments that are named, by id; raises AllocationDepartmentsNotFound that lists those there are not."""
    found = {row.id: row for row in await store.departments.list_by_ids(tx, set(named.values()))}
    missing = {field: department_id for field, department_id in named.items() if department_id not in found}
    if missing:
        raise AllocationDepartmentsNotFound(missing)
    return found


async def _check_chains_with_none(tx: WriteSession, rule_id: UUID | None, draft: RuleDraft) -> None:
    source = draft.source_department_id
    if source is None:
        return
    link = Link(rule_id, draft.reach, tuple(target.department_id for target in draft.targets))
    await store.allocation_rules.lock_all(tx)
    refuse_chain(tx, link, await store.allocation_rules.find_links(tx, sources=link.targets, target=source))


def refuse_chain(tx: ReadSession, link: Link, others: Sequence[Link]) -> None:
    """Raise AllocationRulesChain where one of the others would split what this one did, or the other way round.

    Departments that the caller's scope does not cover are not told.
    """
    found = domain.allocation_rules.find_chain(link, others)
    if found:
        other, path = found
        scope = tx.scope
        told = [place if scope is None or place in scope.department_ids else None for place in path]
        raise AllocationRulesChain(other.rule_id, told)
