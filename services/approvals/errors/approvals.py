"""Errors about approval requests."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from kit import ids
from kit.errors import AlreadyExists, FailedPrecondition, InvalidFields, PermissionDenied, Violation
from kit.resources import ResourceNotFound, StateForbids


class ApprovalNotFound(ResourceNotFound):
    kind = ids.APPROVAL
    reason = "APPROVAL_NOT_FOUND"


class ApprovalStateForbids(StateForbids):
    kind = ids.APPROVAL
    reason = "APPROVAL_STATE"

    def with_decision(self, decided_by: str, end_time: datetime | None) -> "ApprovalStateForbids":
        """Add who decided the request, and when it ended."""
        if decided_by:
            self.metadata["decided_by"] = decided_by
            self.message += f" It was decided by {decided_by}."
        if end_time:
            self.metadata["end_time"] = end_time.isoformat()
        return self


class NoRuleMatches(FailedPrecondition):
    reason = "NO_RULE_MATCHES"

    def __init__(self, request_type: str, rules: int, failures: Sequence[str] = ()) -> None:
        """`failures` has sentences about conditions that could not be evaluated."""
        self.failures = failures
        text = (
            f"None of the {rules} active rules matches this {request_type} request, and there is no default rule for"
            " the type; an administrator can add one."
        )
        super().__init__(" ".join([text, *failures]), request_type=request_type, rules=rules)


class ApproverMissing(FailedPrecondition):
    reason = "APPROVER_MISSING"

    def __init__(self, rule: str, step: str, reasons: Sequence[str]) -> None:
        super().__init__(
            f"The step {step!r} of the rule {rule!r} has no approver: {'; '.join(reasons)}.", rule=rule, step=step
        )


class ApproverInactive(FailedPrecondition):
    reason = "APPROVER_INACTIVE"

    def __init__(self, user_id: str) -> None:
        super().__init__(f"{user_id!r} is not an active user.", user_id=user_id)


class ApproverUnknown(FailedPrecondition):
    reason = "APPROVER_UNKNOWN"

    def __init__(self, user_id: str) -> None:
        super().__init__(f"There is no user {user_id!r} in user management.", user_id=user_id)


class NotAnApprover(PermissionDenied):
    reason = "NOT_AN_APPROVER"

    def __init__(self, approvers: Sequence[str]) -> None:
        names = ", ".join(approvers) or "none"
        super().__init__(f"You are not an approver of an active step. Pending approvers: {names}.", asked=approvers)


class SelfApproval(PermissionDenied):
    reason = "SELF_APPROVAL"

    def __init__(self) -> None:
        super().__init__("You are the requester; the rule does not allow requesters to decide on their own requests.")


class AlreadyDecided(FailedPrecondition):
    reason = "ALREADY_DECIDED"

    def __init__(self, step: str, *, parallel: bool = False) -> None:
        text = f"You have already decided in the step {step!r}; each user decides once per step."
        if parallel:
            text = f"You are an approver of the parallel step {step!r}; each user decides in one of the parallel steps."
        super().__init__(text, step=step)


class NotTheRequester(PermissionDenied):
    reason = "NOT_THE_REQUESTER"

    def __init__(self, requester: str) -> None:
        super().__init__(f"Only the requester {requester} or an administrator can do this.", requester=requester)


class EscalationMissing(FailedPrecondition):
    reason = "ESCALATION_MISSING"

    def __init__(self, step: str, cause: str) -> None:
        super().__init__(f"The step {step!r} can't be escalated: {cause}.", step=step)


class SubjectPending(AlreadyExists):
    reason = "SUBJECT_PENDING"

    def __init__(self, subject_type: str, subject_id: str, approval_id: UUID | None) -> None:
        other = ids.APPROVAL.format_optional(approval_id)
        name = f"The approval {other}" if other else "Another approval"
        super().__init__(
            f"{name} for the {subject_type} {subject_id} is still open; wait for its end or cancel it.",
            approval_id=other,
            subject_type=subject_type,
            subject_id=subject_id,
        )


class SubmittedElsewhere(FailedPrecondition):
    reason = "SUBMITTED_ELSEWHERE"

    def __init__(self, subject_type: str, subject_id: str) -> None:
        super().__init__(
            f"The {subject_type} {subject_id} belongs to another service; submit it there again for a new request.",
            subject_type=subject_type,
            subject_id=subject_id,
        )


class TargetRefused(InvalidFields):
    def __init__(self, description: str) -> None:
        super().__init__([Violation("target", description, "approval.target")])
