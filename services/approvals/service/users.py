"""Checks of users against user management."""

from collections.abc import Collection
from dataclasses import replace

from kit.db import WriteSession
from kit.errors import Conflict
from kit.origin import Origin
from kit.users import User
from services.approvals import store
from services.approvals.clients import Clients
from services.approvals.domain.approvals import Actor
from services.approvals.errors.approvals import ApproverInactive, ApproverUnknown


def check_active(user_id: str, user: User | None) -> None:
    """Raise ApproverUnknown or ApproverInactive unless `user`, the user in user management, is active."""
    if user is None:
        raise ApproverUnknown(user_id)
    if not user.active:
        raise ApproverInactive(user_id)


async def with_presence(clients: Clients, origin: Origin, actor: Actor) -> Actor:
    """Return the actor, checked against user management if that responds in time."""
    return replace(actor, left=await clients.directory.has_left(origin, actor.user_id))


async def check_not_leaving(tx: WriteSession, user_ids: Collection[str]) -> None:
    """Raise Conflict if a user has left since they were read from user management by this call."""
    if user_ids and await store.deactivated_users.any_recent(tx, user_ids):
        raise Conflict
