"""What can be done with delegations."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from kit import clock, ids
from kit.db import ReadSession, WriteSession
from kit.errors import InvalidFields, Violation
from services.approvals.domain.delegations import DelegationState, acts_for, flaws, state_at
from services.approvals.errors import DelegationEnded, DelegationNotFound, DelegationOverlaps, NotTheDelegator
from services.approvals.models.delegations import DelegationRow
from services.approvals.service.callers import Caller
from services.approvals.store import delegations


@dataclass(frozen=True, slots=True, kw_only=True)
class DelegationDraft:
    """A delegation as it is asked for."""

    delegator: str
    delegate: str
    start: datetime | None
    """None: now."""
    end: datetime
    reason: str


async def acting_for(tx: ReadSession, user_id: str, now: datetime) -> frozenset[str]:
    """All for whom a user decides at this moment."""
    return acts_for(user_id, await delegations.find_delegators(tx, user_id, now))


async def create_delegation(tx: WriteSession, caller: Caller, draft: DelegationDraft) -> DelegationRow:
    """Let somebody decide for the caller, or as an administrator for another.

    Raises NotTheDelegator, InvalidFields or DelegationOverlaps.
    """
    now = clock.now()
    delegator, start = draft.delegator or caller.user_id, draft.start or now
    if delegator != caller.user_id and not caller.admin:
        raise NotTheDelegator
    found = flaws(delegator, draft.delegate, start, draft.end, now)
    if found:
        raise InvalidFields([Violation(field, told, "delegation") for field, told in found])
    await delegations.lock_delegations(tx, delegator)
    other = await delegations.find_overlapping(tx, delegator, start, draft.end)
    if other:
        raise DelegationOverlaps(delegator, other)
    row = DelegationRow(
        id=ids.new(),
        delegator=delegator,
        delegate=draft.delegate,
        start_time=start,
        end_time=draft.end,
        reason=draft.reason,
        created_by=caller.user_id,
    )
    tx.add(row)
    await tx.flush()
    return row


async def end_delegation(tx: WriteSession, caller: Caller, delegation_id: UUID) -> DelegationRow:
    """End a delegation now; who is neither delegator, delegate nor administrator does not see it.

    Raises DelegationNotFound, NotTheDelegator or DelegationEnded.
    """
    row = await delegations.lock_delegation(tx, delegation_id)
    if caller.user_id not in {row.delegator, row.delegate} and not caller.admin:
        raise DelegationNotFound(delegation_id)
    if caller.user_id != row.delegator and not caller.admin:
        raise NotTheDelegator
    now = clock.now()
    if state_at(row.start_time, row.over_time, now) is DelegationState.ENDED:
        raise DelegationEnded(row.id)
    row.revoke_time = now
    await tx.flush()
    return row
