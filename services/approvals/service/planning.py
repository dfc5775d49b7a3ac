"""Planning of a request before it is stored: validation, budget, route and workflow. Writes nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from kit import ids
from kit.errors import InvalidFields, Violation
from kit.origin import Origin
from services.approvals import service
from services.approvals.clients import Clients
from services.approvals.domain.approvals import (
    BUDGET_TYPES,
    ApprovalDraft,
    ApprovalState,
    ApprovalType,
    ReservationState,
)
from services.approvals.domain.approvers import Lineage
from services.approvals.domain.budgets import BudgetSnapshot
from services.approvals.domain.rules import Facts, Rule
from services.approvals.domain.workflows import Workflow
from services.approvals.models.approvals import ApprovalRow

_ID_KINDS: Final = {"entity_id": ids.ENTITY, "department_id": ids.DEPARTMENT}


@dataclass(frozen=True, slots=True)
class PlannedRequest:
    """A request with its workflow, ready to be stored."""

    draft: ApprovalDraft
    facts: Facts
    workflow: Workflow
    requested_type: ApprovalType
    """Type of the request before `overspend` turned it into a BUDGET_OVERSPEND."""


async def plan(clients: Clients, origin: Origin, draft: ApprovalDraft, rules: Sequence[Rule]) -> PlannedRequest:
    """Validate a draft, route it, and assign its approvers.

    Raises the errors of CreateApproval, except those of the hold on the budget.
    """
    _check(draft)
    requested_type = draft.request_type
    if draft.budget_id:
        amount = None if draft.request_type is ApprovalType.BUDGET_INCREASE else draft.amount
        budget = await clients.budgets.review(origin, draft.budget_id, amount)
        draft = _with_budget(draft, budget)
        if draft.overspend and budget.approval_required:
            draft = replace(draft, request_type=ApprovalType.BUDGET_OVERSPEND)
    facts, lineage = await _facts(clients, origin, draft)
    route = await service.routing.choose(clients, origin, rules, facts)
    workflow = await service.approvers.create_workflow(clients, origin, route, facts, lineage)
    return PlannedRequest(draft, facts, workflow, requested_type)


async def plan_without_rules(clients: Clients, origin: Origin, draft: ApprovalDraft) -> PlannedRequest:
    """Plan a request without steps, which is approved when it is opened."""
    facts, _ = await _facts(clients, origin, draft)
    return PlannedRequest(
        draft, facts, Workflow(requester=draft.requester, rules=(), steps=()), requested_type=draft.request_type
    )


async def _facts(clients: Clients, origin: Origin, draft: ApprovalDraft) -> tuple[Facts, Lineage]:
    """Return the facts of a request and its lineage. Raises InvalidFields, EntityNotFound or DepartmentNotFound."""
    if draft.entity_id is None:
        raise InvalidFields([Violation("entity_id", "is required without budget_id", "approval.entity")])
    lineage = await clients.entities.get_lineage(origin, draft.entity_id, draft.department_id)
    facts = Facts(
        request_type=draft.request_type,
        title=draft.title,
        requester=draft.requester,
        entity_path=lineage.entity_path,
        department_path=lineage.department_path,
        category=draft.category,
        amount=draft.amount,
        attributes=draft.attributes,
    )
    return facts, lineage


def _check(draft: ApprovalDraft) -> None:
    """Raise InvalidFields with all fields that are missing or contradict each other."""
    violations = []
    if draft.request_type in BUDGET_TYPES and draft.budget_id is None:
        violations.append(Violation("budget_id", f"is required with {draft.request_type}", "approval.budget"))
    if draft.budget_id and draft.amount is None:
        violations.append(Violation("amount", "is required with budget_id", "approval.amount"))
    if bool(draft.subject_type) != bool(draft.subject_id):
        violations.append(Violation("subject_id", "is required with subject_type, and vice versa", "approval.subject"))
    if draft.overspend and draft.budget_id is None:
        violations.append(Violation("overspend", "requires budget_id", "approval.overspend"))
    if violations:
        raise InvalidFields(violations)


def _with_budget(draft: ApprovalDraft, budget: BudgetSnapshot) -> ApprovalDraft:
    """Return the draft with entity and department of its budget. Raises InvalidFields if the draft has others."""
    violations = []
    for field, kind in _ID_KINDS.items():
        requested, own = getattr(draft, field), getattr(budget, field)
        if requested and own and requested != own:
            description = f"must be that of the budget, {kind.format(own)}, or empty"
            violations.append(Violation(field, description, "approval.budget"))
    increase = draft.request_type is ApprovalType.BUDGET_INCREASE
    if increase and draft.amount and draft.amount.currency != budget.currency:
        description = f"must be the currency of the budget, {budget.currency}"
        violations.append(Violation("amount.currency_code", description, "approval.increase"))
    if violations:
        raise InvalidFields(violations)
    return replace(draft, entity_id=budget.entity_id, department_id=budget.department_id or draft.department_id)


def new_row(planned: PlannedRequest) -> ApprovalRow:
    """Return the row of a new request, in OPENING."""
    draft, facts = planned.draft, planned.facts
    return ApprovalRow(
        id=ids.new(),
        request_type=draft.request_type,
        requested_type=planned.requested_type,
        overspend=draft.overspend,
        title=draft.title,
        description=draft.description,
        requester=draft.requester,
        entity_id=facts.entity_path[0],
        department_id=facts.department_path[0] if facts.department_path else None,
        budget_id=draft.budget_id,
        category=draft.category,
        amount=draft.amount.amount if draft.amount else None,
        currency_code=draft.amount.currency if draft.amount else None,
        entity_path=list(facts.entity_path),
        department_path=list(facts.department_path),
        attributes=dict(draft.attributes),
        subject_type=draft.subject_type,
        subject_id=draft.subject_id,
        state=ApprovalState.OPENING,
        round=1,
        workflow=planned.workflow,
        funds=ReservationState.NONE,
        funds_problem="",
        decided_by="",
        decision_comment="",
        opening_key=draft.key,
        opening_digest=draft.digest,
    )


def draft_of(row: ApprovalRow, changes: Mapping[str, Any]) -> ApprovalDraft:
    """Return the draft of the next round of a request: its current fields with the changes applied."""
    draft = ApprovalDraft(
        request_type=row.requested_type or row.request_type,
        overspend=row.overspend,
        title=row.title,
        description=row.description,
        requester=row.requester,
        entity_id=row.entity_id,
        department_id=row.department_id,
        budget_id=row.budget_id,
        category=row.category,
        amount=row.money,
        attributes=row.attributes,
        subject_type=row.subject_type,
        subject_id=row.subject_id,
    )
    return replace(draft, **changes)
