"""Delegations."""

from collections.abc import Mapping
from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import ColumnElement, and_, func, or_, select, union

from kit.db import ReadSession, WriteSession
from services.approvals.domain.delegations import CHAIN_MAX, DelegationState
from services.approvals.errors import DelegationNotFound
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
    select distinct delegate, delegator from chain"""


async def find_delegators(tx: ReadSession, user_id: str, now: datetime) -> Mapping[str, list[str]]:
    """Who delegated to a user at this moment, who to those, and so on: by delegate."""
    found: dict[str, list[str]] = {}
    for delegate, delegator in await tx.fetch(_DELEGATORS, tx.tenant_id, user_id, now):
        found.setdefault(delegate, []).append(delegator)
    return found


async def lock_delegations(tx: WriteSession, delegator: str) -> None:
    """Let the delegations of a user take turns."""
    name = f"delegations {tx.tenant_id} {delegator}"
    await tx.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(name, 0))))


async def find_overlapping(tx: ReadSession, delegator: str, start: datetime, end: datetime) -> UUID | None:
    """A delegation of a user that is good at some time between the two."""
    wanted = select(DelegationRow.id).where(DelegationRow.delegator == delegator, DelegationRow.revoke_time.is_(None))
    overlapping = wanted.where(DelegationRow.start_time < end, DelegationRow.end_time > start)
    return await tx.one_or_none(overlapping.order_by(DelegationRow.id).limit(1))


async def lock_delegation(tx: WriteSession, delegation_id: UUID) -> DelegationRow:
    """The delegation, locked until the transaction ends; raises DelegationNotFound."""
    row = await tx.one_or_none(select(DelegationRow).where(DelegationRow.id == delegation_id).with_for_update())
    if row is None:
        raise DelegationNotFound(delegation_id)
    return row


async def list_delegations(
    tx: ReadSession,
    page: Page,
    *,
    own: str,
    delegator: str,
    delegate: str,
    state: DelegationState | None,
    now: datetime,
) -> Slice[DelegationRow]:
    """One page of those from and to a user, of all where `own` is empty, newest first."""
    wanted = select(DelegationRow)
    if own:
        of_them = [
            select(DelegationRow.id).where(side == own) for side in (DelegationRow.delegator, DelegationRow.delegate)
        ]
        wanted = wanted.where(DelegationRow.id.in_(union(*of_them)))
    if delegator:
        wanted = wanted.where(DelegationRow.delegator == delegator)
    if delegate:
        wanted = wanted.where(DelegationRow.delegate == delegate)
    if state:
        wanted = wanted.where(_in_state(state, now))
    return page.slice(await tx.all(page.narrow(wanted, DelegationRow.id, newest_first=True)))


def _in_state(state: DelegationState, now: datetime) -> ColumnElement[bool]:
    revoked, begun = DelegationRow.revoke_time <= now, DelegationRow.start_time <= now
    if state is DelegationState.ENDED:
        return or_(DelegationRow.end_time <= now, revoked)
    lasting = and_(DelegationRow.end_time > now, or_(DelegationRow.revoke_time.is_(None), ~revoked))
    return and_(lasting, begun if state is DelegationState.ACTIVE else ~begun)
