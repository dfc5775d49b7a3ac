"""Allocated costs: the budgets they may be charged to, what was done about them, and those that no budget took.

What is done about an allocation is kept under its key: the answer where a budget was charged, an empty one where none
took it. So of both there is never more than one.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Final
from uuid import UUID

from sqlalchemy import select

from eventing.outbox import OutboxRow
from kit.db import ReadSession, scope_filter
from services.budgets.domain.usage import Candidate, Cost
from services.budgets.models.unbudgeted import UnbudgetedRow
from services.budgets.store.group import Group, RequestKey
from services.budgets.store.keys import Kept
from serving.pages import Page, Slice

CALLED_OFF: Final = b""
"""The fingerprint of an allocation that was taken back before it was heard of."""

_NO_DEPARTMENT: Final = UUID(int=0)
"""Stands for none, so that one index finds budgets of the department and of the whole entity; see 0003_usage."""
_MATCH: Final = f"""
    select a.place, k.fingerprint, k.reply, c.id, c.department_id, c.category, c.gl_code, c.depth, c.time_zone
    from unnest($1::int[], $2::uuid[], $3::text[], $4::text[], $5::uuid[], $6::uuid[], $7::text[], $8::date[])
        a (place, tenant_id, method, key, entity_id, department_id, category, day)
    left join lateral (
        select fingerprint, reply from idempotency_keys
        where tenant_id = a.tenant_id and method = a.method and key = a.key offset 0
    ) k on true
    left join lateral (
        select id, department_id, category, gl_code, cardinality(ancestor_ids) as depth, time_zone from budgets
        where tenant_id = a.tenant_id and entity_id = a.entity_id
            and case when department_id is null then '{_NO_DEPARTMENT}' else department_id end
                = any(array['{_NO_DEPARTMENT}', a.department_id])
            and category = any(array['', a.category]) and state = 'ACTIVE'
            and period_start <= a.day and a.day < period_end
        offset 0
    ) c on k.reply is null"""
_RECORD: Final = """
    with asked as materialized (
        select * from unnest(
            $1::uuid[], $2::text[], $3::text[], $4::bytea[], $5::uuid[], $6::uuid[], $7::uuid[], $8::uuid[],
            $9::text[], $10::text[], $11::numeric[], $12::text[], $13::date[], $14::text[], $15::text[], $16::uuid[],
            $17::timestamptz[], $18::uuid[], $19::text[], $20::text[], $21::text[], $22::text[]
        ) a (
            tenant_id, method, key, fingerprint, id, allocation_id, entity_id, department_id, category, gl_code, amount,
            currency_code, allocation_date, reason, detail, budget_id, create_time, event_id, type, body, actor,
            traceparent
        )
    ), kept as (
        insert into idempotency_keys (tenant_id, method, key, fingerprint, reply)
        select tenant_id, method, key, fingerprint, '' from asked order by tenant_id, method, key
        on conflict do nothing
        returning tenant_id, method, key
    ), recorded as (
        insert into unbudgeted_spend (
            tenant_id, id, allocation_id, entity_id, department_id, category, gl_code, amount, currency_code,
            allocation_date, reason, detail, budget_id, create_time
        )
        select tenant_id, id, allocation_id, entity_id, department_id, category, gl_code, amount, currency_code,
            allocation_date, reason, detail, budget_id, create_time
        from asked join kept using (tenant_id, method, key)
        returning id
    ), said as (
        insert into outbox (id, tenant_id, type, body, actor, traceparent, create_time)
        select event_id, tenant_id, type, body, actor, traceparent, create_time
        from asked join kept using (tenant_id, method, key)
    )
    select id from recorded"""


@dataclass(slots=True)
class Match:
    """What is known of an allocation: what was done about it, or else the budgets it may be charged to."""

    kept: Kept | None
    candidates: list[Candidate]


@dataclass(frozen=True, slots=True)
class Unbudgeted:
    """A cost that no budget took, to be recorded under its key unless something was done under that before."""

    request: RequestKey
    fingerprint: bytes
    row: UnbudgetedRow
    event: OutboxRow


async def match(group: Group, asked: Sequence[tuple[RequestKey, Cost]]) -> list[Match]:
    """What is known of each allocation, in their order."""
    rows = [
        (place, *request, cost.entity_id, cost.department_id or _NO_DEPARTMENT, cost.category, cost.day)
        for place, (request, cost) in enumerate(asked)
    ]
    found = [Match(None, []) for _ in asked]
    for place, fingerprint, reply, budget_id, *candidate in await group.fetch(_MATCH, rows):
        if reply is not None:
            found[place].kept = Kept(fingerprint, reply)
        elif budget_id is not None:
            found[place].candidates.append(Candidate(budget_id, *candidate))
    return found


async def record(group: Group, spends: Collection[Unbudgeted]) -> set[UUID]:
    """Record those about whose allocation nothing was done before, each once, and say so; gives their ids."""
    rows = {spend.request: _recorded(spend) for spend in spends}
    return {row["id"] for row in await group.fetch(_RECORD, rows.values())}


def _recorded(spend: Unbudgeted) -> tuple[Any, ...]:
    row, event = spend.row, spend.event
    return (
        *spend.request, spend.fingerprint, row.id, row.allocation_id, row.entity_id, row.department_id, row.category,
        row.gl_code, row.amount, row.currency_code, row.allocation_date, row.reason, row.detail, row.budget_id,
        row.create_time, event.id, event.type, event.body, event.actor, event.traceparent,
    )  # fmt: skip


async def get_unbudgeted(tx: ReadSession, allocation_id: UUID) -> UnbudgetedRow:
    """The row of an allocation that no budget took; there is one where its key says so."""
    (row,) = await tx.all(select(UnbudgetedRow).where(UnbudgetedRow.allocation_id == allocation_id))
    return row


async def list_unbudgeted(
    tx: ReadSession,
    page: Page,
    *,
    entity_id: UUID | None,
    department_id: UUID | None,
    category: str,
    reason: str,
    start: date | None,
    end: date | None,
) -> Slice[UnbudgetedRow]:
    """One page of what the caller may see and fits all filters given, newest first."""
    covered = scope_filter(tx.scope, UnbudgetedRow.entity_id, UnbudgetedRow.department_id)
    wanted = select(UnbudgetedRow) if covered is None else select(UnbudgetedRow).where(covered)
    if entity_id is not None:
        wanted = wanted.where(UnbudgetedRow.entity_id == entity_id)
    if department_id is not None:
        wanted = wanted.where(UnbudgetedRow.department_id == department_id)
    if category:
        wanted = wanted.where(UnbudgetedRow.category == category)
    if reason:
        wanted = wanted.where(UnbudgetedRow.reason == reason)
    if start is not None:
        wanted = wanted.where(UnbudgetedRow.allocation_date >= start)
    if end is not None:
        wanted = wanted.where(UnbudgetedRow.allocation_date < end)
    return page.slice(await tx.all(page.narrow(wanted, UnbudgetedRow.id, newest_first=True)))
