"""Use cases of allocation rules."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from kit import clock
from kit.db import ReadSession, WriteSession
from services.entities import domain, service, store
from services.entities.domain.allocation_rules import (
    AllocationRuleAction,
    AllocationRuleDraft,
    AllocationRuleState,
    RuleLink,
    SplitTarget,
)
from services.entities.errors.allocation_rules import AllocationDepartmentsNotFound, AllocationRulesChain
from services.entities.models.allocation_rules import AllocationRuleRow, AllocationTargetRow
from services.entities.models.entities import DepartmentRow


@dataclass(frozen=True, slots=True)
class AllocationRule:
    """An allocation rule and its targets, in their order."""

    row: AllocationRuleRow
    targets: Sequence[AllocationTargetRow]


async def create(tx: WriteSession, draft: AllocationRuleDraft) -> AllocationRule:
    """Create a rule between departments that the caller may see.

    Raises InvalidFields with all violations, AllocationDepartmentsNotFound, AllocationRulesChain.
    """
    await _check(tx, draft)
    await _check_no_chain(tx, None, draft)
    row = AllocationRuleRow(**_columns(draft), state=AllocationRuleState.ACTIVE)
    await store.allocation_rules.insert(tx, row)
    return AllocationRule(row, await store.allocation_rules.replace_targets(tx, row.id, draft.targets))


async def get(tx: ReadSession, rule_id: UUID) -> AllocationRule:
    """Return the rule with its targets. Raises AllocationRuleNotFound."""
    row = await store.allocation_rules.get(tx, rule_id)
    return AllocationRule(row, await store.allocation_rules.get_targets(tx, rule_id))


async def update(tx: WriteSession, rule_id: UUID, changes: Mapping[str, Any], *, etag: str) -> AllocationRule:
    """Change an active rule.

    Raises AllocationRuleNotFound, AllocationRuleStateForbids, EtagMismatch, and the errors of `create`.
    """
    row = await store.allocation_rules.lock(tx, rule_id)
    row.check_etag(etag)
    domain.allocation_rules.advance(row.id, row.state, AllocationRuleAction.CHANGE)
    targets = await store.allocation_rules.get_targets(tx, rule_id)
    draft = replace(_draft_of(row, targets), **changes)
    await _check(tx, draft)
    await _check_no_chain(tx, row.id, draft)
    for column, value in _columns(draft).items():
        setattr(row, column, value)
    if "targets" in changes:
        targets = await store.allocation_rules.replace_targets(tx, rule_id, draft.targets)
        row.update_time = clock.now()  # changes the etag even if no column of the rule has changed
    await store.allocation_rules.save(tx)
    return AllocationRule(row, targets)


async def delete(tx: WriteSession, rule_id: UUID, *, etag: str) -> AllocationRule:
    """End a rule: it can be read, but not be applied any more.

    Raises AllocationRuleNotFound, AllocationRuleStateForbids, EtagMismatch.
    """
    row = await store.allocation_rules.lock(tx, rule_id)
    row.check_etag(etag)
    row.state = domain.allocation_rules.advance(row.id, row.state, AllocationRuleAction.END)
    await store.allocation_rules.save(tx)
    return AllocationRule(row, await store.allocation_rules.get_targets(tx, rule_id))


def _draft_of(row: AllocationRuleRow, targets: Sequence[AllocationTargetRow]) -> AllocationRuleDraft:
    return AllocationRuleDraft(
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


def _columns(draft: AllocationRuleDraft) -> dict[str, Any]:
    return {name: getattr(draft, name) for name in AllocationRuleDraft.__dataclass_fields__ if name != "targets"}


async def _check(tx: ReadSession, draft: AllocationRuleDraft) -> None:
    service.field_violations.raise_any(
        [
            *domain.allocation_rules.terms_violations(draft.terms),
            *domain.allocation_rules.scope_violations(draft.scope, draft.targets),
        ]
    )
    await find_departments(tx, department_fields(draft.targets, draft.source_department_id))


def department_fields(
    targets: Sequence[SplitTarget], source_department_id: UUID | None, *, path: str = ""
) -> dict[str, UUID]:
    """Return the departments of a request by the path of their field; `path` is that of the targets' message."""
    fields = {f"{path}targets[{index}].department_id": target.department_id for index, target in enumerate(targets)}
    return fields if source_department_id is None else {**fields, "source_department_id": source_department_id}


async def find_departments(tx: ReadSession, fields: Mapping[str, UUID]) -> Mapping[UUID, DepartmentRow]:
    """Return the departments by id. Raises AllocationDepartmentsNotFound with the fields of all missing ones."""
    departments = {row.id: row for row in await store.departments.list_by_ids(tx, set(fields.values()))}
    missing = {field: department_id for field, department_id in fields.items() if department_id not in departments}
    if missing:
        raise AllocationDepartmentsNotFound(missing)
    return departments


async def _check_no_chain(tx: WriteSession, rule_id: UUID | None, draft: AllocationRuleDraft) -> None:
    source = draft.source_department_id
    if source is None:
        return
    link = RuleLink(rule_id, draft.scope, tuple(target.department_id for target in draft.targets))
    await store.allocation_rules.lock_all(tx)
    check_no_chain(tx, link, await store.allocation_rules.find_links(tx, sources=link.targets, target=source))


def check_no_chain(tx: ReadSession, link: RuleLink, others: Sequence[RuleLink]) -> None:
    """Raise AllocationRulesChain if `link` forms a chain with one of the others.

    The error does not name departments outside of the caller's scope.
    """
    chain = domain.allocation_rules.find_chain(link, others)
    if chain:
        other, path = chain
        scope = tx.scope
        visible = [id if scope is None or id in scope.department_ids else None for id in path]
        raise AllocationRulesChain(other.rule_id, visible)
