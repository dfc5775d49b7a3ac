"""Errors about approval rules."""

from uuid import UUID

from kit import ids
from kit.errors import AlreadyExists, FailedPrecondition
from kit.resources import ResourceNotFound, StateForbids


class ApprovalRuleNotFound(ResourceNotFound):
    kind = ids.RULE
    reason = "APPROVAL_RULE_NOT_FOUND"


class ApprovalRuleStateForbids(StateForbids):
    kind = ids.RULE
    reason = "APPROVAL_RULE_STATE"


class DefaultRuleTaken(AlreadyExists):
    reason = "DEFAULT_RULE_TAKEN"

    def __init__(self, rule_id: UUID, name: str) -> None:
        other = ids.RULE.format(rule_id)
        super().__init__(f"The rule {name!r} ({other}) is already the default for this request type.", rule_id=other)


class TooManyRules(FailedPrecondition):
    reason = "TOO_MANY_RULES"

    def __init__(self, rules_max: int) -> None:
        super().__init__(f"A tenant can have at most {rules_max} rules; delete one first.", rules_max=rules_max)
