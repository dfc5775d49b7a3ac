"""Errors and state transitions of all resources; a transition table maps `(state, action)` to the next state."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, TypeVar
from uuid import UUID

from kit.errors import FailedPrecondition, NotFound
from kit.ids import Kind

StateT = TypeVar("StateT", bound=str)
ActionT = TypeVar("ActionT", bound=str)


class ResourceNotFound(NotFound):
    """The caller can see no resource with this id. Subclasses set its kind."""

    kind: ClassVar[Kind]

    def __init__(self, id: UUID) -> None:
        text = self.kind.format(id)
        super().__init__(f"There is no {self.kind.name} {text}.")
        self.metadata[self.kind.field] = text


class StateForbids(FailedPrecondition):
    """The action is not allowed in the current state of the resource. Subclasses set its kind."""

    kind: ClassVar[Kind]

    def __init__(self, id: UUID, state: str, action: str, allowed: Sequence[str]) -> None:
        self.id = id
        text = self.kind.format(id)
        message = f"The {self.kind.name} {text} is {state}; it can be {action} in {' or '.join(allowed)}."
        super().__init__(message, state=state, allowed=allowed)
        self.metadata[self.kind.field] = text


def advance(
    transitions: Mapping[tuple[StateT, ActionT], StateT],
    id: UUID,
    state: StateT,
    action: ActionT,
    error: type[StateForbids],
) -> StateT:
    """Return the state after `action`. Raises `error`, with the states that allow the action, if this one does not."""
    try:
        return transitions[state, action]
    except KeyError:
        allowed = [before for before, allowed_action in transitions if allowed_action == action]
        raise error(id, state, action, allowed) from None
