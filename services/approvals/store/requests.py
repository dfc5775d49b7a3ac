"""Requests, what was done to them, and who is asked."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Select,
    and_,
    bindparam,
    delete,
    exists,
    func,
    literal_column,
    or_,
    select,
    union,
)
from sqlalchemy.exc import IntegrityError

from kit import clock, ids
from kit.db import ReadSession, WriteSession, constraint_name
from kit.errors import Conflict
from kit.money import Money
from services.approvals.domain.lives import ActionType, ApprovalState, ApprovalType, Mine
from services.approvals.errors import ApprovalNotFound, SubjectPending
from services.approvals.models.requests import ActionRow, ApprovalRow, SeatRow
from serving.pages import Page, Slice

OPEN = (ApprovalState.OPENING, ApprovalState.PENDING, ApprovalState.CHANGES_REQUESTED)
"""The states of what has not ended."""
_WHOLE_AMOUNT: Final = literal_column("approval_requests.whole_amount", BigInteger)
"""An amount without its fraction, by which an index is read; see 0004_lists."""
_OPENED: Final = (
    "select id from approval_requests"
    " where tenant_id = $1 and requester = $2 and opening_key = $3 and opening_key <> ''"  # as the index has it
)
_RECORD: Final = (
    "insert into approval_actions (tenant_id, id, approval_id, round, step, action, actor, on_behalf_of, target,"
    " comment, create_time) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)"
)
_SIT: Final = "insert into approval_seats (tenant_id, approval_id, step, user_id, role) values ($1, $2, $3, $4, $5)"
_RISE: Final = "delete from approval_seats where tenant_id = $1 and approval_id = $2"


@dataclass(frozen=True, slots=True)
class Viewer:
    """Who looks at requests."""

    user_id: str
    roles: frozenset[str]
    acts_for: frozenset[str] = frozenset()
    """The users for whom they decide."""

    @property
    def seats(self) -> ColumnElement[bool]:
        """The seats from which they may decide."""
        return or_(SeatRow.user_id.in_({self.user_id, *self.acts_for}), SeatRow.role.in_(self.roles))


def _visible(tx: ReadSession, viewer: Viewer | None) -> Select[ApprovalRow]:
    """Requests that the viewer may see: all, or, who is confined, what is covered, their own and those they decide."""
    if tx.scope is None or viewer is None:
        return select(ApprovalRow)
    deciders = {viewer.user_id, *viewer.acts_for}
    seen = union(  # each part is read by an index of its own
        select(ApprovalRow.id).where(ApprovalRow.entity_id.in_(tx.scope.entity_ids)),
        select(ApprovalRow.id).where(ApprovalRow.department_id.in_(tx.scope.department_ids)),
        select(ApprovalRow.id).where(ApprovalRow.requester == viewer.user_id),
        select(SeatRow.approval_id).where(SeatRow.user_id.in_(deciders)),
        select(ActionRow.approval_id).where(ActionRow.actor == viewer.user_id),
    )
    return select(ApprovalRow).where(ApprovalRow.id.in_(seen))


async def get_request(tx: ReadSession, approval_id: UUID, viewer: Viewer | None = None) -> ApprovalRow:
    """The request; raises ApprovalNotFound."""
    return _found(await tx.one_or_none(_visible(tx, viewer).where(ApprovalRow.id == approval_id)), approval_id)


async def lock_request(tx: WriteSession, approval_id: UUID, viewer: Viewer | None = None) -> ApprovalRow:
    """The request, locked until the transaction ends; raises ApprovalNotFound."""
    found = await find_request(tx, approval_id, viewer)
    return _found(found, approval_id)


async def find_request(tx: WriteSession, approval_id: UUID, viewer: Viewer | None = None) -> ApprovalRow | None:
    """The request, locked until the transaction ends; None where there is none."""
    if tx.scope is None or viewer is None:
        return await tx.one_or_none(_LOCKED, id=approval_id)
    return await tx.one_or_none(_locked(_visible(tx, viewer).where(ApprovalRow.id == approval_id)))


def _locked(wanted: Select[ApprovalRow]) -> Select[ApprovalRow]:
    return wanted.with_for_update(key_share=True).execution_options(populate_existing=True)


_LOCKED: Final = _locked(select(ApprovalRow).where(ApprovalRow.id == bindparam("id")))
"""Built once: nearly every decision begins with it."""


def _found(row: ApprovalRow | None, approval_id: UUID) -> ApprovalRow:
    if row is None:
        raise ApprovalNotFound(approval_id)
    return row


async def find_opened(tx: ReadSession, requester: str, key: str) -> ApprovalRow | None:
    """The request that a call with this key made, if one did."""
    made = await tx.fetch(_OPENED, tx.tenant_id, requester, key) if key else ()
    return await get_request(tx, made[0]["id"]) if made else None


async def find_opening(tx: ReadSession, approval_id: UUID) -> ApprovalRow | None:
    """The request, where its money is being set aside."""
    opening = ApprovalRow.id == approval_id, ApprovalRow.state == ApprovalState.OPENING
    return await tx.one_or_none(select(ApprovalRow).where(*opening))


async def find_about(tx: ReadSession, subject_type: str, subject_id: str) -> ApprovalRow | None:
    """The request about a thing that has not ended, if there is one."""
    about = ApprovalRow.subject_type == subject_type, ApprovalRow.subject_id == subject_id
    return await tx.one_or_none(select(ApprovalRow).where(*about, ApprovalRow.state.in_(OPEN)))


async def save_request(tx: WriteSession, row: ApprovalRow) -> None:
    """Write a new or changed request, which gives it its id and etag; raises SubjectPending."""
    about = row.subject_type, row.subject_id  # a flush that fails takes the row's values with it
    if row.version is None and row.subject_id:
        other = await find_about(tx, *about)
        if other is not None:
            raise SubjectPending(*about, other.id)
    tx.add(row)
    try:
        await tx.flush()
    except IntegrityError as error:
        if constraint_name(error) == "approval_requests_subject_key":
            raise SubjectPending(*about, None) from error
        if constraint_name(error) == "approval_requests_opening_key":
            raise Conflict from error  # another call with the same key, at this very moment
        raise


async def delete_request(tx: WriteSession, row: ApprovalRow) -> None:
    """Drop a request that never began."""
    await tx.flush()
    await tx.execute(delete(ApprovalRow).where(ApprovalRow.id == row.id))


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """Something that was done to a request, as it is kept."""

    approval_id: UUID
    round: int
    step: int
    action: ActionType
    actor: str
    on_behalf_of: str = ""
    target: str = ""
    comment: str = ""


def record(tx: WriteSession, done: Done) -> None:
    """Keep what was done."""
    what = done.approval_id, done.round, done.step, done.action.value
    who = done.actor, done.on_behalf_of, done.target, done.comment
    tx.defer(_RECORD, tx.tenant_id, ids.new(), *what, *who, clock.now())


def seat(tx: WriteSession, approval_id: UUID, seats: Collection[tuple[int, str, str]], *, new: bool) -> None:
    """Have these (step, user, role) asked, and nobody else; `new` where nobody was before."""
    if not new:
        tx.defer(_RISE, tx.tenant_id, approval_id)
    for step, user_id, role in sorted(seats):
        tx.defer(_SIT, tx.tenant_id, approval_id, step, user_id, role)


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which requests are listed."""

    state: ApprovalState | None = None
    request_type: ApprovalType | None = None
    requester: str = ""
    mine: Mine | None = None
    entity_id: UUID | None = None
    department_id: UUID | None = None
    budget_id: UUID | None = None
    amount_from: Money | None = None
    amount_to: Money | None = None
    due_before: datetime | None = None
    subject_type: str = ""
    subject_id: str = ""


async def list_requests(tx: ReadSession, page: Page, viewer: Viewer, wanted: Filter) -> Slice[ApprovalRow]:
    """One page of the requests that fit all filters given, newest first."""
    found = _visible(tx, viewer).where(*_conditions(wanted))
    if wanted.mine is Mine.REQUESTED:
        found = found.where(ApprovalRow.requester == viewer.user_id)
    if wanted.mine is Mine.TO_DECIDE:
        found = found.where(_waits_for(viewer))
    return page.slice(await tx.all(page.narrow(found, ApprovalRow.id, newest_first=True)))


def _conditions(wanted: Filter) -> list[ColumnElement[bool]]:
    equal = {
        ApprovalRow.state: wanted.state,
        ApprovalRow.request_type: wanted.request_type,
        ApprovalRow.requester: wanted.requester,
        ApprovalRow.entity_id: wanted.entity_id,
        ApprovalRow.department_id: wanted.department_id,
        ApprovalRow.budget_id: wanted.budget_id,
        ApprovalRow.subject_type: wanted.subject_type,
        ApprovalRow.subject_id: wanted.subject_id,
    }
    conditions: list[ColumnElement[bool]] = [column == value for column, value in equal.items() if value]
    amounts = wanted.amount_from, wanted.amount_to
    conditions += [ApprovalRow.currency_code == amount.currency for amount in amounts if amount]
    if wanted.amount_from:
        least = wanted.amount_from.amount
        conditions += [math.floor(least) <= _WHOLE_AMOUNT, ApprovalRow.amount >= least]
    if wanted.amount_to:
        most = wanted.amount_to.amount
        conditions += [math.floor(most) >= _WHOLE_AMOUNT, ApprovalRow.amount <= most]
    if wanted.due_before:
        # The first says that few have one, which is not known of a value that is not.
        conditions += [ApprovalRow.due_time.is_not(None), ApprovalRow.due_time < wanted.due_before]
    return conditions


def _waits_for(viewer: Viewer) -> ColumnElement[bool]:
    """Whether the viewer can decide: from a seat, not on their own unless it is theirs by name, and not twice."""
    decided = (
        select(ActionRow.id)
        .where(
            ActionRow.tenant_id == ApprovalRow.tenant_id,
            ActionRow.approval_id == ApprovalRow.id,
            ActionRow.round == ApprovalRow.round,
            ActionRow.step == SeatRow.step,
            ActionRow.actor == viewer.user_id,
            ActionRow.action == ActionType.APPROVE,
        )
        .correlate(ApprovalRow, SeatRow)  # also of the query around the one around it
    )
    seats = (
        select(SeatRow.approval_id)
        .where(
            SeatRow.tenant_id == ApprovalRow.tenant_id,
            SeatRow.approval_id == ApprovalRow.id,
            viewer.seats,
            or_(ApprovalRow.requester != viewer.user_id, SeatRow.user_id == viewer.user_id),
            ~exists(decided),
        )
        .correlate(ApprovalRow)
    )
    waiting = select(SeatRow.approval_id).where(viewer.seats).correlate(None)  # read first, by an index
    return and_(ApprovalRow.id.in_(waiting), ApprovalRow.state == ApprovalState.PENDING, exists(seats))


async def list_actions(tx: ReadSession, page: Page, approval_id: UUID) -> Slice[ActionRow]:
    """One page of what was done to a request, oldest first."""
    wanted = select(ActionRow).where(ActionRow.approval_id == approval_id)
    return page.slice(await tx.all(page.narrow(wanted, ActionRow.id)))


async def list_past(tx: ReadSession, since: datetime, until: datetime, rows_max: int) -> Sequence[ApprovalRow]:
    """The newest requests that were made in this time."""
    made = ApprovalRow.create_time >= since, ApprovalRow.create_time < until, ApprovalRow.state != ApprovalState.OPENING
    return await tx.all(select(ApprovalRow).where(*made).order_by(ApprovalRow.create_time.desc()).limit(rows_max))


async def find_sat_in(tx: ReadSession, user_id: str, after: UUID | None, ids_max: int) -> Sequence[UUID]:
    """Undecided requests in which a user sits, in this step or a later one, in the order of their ids."""
    sits = ApprovalRow.panel_record.contains({"steps": [{"seats": [{"user_id": user_id}]}]})
    wanted = select(ApprovalRow.id).where(ApprovalRow.state == ApprovalState.PENDING, sits)
    if after:
        wanted = wanted.where(ApprovalRow.id > after)
    return await tx.all(wanted.order_by(ApprovalRow.id).limit(ids_max))


async def database_now(tx: ReadSession) -> datetime:
    """The time by the clock of the database, by which timers go."""
    return (await tx.rows(select(func.now())))[0][0]


@dataclass(frozen=True, slots=True)
class ApprovalSum:
    """Requests of one type, state and currency."""

    request_type: ApprovalType
    state: ApprovalState
    amount: Money | None
    count: int
    oldest: datetime
    cycle_mean_s: float | None
    cycle_median_s: float | None


async def summarize(
    tx: ReadSession, entity_ids: Collection[UUID], since: datetime | None, until: datetime | None
) -> Sequence[ApprovalSum]:
    """Requests by type, state and currency; how long they took where they have ended."""
    seconds = func.extract("epoch", ApprovalRow.end_time - ApprovalRow.create_time)
    grouped = ApprovalRow.request_type, ApprovalRow.state, ApprovalRow.currency_code
    wanted = select(
        *grouped,
        func.sum(ApprovalRow.amount),
        func.count(),
        func.min(ApprovalRow.create_time),
        func.avg(seconds),
        func.percentile_cont(0.5).within_group(seconds),
    ).group_by(*grouped).order_by(*grouped)  # fmt: skip
    if entity_ids:
        wanted = wanted.where(ApprovalRow.entity_id.in_(entity_ids))
    if since:
        wanted = wanted.where(ApprovalRow.create_time >= since)
    if until:
        wanted = wanted.where(ApprovalRow.create_time < until)
    return [
        ApprovalSum(kind, state, Money(amount, currency) if currency else None, count, oldest, mean, median)
        for kind, state, currency, amount, count, oldest, mean, median in await tx.rows(wanted)
    ]
