"""The rules of who may answer for a department."""

from collections.abc import Iterable

from kit.users import User
from services.entities.errors.departments import ManagerInactive, ManagerNotFound


def check_can_manage(user_id: str, user: User | None) -> None:
    """Raise ManagerNotFound where there is no such user, ManagerInactive where they have left."""
    if user is None:
        raise ManagerNotFound(user_id)
    if not user.active:
        raise ManagerInactive(user_id)


def nearest_active(user_id: str, managers: Iterable[User]) -> str:
    """Who takes over from a user: the nearest of their managers who is active; empty where there is none."""
    return next((user.user_id for user in managers if user.active and user.user_id != user_id), "")
