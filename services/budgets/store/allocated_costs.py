"""SQL for allocated costs: the budgets they may be charged to, their outcomes, and those that no budget accepted.

The outcome of an allocation is stored under its idempotency key: the reply if a budget was charged, an empty reply if
no budget accepted it. So there is never more than one of the two.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, Protocol
from uuid import UUID

from sqlalchemy import func, or_, select

from eventing import outbox
from eventing.outbox import OutboxRow
from kit import idempotency
from kit.columns import Column, Columns, of_table
from kit.db import WriteSession
from services.budgets.domain.allocated_costs import Candidate, CostAttributes
from services.budgets.domain.postings import RequestKey
from services.budgets.models.unbudgeted import UnbudgetedRow
from services.budgets.store.idempotency import StoredReply


class Driver(Protocol):
    """A transaction of several tenants that runs SQL text on the database driver."""

    async def fetch(self, statement: str, *parameters: object) -> Sequence[Any]:
        """Return the rows of a statement."""


@dataclass(slots=True)
class Match:
    """The stored outcome of an allocation, or else the budgets that it may be charged to."""

    stored: StoredReply | None
    candidates: list[Candidate]


@dataclass(frozen=True, slots=True)
class Unbudgeted:
    """A cost that no budget accepted, to be recorded unless its key has an outcome already."""

    request: RequestKey
    fingerprint: bytes
    row: UnbudgetedRow
    event: OutboxRow


_NO_DEPARTMENT: Final = UUID(int=0)
"""Represents no department in an index that finds budgets of departments and of whole entities; see 0003_usage."""
_KEY: Final = (
    Column("tenant_id", "uuid"), Column("method", "text", free_text=True), Column("key", "text", free_text=True),
)  # fmt: skip
_COSTS: Final = Columns[tuple[object, ...]](
    [
        Column("position", "int"), *_KEY, Column("entity_id", "uuid"), Column("department_ids", "uuid[]"),
        Column("entities_above", "uuid[]"), Column("category", "text", free_text=True), Column("day", "date"),
    ],
    values=tuple,
)  # fmt: skip
_SPEND: Final = Columns[Unbudgeted](of_table(UnbudgetedRow))
_spend_names = [column.name for column in of_table(UnbudgetedRow)]
_RECORDS: Final = Columns[Unbudgeted](
    [
        *_KEY[1:], Column("fingerprint", "bytea", free_text=True), *of_table(UnbudgetedRow),
        Column("event_id", "uuid"), Column("event_tenant_id", "uuid"), Column("event_type", "text", free_text=True),
        Column("event_body", "text", free_text=True), Column("event_actor", "text", free_text=True),
        Column("event_traceparent", "text", free_text=True), Column("event_time", "timestamptz"),
    ],
    values=lambda spend: [
        *spend.request[1:], spend.fingerprint, *(getattr(spend.row, name) for name in _spend_names),
        *spend.event.values,
    ],
)  # fmt: skip
_CANDIDATE: Final = ", ".join(Candidate._fields)
_FITS: Final = """
    category = any(array['', a.category]) and state in ('ACTIVE', 'CLOSING')
    and period_start <= a.day and a.day < period_end"""
_MATCH: Final = f"""
    select a.position, k.fingerprint, k.reply, {", ".join(f"c.{field}" for field in Candidate._fields)}
    from {_COSTS.rows("a")}
    left join lateral {idempotency.lookup("a")} k on true
    left join lateral (
        select {_CANDIDATE} from budgets
        where tenant_id = a.tenant_id and entity_id = a.entity_id
            and case when department_id is null then '{_NO_DEPARTMENT}' else department_id end
                = any(a.department_ids::uuid[])
            and {_FITS}
        union all
        select {_CANDIDATE} from budgets
        where tenant_id = a.tenant_id and entity_id = any(a.entities_above::uuid[])
            and case when department_id is null then '{_NO_DEPARTMENT}' else department_id end = '{_NO_DEPARTMENT}'
            and covers_descendants and {_FITS}
        offset 0
    ) c on k.reply is null"""
_RECORD: Final = f"""
    with rows as materialized (
        select * from {_RECORDS.rows("r")}
    ), claimed as (
        {idempotency.INSERT}
        select tenant_id, method, key, fingerprint, '' from rows order by tenant_id, method, key
        on conflict do nothing
        returning tenant_id, method, key
    ), recorded as (
        insert into unbudgeted_spend ({_SPEND.names})
        select {_SPEND.names} from rows join claimed using (tenant_id, method, key)
        returning id
    ), published as (
        {outbox.INSERT}
        select event_id, event_tenant_id, event_type, event_body, event_actor, event_traceparent, event_time
        from rows join claimed using (tenant_id, method, key)
    )
    select id from recorded"""


async def match(driver: Driver, costs: Sequence[tuple[RequestKey, CostAttributes]]) -> list[Match]:
    """Return the stored outcome or the candidate budgets of each allocation, in order."""
    rows = [
        (
            position,
            *request,
            cost.entity_id,
            [*cost.department_path, _NO_DEPARTMENT],
            cost.entities_above,
            cost.category,
            cost.day,
        )
        for position, (request, cost) in enumerate(costs)
    ]
    matches = [Match(None, []) for _ in costs]
    for position, fingerprint, reply, budget_id, *candidate in await driver.fetch(_MATCH, *_COSTS.parameters(rows)):
        if reply is not None:
            matches[position].stored = StoredReply(fingerprint, reply)
        elif budget_id is not None:
            matches[position].candidates.append(Candidate(budget_id, *candidate))
    return matches


async def record(driver: Driver, spends: Iterable[Unbudgeted]) -> set[UUID]:
    """Record and publish the costs whose keys have no outcome yet, each once. Return the ids of their rows."""
    rows = {spend.request: spend for spend in spends}
    return {row["id"] for row in await driver.fetch(_RECORD, *_RECORDS.parameters(list(rows.values())))}


async def insert(tx: WriteSession, row: UnbudgetedRow) -> None:
    """Insert a row of unbudgeted spend."""
    tx.add(row)
    await tx.flush()


async def lock_unbudgeted(tx: WriteSession, allocation_id: UUID) -> tuple[UnbudgetedRow, Decimal]:
    """Return the row of an allocation that no budget accepted, and what its corrections leave of its amount.

    There is such a row if the key of the allocation has an empty reply. No other transaction can correct it until this
    one ends.
    """
    await tx.lock(f"unbudgeted {allocation_id}")
    (row,) = await tx.all(select(UnbudgetedRow).where(UnbudgetedRow.allocation_id == allocation_id))
    corrected = or_(
        UnbudgetedRow.reversed_allocation_id == allocation_id, UnbudgetedRow.credited_allocation_id == allocation_id
    )
    (corrections,) = await tx.all(select(func.coalesce(func.sum(UnbudgetedRow.amount), 0)).where(corrected))
    return row, row.amount + corrections
