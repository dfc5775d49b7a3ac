"""Delegations."""

from collections.abc import Mapping
from datetime import datetime
from uuid import UUID

from sqlalchemy import ColumnElement, Select, and_, func, literal, or_, select, union
from sqlalchemy.orm import aliased

from kit.db import ReadSession, WriteSession
from services.approvals.domain.delegations import CHAIN_MAX, DelegationState
from services.approvals.errors import DelegationNotFound
from services.approvals.models.delegations import DelegationRow
from serving.pages import Page, Slice


async def find_delegators(tx: ReadSession, user_id: str, now: datetime) -> Mapping[str, list[str]]:
    """Who delegated to a user at this moment, who to those, and so on: by delegate."""
    first = _active(select(DelegationRow.delegate, DelegationRow.delegator, literal(1).label("steps")), now)
    chain = first.where(DelegationRow.delegate == user_id).cte("chain", recursive=True)
    above = aliased(DelegationRow)
    good = above.start_time <= now, above.end_time > now, above.revoke_time.is_(None)
    further = (
        select(above.delegate, above.delegator, chain.c.steps + 1)
        .join(chain, above.delegate == chain.c.delegator)
        .where(*good, chain.c.steps < CHAIN_MAX)
    )
    chain = chain.union(further)
    found: dict[str, list[str]] = {}
    for delegate, delegator in await tx.rows(select(chain.c.delegate, chain.c.delegator).distinct()):
        found.setdefault(delegate, []).append(delegator)
    return found


def _active(wanted: Select[str, str, int], now: datetime) -> Select[str, str, int]:
    return wanted.where(
        DelegationRow.start_time <= now, DelegationRow.end_time > now, DelegationRow.revoke_time.is_(None)
    )


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
