"""What every kind of resource has: it may be missing, and its life is one table `(state, action) → state`."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, TypeVar
from uuid import UUID

from kit.errors import FailedPrecondition, NotFound
from kit.ids import Kind

StateT = TypeVar("StateT", bound=str)
ActionT = TypeVar("ActionT", bound=str)


class ResourceNotFound(NotFound):
    """There is no such resource for the caller. Subclasses say of which kind."""

    kind: ClassVar[Kind]

    def __init__(self, id: UUID) -> None:
        text = self.kind.format(id)
        super().__init__(f"There is no {self.kind.name} {text}.")
        self.metadata[self.kind.field] = text


class StateForbids(FailedPrecondition):
    """A resource is in a state in which the action is not allowed. Subclasses say of which kind it is."""

    kind: ClassVar[Kind]

    def __init__(self, id: UUID, state: str, action: str, allowed: Sequence[str]) -> None:
        self.id = id
        text = self.kind.format(id)
        message = f"The {self.kind.name} {text} is {state}; it can be {action} in {' or '.join(allowed)}."
        super().__init__(message, state=state, allowed=allowed)
        self.metadata[self.kind.field] = text


def advance(
    life: Mapping[tuple[StateT, ActionT], StateT], id: UUID, state: StateT, action: ActionT, refusal: type[StateForbids]
) -> StateT:
    """The state after `action`; raises `refusal` naming the states in which the action is allowed."""
    try:
        return life[state, action]
    except KeyError:
        allowed = [before for before, allowed_action in life if allowed_action == action]
        raise refusal(id, state, action, allowed) from None
