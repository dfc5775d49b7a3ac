"""Managers of departments: check of a new manager, and the successor of a deactivated one."""

from collections.abc import Iterable

from kit.users import User
from services.entities.errors.departments import ManagerInactive, ManagerNotFound


def check_can_manage(user_id: str, user: User | None) -> None:
    """Raise ManagerNotFound if there is no such user, ManagerInactive if the user is deactivated."""
    if user is None:
        raise ManagerNotFound(user_id)
    if not user.active:
        raise ManagerInactive(user_id)


def nearest_active(user_id: str, managers: Iterable[User]) -> str:
    """Return the user id of the first active manager other than the user; empty if there is none."""
    return next((user.user_id for user in managers if user.active and user.user_id != user_id), "")
