"""What can be done with rules of approval."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final
from uuid import UUID
from zoneinfo import available_timezones

from kit import ids
from kit.db import ReadSession, WriteSession
from kit.errors import InvalidFields, Violation
from services.approvals.domain.lives import Mode, RuleAction, RuleState, advance_rule
from services.approvals.domain.routes import flaws_of_ladder
from services.approvals.domain.rules import ApproverKind, RuleStep, RuleTerms
from services.approvals.errors import ApprovalRuleNotFound, TooManyRules
from services.approvals.models.rules import RuleRow, columns_of, record_of
from services.approvals.service.routing import CONDITIONS
from services.approvals.store import rules

_RULES_MAX: Final = 500
_NAMES: Final = frozenset({ApproverKind.USER, ApproverKind.ROLE})


async def create_rule(tx: WriteSession, terms: RuleTerms) -> RuleRow:
    """Add a rule; raises InvalidFields with all that does not go together, DefaultRuleTaken or TooManyRules."""
    await rules.lock_rules(tx)
    await check_terms(tx, terms)
    if await rules.count_rules(tx) >= _RULES_MAX:
        raise TooManyRules(_RULES_MAX)
    row = RuleRow(id=ids.new(), **columns_of(terms), state=RuleState.ACTIVE, rule_version=1)
    await rules.save_rule(tx, row, record_of(row))
    return row


async def get_rule(tx: ReadSession, rule_id: UUID, number: int) -> RuleRow:
    """The rule, or as it was in a version where `number` is not 0; raises ApprovalRuleNotFound."""
    row = await rules.get_rule(tx, rule_id)
    if number in {0, row.rule_version}:
        return row
    version = await rules.find_version(tx, rule_id, number)
    if version is None:
        raise ApprovalRuleNotFound(rule_id)
    return row.as_in(version)


async def update_rule(
    tx: WriteSession, rule_id: UUID, changes: Mapping[str, Any], state: RuleState | None, *, etag: str
) -> RuleRow:
    """Change a rule, as a new version of it; as a whole it is checked as a new one is."""
    await rules.lock_rules(tx)
    row = await rules.lock_rule(tx, rule_id)
    row.check_etag(etag)
    row.state = advance_rule(row.id, row.state, RuleAction.CHANGE)
    if state:
        row.state = advance_rule(row.id, row.state, _ENTERED[state])
    terms = _changed(row.terms, changes)
    await check_terms(tx, terms, but=row.id)
    for column, value in columns_of(terms).items():
        setattr(row, column, value)
    row.rule_version += 1
    await rules.save_rule(tx, row, record_of(row))
    return row


def _changed(terms: RuleTerms, changes: Mapping[str, Any]) -> RuleTerms:
    """The terms with the changes; raises InvalidFields where that leaves bounds of two currencies."""
    changed = replace(terms, **changes)
    bounds = {"amount_above": changed.amount_above, "amount_up_to": changed.amount_up_to}
    if all(bound is None for bound in bounds.values()):
        return replace(changed, currency="")
    kept = [field for field, bound in bounds.items() if bound is not None and field not in changes]
    if kept and changed.currency != terms.currency:
        told = f"{kept[0]} is in {terms.currency}; change both, or stay with that currency"
        raise InvalidFields([Violation(field, told, "rule.range") for field in bounds if field in changes])
    return changed


_ENTERED: Final = {RuleState.ACTIVE: RuleAction.RESUME, RuleState.PAUSED: RuleAction.PAUSE}


async def delete_rule(tx: WriteSession, rule_id: UUID, *, etag: str) -> RuleRow:
    """End a rule: no request takes it any more."""
    row = await rules.lock_rule(tx, rule_id)
    row.check_etag(etag)
    row.state = advance_rule(row.id, row.state, RuleAction.DELETE)
    row.rule_version += 1
    await rules.save_rule(tx, row, record_of(row))
    return row


async def check_terms(tx: ReadSession, terms: RuleTerms, *, but: UUID | None = None) -> None:
    """Raise InvalidFields with everything that does not go together, in the rule or with its ladder."""
    flaws = [*_flaws(terms), *(flaw for place, step in enumerate(terms.steps) for flaw in _step_flaws(place, step))]
    if terms.ladder:
        levels = [row.terms for row in await rules.find_levels(tx, terms.ladder, but=but)]
        flaws += [Violation(field, told, "rule.ladder") for field, told in flaws_of_ladder(terms, levels)]
    try:
        CONDITIONS.check(terms.condition)
    except InvalidFields as refusal:
        flaws += refusal.violations
    if flaws:
        raise InvalidFields(flaws)


def _flaws(terms: RuleTerms) -> list[Violation]:
    flaws = []
    above, up_to = terms.amount_above, terms.amount_up_to
    if above is not None and up_to is not None and up_to <= above:
        flaws.append(Violation("amount_up_to", f"must be more than amount_above, {above}", "rule.range"))
    if terms.auto_approve and terms.steps:
        flaws.append(Violation("steps", "must be empty with auto_approve: nobody is asked", "rule.steps"))
    if not terms.auto_approve and not terms.steps:
        flaws.append(Violation("steps", "at least one is needed, or auto_approve", "rule.steps"))
    narrowed = terms.currency or terms.ladder or terms.entity_ids or terms.department_ids or terms.categories
    if terms.is_default and (narrowed or terms.condition):
        told = (
            "goes with no range, ladder, entity, department, category or condition: it is for what no other rule fits"
        )
        flaws.append(Violation("is_default", told, "rule.default"))
    if terms.ladder and not terms.currency:
        flaws.append(Violation("amount_above", "a level of a ladder has a range of amounts", "rule.ladder"))
    hours = terms.business_hours
    if hours and hours.time_zone not in available_timezones():
        flaws.append(Violation("business_hours.time_zone", "must be a time zone, Europe/Berlin", "rule.hours"))
    if hours and hours.end <= hours.start:
        flaws.append(Violation("business_hours.end", f"must be later than start, {hours.start:%H:%M}", "rule.hours"))
    return flaws


def _step_flaws(place: int, step: RuleStep) -> list[Violation]:
    field, flaws = f"steps[{place}]", []
    if (step.mode is Mode.QUORUM) != bool(step.quorum):
        flaws.append(Violation(f"{field}.quorum", "is needed with QUORUM, and only then", "rule.quorum"))
    roles = any(approver.kind is ApproverKind.ROLE for approver in step.approvers)
    if step.quorum > len(step.approvers) and not roles:
        told = f"can't be reached: {len(step.approvers)} people are asked"
        flaws.append(Violation(f"{field}.quorum", told, "rule.quorum"))
    if len(set(step.approvers)) < len(step.approvers):
        flaws.append(Violation(f"{field}.approvers", "names somebody twice", "rule.approvers"))
    if step.escalate_to and step.escalate_to.kind not in _NAMES:
        flaws.append(Violation(f"{field}.escalate_to", "must be a user or a role", "rule.escalation"))
    return flaws
