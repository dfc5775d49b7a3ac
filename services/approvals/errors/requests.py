"""What is refused about requests."""

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

    def ended(self, by: str, at: datetime | None) -> "ApprovalStateForbids":
        """The same, with who ended the request and when."""
        if by:
            self.metadata["decided_by"] = by
            self.message += f" {by} decided that."
        if at:
            self.metadata["end_time"] = at.isoformat()
        return self


class NoRuleMatches(FailedPrecondition):
    reason = "NO_RULE_MATCHES"

    def __init__(self, request_type: str, looked_at: int) -> None:
        super().__init__(
            f"None of the {looked_at} active rules says who approves a {request_type} like this, and there is no"
            " default rule for it; an administrator can add one.",
            request_type=request_type,
            rules=looked_at,
        )


class ApproverMissing(FailedPrecondition):
    reason = "APPROVER_MISSING"

    def __init__(self, rule: str, step: str, why: Sequence[str]) -> None:
        told = "; ".join(why)
        super().__init__(f"The step {step!r} of the rule {rule!r} has nobody to ask: {told}.", rule=rule, step=step)


class ApproverInactive(FailedPrecondition):
    reason = "APPROVER_INACTIVE"

    def __init__(self, user_id: str) -> None:
        super().__init__(f"{user_id!r} is not an active user.", user_id=user_id)


class NotAnApprover(PermissionDenied):
    reason = "NOT_AN_APPROVER"

    def __init__(self, asked: Sequence[str]) -> None:
        super().__init__(f"You are not asked at this moment; these are: {', '.join(asked) or 'nobody'}.", asked=asked)


class SelfApproval(PermissionDenied):
    reason = "SELF_APPROVAL"

    def __init__(self) -> None:
        super().__init__("You asked for this approval yourself; its rule lets others decide only.")


class AlreadyDecided(FailedPrecondition):
    reason = "ALREADY_DECIDED"

    def __init__(self, step: str) -> None:
        super().__init__(f"You have decided in the step {step!r} already; nobody does twice.", step=step)


class NotTheRequester(PermissionDenied):
    reason = "NOT_THE_REQUESTER"

    def __init__(self, requester: str) -> None:
        super().__init__(f"Only {requester}, who asked, or an administrator may do this.", requester=requester)


class EscalationMissing(FailedPrecondition):
    reason = "ESCALATION_MISSING"

    def __init__(self, step: str, why: str) -> None:
        super().__init__(f"The step {step!r} can't be escalated: {why}.", step=step)


class SubjectPending(AlreadyExists):
    reason = "SUBJECT_PENDING"

    def __init__(self, subject_type: str, subject_id: str, approval_id: UUID | None) -> None:
        other = ids.APPROVAL.format_optional(approval_id)
        super().__init__(
            f"Another request {other} about the {subject_type} {subject_id} has not ended yet.",
            approval_id=other,
            subject_type=subject_type,
            subject_id=subject_id,
        )


class SubmittedElsewhere(FailedPrecondition):
    reason = "SUBMITTED_ELSEWHERE"

    def __init__(self, subject_type: str, subject_id: str) -> None:
        super().__init__(
            f"It is about the {subject_type} {subject_id}: submit that again, and its approval is asked for anew.",
            subject_type=subject_type,
            subject_id=subject_id,
        )


class TargetRefused(InvalidFields):
    def __init__(self, why: str) -> None:
        super().__init__([Violation("target", why, "approval.target")])
