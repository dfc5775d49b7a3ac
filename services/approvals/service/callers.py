"""Who calls, as far as approvals go."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Caller:
    """Who does something."""

    user_id: str
    roles: frozenset[str]
    admin: bool = False
    """Whether they may do it for others."""
