"""Delegations."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import ColumnElement, and_, or_, select, union

from kit.db import ReadSession, WriteSession, found
from services.approvals.domain.approvals import Actor
from services.approvals.domain.delegations import CHAIN_MAX, DelegationFilter, DelegationState
from services.approvals.errors.delegations import DelegationNotFound
from services.approvals.models.delegations import DelegationRow
from serving.pages import Page, Slice

_DELEGATORS: Final = f"""
    with recursive chain (delegate, delegator, steps) as (
        select delegate, delegator, 1 from delegations
        where tenant_id = $1 and delegate = $2 and start_time <= $3 and end_time > $3 and revoke_time is null
        union
        select above.delegate, above.delegator, chain.steps + 1 from chain
        join delegations above on above.tenant_id = $1 and above.delegate = chain.delegator
            and above.start_time <= $3 and above.end_time > $3 and above.revoke_time is null
        where chain.steps < {CHAIN_MAX}
    )
    select distinct delegate, delegator, false from chain
    union all
    select user_id, user_id, true from deactivated_users where tenant_id = $1 and user_id = $2"""


async def find_delegators(tx: ReadSession, user_id: str, now: datetime) -> tuple[Mapping[str, list[str]], bool]:
    """Return the delegators of a user at `now`, and transitively theirs, by delegate; and whether the user has left.

    One statement, because nearly every call needs both.
    """
    delegators: dict[str, list[str]] = {}
    left = False
    for delegate, delegator, is_departure in await tx.fetch(_DELEGATORS, tx.tenant_id, user_id, now):
        left = left or is_departure
        if not is_departure:
            delegators.setdefault(delegate, []).append(delegator)
    return delegators, left


async def lock_delegator(tx: WriteSession, delegator: str) -> None:
    """Serialize the changes of a user's delegations, which must not overlap, until the transaction ends."""
    await tx.lock(f"delegations {delegator}")


async def find_overlapping(tx: ReadSession, delegator: str, start: datetime, end: datetime) -> UUID | None:
    """Return the id of a delegation of the user that overlaps `[start, end)`, or None."""
    overlapping = select(DelegationRow.id).where(
        DelegationRow.delegator == delegator,
        DelegationRow.revoke_time.is_(None),
        DelegationRow.start_time < end,
        DelegationRow.end_time > start,
    )
    return await tx.one_or_none(overlapping.order_by(DelegationRow.id).limit(1))


async def insert(tx: WriteSession, row: DelegationRow) -> None:
    """Insert a delegation."""
    tx.add(row)
    await tx.flush()


async def update(tx: WriteSession, row: DelegationRow) -> None:
    """Update a delegation; sets its etag."""
    tx.add(row)
    await tx.flush()


async def lock(tx: WriteSession, delegation_id: UUID) -> DelegationRow:
    """Return the delegation, locked until the transaction ends. Raises DelegationNotFound."""
    row = await tx.one_or_none(select(DelegationRow).where(DelegationRow.id == delegation_id).with_for_update())
    return found(row, DelegationNotFound(delegation_id))


async def lock_of_user(tx: WriteSession, user_id: str, now: datetime) -> Sequence[DelegationRow]:
    """Return the delegations from and to the user that have not ended, locked until the transaction ends."""
    sides = or_(DelegationRow.delegator == user_id, DelegationRow.delegate == user_id)
    query = select(DelegationRow).where(sides, DelegationRow.revoke_time.is_(None), DelegationRow.end_time > now)
    return await tx.all(query.order_by(DelegationRow.id).with_for_update())


async def list_page(
    tx: ReadSession, page: Page, actor: Actor, filters: DelegationFilter, now: datetime
) -> Slice[DelegationRow]:
    """Return a page of the delegations that match all filters, newest first; `now` determines their state.

    Administrators of the tenant list all delegations, other users those from and to themselves.
    """
    query = select(DelegationRow)
    if not actor.tenant_admin:
        sides = [
            select(DelegationRow.id).where(side == actor.user_id)
            for side in (DelegationRow.delegator, DelegationRow.delegate)
        ]
        query = query.where(DelegationRow.id.in_(union(*sides)))
    if filters.delegator:
        query = query.where(DelegationRow.delegator == filters.delegator)
    if filters.delegate:
        query = query.where(DelegationRow.delegate == filters.delegate)
    if filters.state:
        query = query.where(_in_state(filters.state, now))
    return await page.fetch(tx, query, DelegationRow.id, newest_first=True)


def _in_state(state: DelegationState, now: datetime) -> ColumnElement[bool]:
    revoked, started = DelegationRow.revoke_time <= now, DelegationRow.start_time <= now
    if state is DelegationState.ENDED:
        return or_(DelegationRow.end_time <= now, revoked)
    not_ended = and_(DelegationRow.end_time > now, or_(DelegationRow.revoke_time.is_(None), ~revoked))
    return and_(not_ended, started if state is DelegationState.ACTIVE else ~started)
