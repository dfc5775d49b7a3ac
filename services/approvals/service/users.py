"""Checks of users against user management."""

from kit.users import User
from services.approvals.errors.approvals import ApproverInactive, ApproverUnknown


def check_active(user_id: str, user: User | None) -> None:
    """Raise ApproverUnknown or ApproverInactive unless `user`, the user in user management, is active."""
    if user is None:
        raise ApproverUnknown(user_id)
    if not user.active:
        raise ApproverInactive(user_id)
