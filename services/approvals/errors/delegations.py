"""Errors about delegations."""

from uuid import UUID

from kit import ids
from kit.errors import AlreadyExists, FailedPrecondition, PermissionDenied
from kit.resources import ResourceNotFound


class DelegationNotFound(ResourceNotFound):
    kind = ids.DELEGATION
    reason = "DELEGATION_NOT_FOUND"


class DelegationEnded(FailedPrecondition):
    reason = "DELEGATION_ENDED"

    def __init__(self, id: UUID) -> None:
        text = ids.DELEGATION.format(id)
        super().__init__(f"The delegation {text} has already ended.", delegation_id=text)


class DelegationOverlaps(AlreadyExists):
    reason = "DELEGATION_OVERLAPS"

    def __init__(self, delegator: str, id: UUID) -> None:
        other = ids.DELEGATION.format(id)
        super().__init__(
            f"{delegator} has another delegation in this period, {other}; end it first.", delegation_id=other
        )


class NotTheDelegator(PermissionDenied):
    reason = "NOT_THE_DELEGATOR"

    def __init__(self) -> None:
        super().__init__("Only an administrator of the whole tenant can do this for another user.")
