"""Users of a tenant as values."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class User:
    """A user of the tenant, as user management reports them."""

    user_id: str
    """Subject of the user's tokens."""
    active: bool
    """False once the user has left."""
