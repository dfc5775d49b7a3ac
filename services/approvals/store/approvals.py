"""Approval requests, their history, and their pending approver slots."""

import math
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Select,
    all_,
    and_,
    any_,
    bindparam,
    exists,
    false,
    func,
    literal,
    literal_column,
    or_,
    select,
    union,
)
from sqlalchemy import delete as delete_from
from sqlalchemy.exc import IntegrityError

from kit import clock, ids
from kit.db import ReadSession, WriteSession, constraint_name, found, scope_filter
from kit.errors import Conflict
from kit.money import Money
from services.approvals.domain.approvals import (
    FINAL_STATES,
    Actor,
    ApprovalFilter,
    ApprovalState,
    ApprovalSummary,
    Involvement,
)
from services.approvals.domain.workflows import ActionRecord, PendingSlot
from services.approvals.errors.approvals import ApprovalNotFound, SubjectPending
from services.approvals.models.approvals import ActionRow, ApprovalRow, PendingSlotRow
from serving.pages import Page, Slice

_OPEN_STATES: Final = tuple(state for state in ApprovalState if state not in FINAL_STATES)
"""In the order of the states, so that the text of the query is always the same."""
_WHOLE_AMOUNT: Final = literal_column("approval_requests.whole_amount", BigInteger)
"""The amount without its fraction, for an index; see 0004_lists."""
_FIND_BY_KEY: Final = (
    "select id from approval_requests"
    " where tenant_id = $1 and requester = $2 and opening_key = $3 and opening_key <> ''"  # as in the partial index
)
_INSERT_ACTION: Final = (
    "insert into approval_actions (tenant_id, id, approval_id, round, step, action, actor, on_behalf_of, target,"
    " comment, create_time) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)"
)
_INSERT_SLOT: Final = (
    "insert into approval_seats (tenant_id, approval_id, step, user_id, role, barred) values ($1, $2, $3, $4, $5, $6)"
)
_DELETE_SLOTS: Final = "delete from approval_seats where tenant_id = $1 and approval_id = $2"


def _slots_of(actor: Actor, scope: ColumnElement[bool] | None = None) -> ColumnElement[bool]:
    """Condition: the slot is one of the actor, of their roles, or of a user for whom they act.

    With `scope`, the condition that it covers the request, roles count within it only.
    """
    of_role = PendingSlotRow.role.in_(actor.roles)
    return or_(
        PendingSlotRow.user_id.in_({actor.user_id, *actor.acts_for}), of_role if scope is None else and_(of_role, scope)
    )


def _visible(tx: ReadSession, actor: Actor | None) -> Select[ApprovalRow]:
    """Query of the requests that the actor may read.

    A caller without a scope reads all; one with a scope reads the requests within it, their own, and those they decide
    or decided. None: no restriction.
    """
    if tx.scope is None or actor is None:
        return select(ApprovalRow)
    deciders = {actor.user_id, *actor.acts_for}
    visible = union(  # each part uses an index of its own
        select(ApprovalRow.id).where(ApprovalRow.entity_id.in_(tx.scope.entity_ids)),
        select(ApprovalRow.id).where(ApprovalRow.department_id.in_(tx.scope.department_ids)),
        select(ApprovalRow.id).where(ApprovalRow.requester == actor.user_id),
        select(PendingSlotRow.approval_id).where(PendingSlotRow.user_id.in_(deciders)),
        select(ActionRow.approval_id).where(ActionRow.actor == actor.user_id),
    )
    return select(ApprovalRow).where(ApprovalRow.id.in_(visible))


async def get(tx: ReadSession, approval_id: UUID, actor: Actor | None = None) -> ApprovalRow:
    """Return the request. With an actor, only if they may read it. Raises ApprovalNotFound."""
    row = await tx.one_or_none(_visible(tx, actor).where(ApprovalRow.id == approval_id))
    return found(row, ApprovalNotFound(approval_id))


async def lock(tx: WriteSession, approval_id: UUID, actor: Actor | None = None) -> ApprovalRow:
    """Return the request, locked until the transaction ends. Raises ApprovalNotFound, like `get`."""
    return found(await lock_if_found(tx, approval_id, actor), ApprovalNotFound(approval_id))


async def lock_if_found(tx: WriteSession, approval_id: UUID, actor: Actor | None = None) -> ApprovalRow | None:
    """Return the request, locked until the transaction ends; None if there is none that the actor may read."""
    if tx.scope is None or actor is None:
        return await tx.one_or_none(_LOCK, id=approval_id)
    return await tx.one_or_none(_locked(_visible(tx, actor).where(ApprovalRow.id == approval_id)))


async def lock_many(tx: WriteSession, approval_ids: Collection[UUID]) -> Sequence[ApprovalRow]:
    """Return those of the requests that exist, locked until the transaction ends."""
    return await tx.all(_locked(select(ApprovalRow).where(ApprovalRow.id.in_(approval_ids)).order_by(ApprovalRow.id)))


async def lock_open_by_budget(tx: WriteSession, budget_id: UUID) -> Sequence[ApprovalRow]:
    """Return the open requests of a budget, also those in OPENING, locked until the transaction ends."""
    query = select(ApprovalRow).where(ApprovalRow.budget_id == budget_id, ApprovalRow.state.in_(_OPEN_STATES))
    return await tx.all(_locked(query.order_by(ApprovalRow.id)))


def _locked(query: Select[ApprovalRow]) -> Select[ApprovalRow]:
    return query.with_for_update(key_share=True).execution_options(populate_existing=True)


_LOCK: Final = _locked(select(ApprovalRow).where(ApprovalRow.id == bindparam("id")))
"""Compiled once, because nearly every decision begins with it."""


async def find_by_key(tx: ReadSession, requester: str, key: str) -> ApprovalRow | None:
    """Return the request that a call of the requester with this idempotency key created, or None."""
    rows = await tx.fetch(_FIND_BY_KEY, tx.tenant_id, requester, key) if key else ()
    return await get(tx, rows[0]["id"]) if rows else None


async def find_opening(tx: ReadSession, approval_id: UUID) -> ApprovalRow | None:
    """Return the request if its state is OPENING, else None."""
    opening = ApprovalRow.id == approval_id, ApprovalRow.state == ApprovalState.OPENING
    return await tx.one_or_none(select(ApprovalRow).where(*opening))


async def find_open_by_subject(tx: ReadSession, subject_type: str, subject_id: str) -> ApprovalRow | None:
    """Return the open request about a subject, or None. There is at most one."""
    subject = ApprovalRow.subject_type == subject_type, ApprovalRow.subject_id == subject_id
    return await tx.one_or_none(select(ApprovalRow).where(*subject, ApprovalRow.state.in_(_OPEN_STATES)))


async def save(tx: WriteSession, row: ApprovalRow) -> None:
    """Insert or update a request; sets its etag.

    Raises SubjectPending, or Conflict if a concurrent call with the same key inserted it.
    """
    subject = row.subject_type, row.subject_id  # read before the flush: a failed one expires the row
    if row.version is None and row.subject_id:
        other = await find_open_by_subject(tx, *subject)
        if other is not None:
            hidden = tx.scope is not None and not tx.scope.covers(other.entity_id, other.department_id)
            raise SubjectPending(*subject, None if hidden else other.id)
    tx.add(row)
    try:
        await tx.flush()
    except IntegrityError as error:
        if constraint_name(error) == "approval_requests_subject_key":
            raise SubjectPending(*subject, None) from error
        if constraint_name(error) == "approval_requests_opening_key":
            raise Conflict from error
        raise


async def delete(tx: WriteSession, row: ApprovalRow) -> None:
    """Delete a request that was never opened."""
    await tx.flush()
    await tx.execute(delete_from(ApprovalRow).where(ApprovalRow.id == row.id))


def insert_action(tx: WriteSession, row: ApprovalRow, record: ActionRecord) -> None:
    """Append an entry to the history of the request, in its current round."""
    action = row.id, row.round, record.step, record.action.value
    actors = record.actor, record.on_behalf_of, record.target, record.comment
    tx.defer(_INSERT_ACTION, tx.tenant_id, ids.new(), *action, *actors, clock.now())


def set_pending_slots(tx: WriteSession, approval_id: UUID, pending: Collection[PendingSlot], *, new: bool) -> None:
    """Replace the pending slots of a request; `new` if it has none yet."""
    if not new:
        tx.defer(_DELETE_SLOTS, tx.tenant_id, approval_id)
    barred = {(item.step, *item.slot.assignee): sorted(item.barred) for item in pending}
    for (step, user_id, role), user_ids in sorted(barred.items()):
        tx.defer(_INSERT_SLOT, tx.tenant_id, approval_id, step, user_id, role, user_ids)


async def list_page(tx: ReadSession, page: Page, actor: Actor, filters: ApprovalFilter) -> Slice[ApprovalRow]:
    """Return a page of the requests that the actor may read and that match all filters, newest first."""
    query = _visible(tx, actor).where(*_conditions(filters))
    if filters.involvement is Involvement.REQUESTED:
        query = query.where(ApprovalRow.requester == actor.user_id)
    if filters.involvement is Involvement.TO_DECIDE:
        query = query.where(_waits_for(tx, actor))
    return await page.fetch(tx, query, ApprovalRow.id, newest_first=True)


def _conditions(filters: ApprovalFilter) -> list[ColumnElement[bool]]:
    equal = {
        ApprovalRow.state: filters.state,
        ApprovalRow.request_type: filters.request_type,
        ApprovalRow.requester: filters.requester,
        ApprovalRow.entity_id: filters.entity_id,
        ApprovalRow.department_id: filters.department_id,
        ApprovalRow.budget_id: filters.budget_id,
        ApprovalRow.subject_type: filters.subject_type,
        ApprovalRow.subject_id: filters.subject_id,
    }
    conditions: list[ColumnElement[bool]] = [column == value for column, value in equal.items() if value]
    amounts = filters.amount_from, filters.amount_to
    conditions += [ApprovalRow.currency_code == amount.currency for amount in amounts if amount]
    if filters.amount_from:
        lower = filters.amount_from.amount
        conditions += [math.floor(lower) <= _WHOLE_AMOUNT, ApprovalRow.amount >= lower]
    if filters.amount_to:
        upper = filters.amount_to.amount
        conditions += [math.floor(upper) >= _WHOLE_AMOUNT, ApprovalRow.amount <= upper]
    if filters.due_before:
        # `is not null` is redundant, but lets the planner use the partial index also for an unknown parameter.
        conditions += [ApprovalRow.due_time.is_not(None), ApprovalRow.due_time < filters.due_before]
    return conditions


def _excluded_chains(actor: Actor) -> list[ColumnElement[bool]]:
    """Conditions: the slot is not one that the actor reaches only by a chain of delegations through the requester.

    Such chains count if the rule allows self-approval: then the requester is not barred.
    """
    return [
        ~and_(
            ApprovalRow.requester == requester,
            PendingSlotRow.user_id.in_(actor.acts_for - remaining),
            literal(requester) == any_(PendingSlotRow.barred),
        )
        for requester, remaining in sorted(actor.acts_for_by_requester.items())
    ]


def _waits_for(tx: ReadSession, actor: Actor) -> ColumnElement[bool]:
    """Condition: the request has a pending slot that the actor can decide."""
    if actor.left or not actor.may_decide:
        return false()
    slots = (
        select(PendingSlotRow.approval_id)
        .where(
            PendingSlotRow.tenant_id == ApprovalRow.tenant_id,
            PendingSlotRow.approval_id == ApprovalRow.id,
            _slots_of(actor, scope_filter(tx.scope, ApprovalRow.entity_id, ApprovalRow.department_id)),
            literal(actor.user_id) != all_(PendingSlotRow.barred),
            *_excluded_chains(actor),
        )
        .correlate(ApprovalRow)
    )
    candidates = select(PendingSlotRow.approval_id).where(_slots_of(actor)).correlate(None)  # read first, by an index
    return and_(ApprovalRow.id.in_(candidates), ApprovalRow.state == ApprovalState.PENDING, exists(slots))


async def list_actions(tx: ReadSession, page: Page, approval_id: UUID) -> Slice[ActionRow]:
    """Return a page of the history of a request, oldest entry first."""
    query = select(ActionRow).where(ActionRow.approval_id == approval_id)
    return await page.fetch(tx, query, ActionRow.id)


async def list_created(tx: ReadSession, since: datetime, until: datetime, rows_max: int) -> Sequence[ApprovalRow]:
    """Return the newest opened requests that were created in `[since, until)`, newest first."""
    created = ApprovalRow.create_time >= since, ApprovalRow.create_time < until
    opened = ApprovalRow.state != ApprovalState.OPENING
    query = select(ApprovalRow).where(*created, opened)
    return await tx.all(query.order_by(ApprovalRow.create_time.desc()).limit(rows_max))


async def list_ids_by_approver(
    tx: ReadSession, user_id: str, state: ApprovalState, after: UUID | None, ids_max: int
) -> Sequence[UUID]:
    """Return ids of requests in a state that name the user in any step, in the order of the ids, after `after`."""
    assigned = or_(
        ApprovalRow.workflow_record.contains({"steps": [{"seats": [{"user_id": user_id}]}]}),
        ApprovalRow.workflow_record.contains({"steps": [{"escalate_to": {"user_id": user_id}}]}),
    )
    query = select(ApprovalRow.id).where(ApprovalRow.state == state, assigned)
    if after:
        query = query.where(ApprovalRow.id > after)
    return await tx.all(query.order_by(ApprovalRow.id).limit(ids_max))


async def summarize(
    tx: ReadSession, entity_ids: Collection[UUID], since: datetime | None, until: datetime | None
) -> Sequence[ApprovalSummary]:
    """Return counts, sums and cycle times of the requests created in `[since, until)`; no entities means all."""
    seconds = func.extract("epoch", ApprovalRow.end_time - ApprovalRow.create_time)
    duration_statistics = func.avg(seconds), func.percentile_cont(0.5).within_group(seconds)
    groups = ApprovalRow.request_type, ApprovalRow.state, ApprovalRow.currency_code
    query = (
        select(
            *groups,
            func.sum(ApprovalRow.amount),
            func.count(),
            func.min(ApprovalRow.create_time),
            *duration_statistics,
        )
        .group_by(*groups)
        .order_by(*groups)
    )
    if entity_ids:
        query = query.where(ApprovalRow.entity_id.in_(entity_ids))
    if since:
        query = query.where(ApprovalRow.create_time >= since)
    if until:
        query = query.where(ApprovalRow.create_time < until)
    return [
        ApprovalSummary(kind, state, Money(amount, currency) if currency else None, count, oldest, mean, median)
        for kind, state, currency, amount, count, oldest, mean, median in await tx.rows(query)
    ]
