"""The rules of who may answer for a department."""

from collections.abc import Iterable
from typing import Protocol

from services.entities.errors.departments import ManagerInactive, ManagerNotFound


class Person(Protocol):
    """A user as user management has them."""

    @property
    def user_id(self) -> str:
        """The subject of their tokens."""

    @property
    def active(self) -> bool:
        """Whether they may still do anything."""


def check_can_manage(user_id: str, person: Person | None) -> None:
    """Raise ManagerNotFound where there is no such person, ManagerInactive where they have left."""
    if person is None:
        raise ManagerNotFound(user_id)
    if not person.active:
        raise ManagerInactive(user_id)


def nearest_active(user_id: str, managers: Iterable[Person]) -> str:
    """Who takes over from a user: the nearest of their managers who is active; empty where there is none."""
    return next((person.user_id for person in managers if person.active and person.user_id != user_id), "")
