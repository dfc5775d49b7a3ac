"""What the approvals service refuses, and how it says so; the reasons are documented in errors.proto."""

from services.approvals.errors.delegations import (
    DelegationEnded,
    DelegationNotFound,
    DelegationOverlaps,
    NotTheDelegator,
)
from services.approvals.errors.neighbours import (
    BudgetNotFound,
    DepartmentNotFound,
    EntityNotFound,
)
from services.approvals.errors.requests import (
    AlreadyDecided,
    ApprovalNotFound,
    ApprovalStateForbids,
    ApproverInactive,
    ApproverMissing,
    EscalationMissing,
    NoRuleMatches,
    NotAnApprover,
    NotTheRequester,
    SelfApproval,
    SubjectPending,
    SubmittedElsewhere,
    TargetRefused,
)
from services.approvals.errors.rules import (
    ApprovalRuleNotFound,
    ApprovalRuleStateForbids,
    DefaultRuleTaken,
    TooManyRules,
)

__all__ = [
    "AlreadyDecided",
    "ApprovalNotFound",
    "ApprovalRuleNotFound",
    "ApprovalRuleStateForbids",
    "ApprovalStateForbids",
    "ApproverInactive",
    "ApproverMissing",
    "BudgetNotFound",
    "DefaultRuleTaken",
    "DelegationEnded",
    "DelegationNotFound",
    "DelegationOverlaps",
    "DepartmentNotFound",
    "EntityNotFound",
    "EscalationMissing",
    "NoRuleMatches",
    "NotAnApprover",
    "NotTheDelegator",
    "NotTheRequester",
    "SelfApproval",
    "SubjectPending",
    "SubmittedElsewhere",
    "TargetRefused",
    "TooManyRules",
]
