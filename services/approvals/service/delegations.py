"""Delegations of approvals."""

from dataclasses import replace
from uuid import UUID

from kit import clock, ids
from kit.db import ReadSession, WriteSession
from kit.errors import InvalidFields, Violation
from kit.users import User
from services.approvals import domain, service, store
from services.approvals.domain.approvals import Actor
from services.approvals.domain.delegations import DelegationDraft, DelegationState
from services.approvals.errors.approvals import ApproverInactive
from services.approvals.errors.delegations import (
    DelegationEnded,
    DelegationNotFound,
    DelegationOverlaps,
    NotTheDelegator,
)
from services.approvals.models.delegations import DelegationRow


async def with_delegations(tx: ReadSession, actor: Actor) -> Actor:
    """Return the actor with the users on whose behalf they decide now.

    A user who left acts for nobody and has no rights. What user management reported before the transaction takes
    precedence over the events received from it.
    """
    delegators, deactivated = await store.delegations.find_delegators(tx, actor.user_id, clock.now())
    left = deactivated if actor.left is None else actor.left
    if left:
        return replace(actor, left=True, roles=frozenset(), admin=False, tenant_admin=False)
    acts_for = domain.delegations.acts_for(actor.user_id, delegators)
    by_requester = {user: domain.delegations.acts_for(actor.user_id, delegators, without=user) for user in acts_for}
    return replace(actor, left=False, acts_for=acts_for, acts_for_by_requester=by_requester)


async def create(
    tx: WriteSession, actor: Actor, draft: DelegationDraft, *, delegate: User | None, delegator: Actor
) -> DelegationRow:
    """Create a delegation of the actor, or of another user if the actor administers the whole tenant.

    `delegate` is the delegate in user management, or None if unknown there. Raises ApproverUnknown, ApproverInactive,
    NotTheDelegator, InvalidFields or DelegationOverlaps, and Conflict if one of the users has just left.
    """
    service.users.check_active(draft.delegate, delegate)
    await _check_presence(tx, actor, delegator)
    now = clock.now()
    start_time = draft.start_time or now
    if delegator.user_id != actor.user_id and not actor.tenant_admin:
        raise NotTheDelegator
    violations = domain.delegations.violations(delegator.user_id, draft.delegate, start_time, draft.end_time, now)
    if violations:
        raise InvalidFields([Violation(field, description, "delegation") for field, description in violations])
    await service.users.check_not_leaving(tx, [delegator.user_id, draft.delegate])
    await store.delegations.lock_delegator(tx, delegator.user_id)
    other = await store.delegations.find_overlapping(tx, delegator.user_id, start_time, draft.end_time)
    if other:
        raise DelegationOverlaps(delegator.user_id, other)
    row = DelegationRow(
        id=ids.new(),
        delegator=delegator.user_id,
        delegate=draft.delegate,
        start_time=start_time,
        end_time=draft.end_time,
        reason=draft.reason,
        created_by=actor.user_id,
    )
    await store.delegations.insert(tx, row)
    return row


async def _check_presence(tx: WriteSession, *users: Actor) -> None:
    """Raise ApproverInactive if one of the users has left."""
    for user in {user.user_id: user for user in users}.values():
        if (await with_delegations(tx, user)).left:
            raise ApproverInactive(user.user_id)


async def end_of_user(tx: WriteSession, user_id: str) -> None:
    """End all delegations of and to a user who left, also those that have not begun."""
    now = clock.now()
    for row in await store.delegations.lock_of_user(tx, user_id, now):
        row.revoke_time = now
        await store.delegations.update(tx, row)


async def end(tx: WriteSession, actor: Actor, delegation_id: UUID) -> DelegationRow:
    """End a delegation now. It is visible to its delegator, its delegate and administrators.

    A user who left ends only their own, which only reduces rights. Raises DelegationNotFound, NotTheDelegator or
    DelegationEnded.
    """
    actor = await with_delegations(tx, actor)
    row = await store.delegations.lock(tx, delegation_id)
    if actor.user_id not in {row.delegator, row.delegate} and not actor.tenant_admin:
        raise DelegationNotFound(delegation_id)
    if actor.user_id != row.delegator and not actor.tenant_admin:
        raise NotTheDelegator
    now = clock.now()
    if domain.delegations.state_at(row.start_time, row.effective_end_time, now) is DelegationState.ENDED:
        raise DelegationEnded(row.id)
    row.revoke_time = now
    await store.delegations.update(tx, row)
    return row
