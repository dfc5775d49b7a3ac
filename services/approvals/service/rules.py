"""Approval rules: create, update, delete, and validate their specification."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final
from uuid import UUID
from zoneinfo import available_timezones

from kit import ids
from kit.db import ReadSession, WriteSession
from kit.errors import InvalidFields, Violation
from services.approvals import domain, service, store
from services.approvals.domain.rules import ApproverKind, Mode, RuleAction, RuleSpec, RuleState, RuleStep
from services.approvals.errors.rules import TooManyRules
from services.approvals.models.rules import RuleRow

_RULES_MAX: Final = 500
_ESCALATION_KINDS: Final = frozenset({ApproverKind.USER, ApproverKind.ROLE})
_ACTIONS: Final = {RuleState.ACTIVE: RuleAction.RESUME, RuleState.PAUSED: RuleAction.PAUSE}
"""Action for each state that UpdateApprovalRule can set."""


async def create(tx: WriteSession, spec: RuleSpec, problems: Mapping[str, str]) -> RuleRow:
    """Create a rule. Raises InvalidFields, DefaultRuleTaken or TooManyRules."""
    await store.rules.lock_all(tx)
    await check(tx, spec, problems)
    if await store.rules.count(tx) >= _RULES_MAX:
        raise TooManyRules(_RULES_MAX)
    row = RuleRow(id=ids.new(), spec=spec, state=RuleState.ACTIVE, rule_version=1)
    await store.rules.save(tx, row)
    return row


async def get(tx: ReadSession, rule_id: UUID, version: int) -> RuleRow:
    """Return a version of the rule; 0 means the current one. Raises ApprovalRuleNotFound."""
    row = await store.rules.get(tx, rule_id)
    if version in {0, row.rule_version}:
        return row
    return row.at_version(await store.rules.get_version(tx, rule_id, version))


async def update(
    tx: WriteSession,
    rule_id: UUID,
    changes: Mapping[str, Any],
    state: RuleState | None,
    *,
    problems: Mapping[str, str],
    etag: str,
) -> RuleRow:
    """Change fields of the specification and the state of a rule, as a new version.

    Raises ApprovalRuleNotFound, ApprovalRuleStateForbids, EtagMismatch, InvalidFields or DefaultRuleTaken.
    """
    await store.rules.lock_all(tx)
    row = await store.rules.lock(tx, rule_id)
    row.check_etag(etag)
    row.state = domain.rules.advance(row.id, row.state, RuleAction.CHANGE)
    if state:
        row.state = domain.rules.advance(row.id, row.state, _ACTIONS[state])
    spec = _changed(row.spec, changes)
    await check(tx, spec, problems, except_id=row.id)
    row.spec = spec
    row.rule_version += 1
    await store.rules.save(tx, row)
    return row


def _changed(spec: RuleSpec, changes: Mapping[str, Any]) -> RuleSpec:
    """Return the changed specification. Raises InvalidFields if its bounds are in different currencies."""
    changed = replace(spec, **changes)
    bounds = {"amount_above": changed.amount_above, "amount_up_to": changed.amount_up_to}
    if all(bound is None for bound in bounds.values()):
        return replace(changed, currency="")
    unchanged = [field for field, bound in bounds.items() if bound is not None and field not in changes]
    if unchanged and changed.currency != spec.currency:
        description = f"must be in {spec.currency}, like {unchanged[0]}; to use another currency, change both"
        raise InvalidFields([Violation(field, description, "rule.range") for field in bounds if field in changes])
    return changed


async def delete(tx: WriteSession, rule_id: UUID, *, etag: str) -> RuleRow:
    """Delete a rule: it no longer applies to new requests.

    Raises ApprovalRuleNotFound, ApprovalRuleStateForbids or EtagMismatch.
    """
    row = await store.rules.lock(tx, rule_id)
    row.check_etag(etag)
    row.state = domain.rules.advance(row.id, row.state, RuleAction.DELETE)
    row.rule_version += 1
    await store.rules.save(tx, row)
    return row


async def check(
    tx: ReadSession, spec: RuleSpec, problems: Mapping[str, str], *, except_id: UUID | None = None, path: str = ""
) -> None:
    """Validate a rule, alone and with the other levels of its ladder. Raises InvalidFields with all violations.

    `problems` has the users who can't be approvers, with the reason. `except_id` is the rule itself, if it exists;
    `path` is what precedes the fields of the rule in the request.
    """
    violations = _violations(spec)
    for index, step in enumerate(spec.steps):
        violations += _step_violations(index, step)
        violations += _user_violations(index, step, problems)
    if spec.ladder:
        levels = [row.spec for row in await store.rules.list_levels(tx, spec.ladder, except_id=except_id)]
        of_ladder = domain.routes.ladder_violations(spec, levels)
        violations += [Violation(field, description, "rule.ladder") for field, description in of_ladder]
    try:
        service.conditions.check_syntax(spec.condition)
    except InvalidFields as error:
        violations += error.violations
    if violations:
        raise InvalidFields([replace(each, field=path + each.field) for each in violations])


def _violations(spec: RuleSpec) -> list[Violation]:
    violations = []
    above, up_to = spec.amount_above, spec.amount_up_to
    if above is not None and up_to is not None and up_to <= above:
        violations.append(Violation("amount_up_to", f"must be greater than amount_above, {above}", "rule.range"))
    if spec.auto_approve and spec.steps:
        violations.append(Violation("steps", "must be empty with auto_approve", "rule.steps"))
    if not spec.auto_approve and not spec.steps:
        violations.append(Violation("steps", "must have at least one step, unless auto_approve is set", "rule.steps"))
    restricted = spec.currency or spec.ladder or spec.entity_ids or spec.department_ids or spec.categories
    if spec.is_default and (restricted or spec.condition):
        description = "excludes amount range, ladder, entities, departments, categories and condition"
        violations.append(Violation("is_default", description, "rule.default"))
    if spec.ladder and not spec.currency:
        violations.append(Violation("amount_above", "a level of a ladder needs an amount range", "rule.ladder"))
    hours = spec.business_hours
    if hours and hours.time_zone not in available_timezones():
        description = "must be an IANA time zone, for example Europe/Berlin"
        violations.append(Violation("business_hours.time_zone", description, "rule.hours"))
    if hours and hours.end <= hours.start:
        violations.append(
            Violation("business_hours.end", f"must be later than start, {hours.start:%H:%M}", "rule.hours")
        )
    return violations


def _step_violations(index: int, step: RuleStep) -> list[Violation]:
    field, violations = f"steps[{index}]", []
    if (step.mode is Mode.QUORUM) != bool(step.quorum):
        violations.append(
            Violation(f"{field}.quorum", "is required with QUORUM and not allowed otherwise", "rule.quorum")
        )
    roles = any(approver.kind is ApproverKind.ROLE for approver in step.approvers)
    if step.quorum > len(step.approvers) and not roles:
        description = f"must be at most the number of approvers, {len(step.approvers)}"
        violations.append(Violation(f"{field}.quorum", description, "rule.quorum"))
    if len(set(step.approvers)) < len(step.approvers):
        violations.append(Violation(f"{field}.approvers", "must not contain an approver twice", "rule.approvers"))
    if step.escalate_to and step.escalate_to.kind not in _ESCALATION_KINDS:
        violations.append(Violation(f"{field}.escalate_to", "must be a user or a role", "rule.escalation"))
    return violations


def _user_violations(index: int, step: RuleStep, problems: Mapping[str, str]) -> list[Violation]:
    fields = {f"steps[{index}].approvers[{number}]": approver for number, approver in enumerate(step.approvers)}
    if step.escalate_to:
        fields[f"steps[{index}].escalate_to"] = step.escalate_to
    return [
        Violation(f"{field}.user_id", problems[approver.name], "rule.user")
        for field, approver in fields.items()
        if approver.kind is ApproverKind.USER and approver.name in problems
    ]
