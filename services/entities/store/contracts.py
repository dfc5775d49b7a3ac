"""SQL for contracts, their signatures, numbers and notices."""

from collections.abc import Collection, Mapping, Sequence
from datetime import date
from typing import Any, Final
from uuid import UUID

from sqlalchemy import ColumnElement, Date, Select, cast, false, func, or_, select
from sqlalchemy.dialects.postgresql import insert as insert_into
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import aliased

from kit import clock, ids
from kit.db import ReadSession, WriteSession, constraint_name, found, scope_filter
from kit.money import Money
from services.entities.domain.contracts import (
    IN_FORCE,
    ContractFilter,
    ContractState,
    ContractTotals,
    NoticeKind,
)
from services.entities.errors.contracts import ContractNotFound, ContractNumberTaken
from services.entities.models.contracts import ContractNumberRow, ContractRow, NoticeRow, SignatureRow
from services.entities.models.entities import EntityRow
from serving.pages import Page, Slice

_NAMED_MAX: Final = 10
"""The most contracts that an error message lists."""


def _visible(tx: ReadSession) -> Select[ContractRow]:
    """Return the query for the contracts of the entities that the caller may see."""
    covered = scope_filter(tx.scope, ContractRow.entity_id)
    return select(ContractRow) if covered is None else select(ContractRow).where(covered)


async def get(tx: ReadSession, contract_id: UUID) -> ContractRow:
    """Return the contract. Raises ContractNotFound."""
    row = await tx.one_or_none(_visible(tx).where(ContractRow.id == contract_id))
    return found(row, ContractNotFound(contract_id))


async def lock(tx: WriteSession, contract_id: UUID) -> ContractRow:
    """Return the contract, locked until the transaction ends. Raises ContractNotFound."""
    query = _visible(tx).where(ContractRow.id == contract_id).with_for_update(key_share=True)
    row = await tx.one_or_none(query.execution_options(populate_existing=True))
    return found(row, ContractNotFound(contract_id))


async def get_entity_id(tx: ReadSession, contract_id: UUID) -> UUID:
    """Return the entity of the contract, which never changes. Raises ContractNotFound."""
    query = _visible(tx).where(ContractRow.id == contract_id).with_only_columns(ContractRow.entity_id)
    return found(await tx.one_or_none(query), ContractNotFound(contract_id))


async def save(tx: WriteSession, contract: ContractRow) -> None:
    """Insert the contract or write its changes, which gives it an id and a new etag. Raises ContractNumberTaken."""
    number = contract.contract_number  # a failed flush expires the row's attributes
    tx.add(contract)
    try:
        await tx.flush()
    except IntegrityError as error:
        if constraint_name(error) == "billing_contracts_number_key":
            raise ContractNumberTaken(number) from error
        raise


async def next_number(tx: WriteSession, year: int) -> str:
    """Return the tenant's next free contract number, for example "CON-2026-000017".

    Concurrent calls wait for each other.
    """
    counter = insert_into(ContractNumberRow).values(tenant_id=tx.tenant_id, year=year, last_number=1)
    increment = counter.on_conflict_do_update(
        index_elements=["tenant_id", "year"], set_={"last_number": ContractNumberRow.last_number + 1}
    ).returning(ContractNumberRow.last_number)
    while True:
        (last,) = await tx.returning(increment)
        number = f"CON-{year}-{last:06}"
        if await tx.one_or_none(select(ContractRow.id).where(ContractRow.contract_number == number)) is None:
            return number


async def list_page(tx: ReadSession, page: Page, filters: ContractFilter) -> Slice[ContractRow]:
    """Return one page of the contracts that match all filters, oldest first."""
    query = _visible(tx)
    if filters.entity_id is not None:
        query = query.where(ContractRow.entity_id == filters.entity_id)
    if filters.state is not None:
        query = query.where(ContractRow.state == filters.state)
    if filters.contract_type is not None:
        query = query.where(ContractRow.contract_type == filters.contract_type)
    if filters.ends_from is not None:
        query = query.where(ContractRow.end_date >= filters.ends_from)
    if filters.ends_before is not None:
        query = query.where(ContractRow.end_date < filters.ends_before)
    if filters.text:
        columns = ContractRow.contract_number, ContractRow.name
        query = query.where(or_(*(column.icontains(filters.text, autoescape=True) for column in columns)))
    return await page.fetch(tx, query, ContractRow.id)


async def list_signatures(tx: ReadSession, contract_ids: Collection[UUID]) -> Mapping[UUID, Sequence[SignatureRow]]:
    """Return the signatures of each contract in the order of signing, without contracts that have none."""
    query = select(SignatureRow).where(SignatureRow.contract_id.in_(contract_ids)).order_by(SignatureRow.id)
    signatures: dict[UUID, list[SignatureRow]] = {}
    for signature in await tx.all(query):
        signatures.setdefault(signature.contract_id, []).append(signature)
    return signatures


async def get_signatures(tx: ReadSession, contract_id: UUID) -> Sequence[SignatureRow]:
    """Return the signatures of the contract in the order of signing."""
    return (await list_signatures(tx, [contract_id])).get(contract_id, ())


async def insert_signature(tx: WriteSession, signature: SignatureRow) -> None:
    """Insert the signature and write the changes of its contract."""
    tx.add(signature)
    await tx.flush()


async def list_ids_in_force(tx: ReadSession, entity_id: UUID) -> Sequence[UUID]:
    """Return the ids of the first few contracts of an entity that are in force."""
    in_force = ContractRow.entity_id == entity_id, ContractRow.state.in_(IN_FORCE)
    return await tx.all(select(ContractRow.id).where(*in_force).order_by(ContractRow.id).limit(_NAMED_MAX))


async def lock_in_force(tx: WriteSession, entity_id: UUID) -> Sequence[ContractRow]:
    """Return all contracts of an entity that are in force, locked until the transaction ends."""
    in_force = ContractRow.entity_id == entity_id, ContractRow.state.in_(IN_FORCE)
    return await tx.all(select(ContractRow).where(*in_force).order_by(ContractRow.id).with_for_update(key_share=True))


async def get_entity(tx: ReadSession, contract: ContractRow) -> EntityRow:
    """Return the entity of the contract, without a lock."""
    entity = await tx.one_or_none(select(EntityRow).where(EntityRow.id == contract.entity_id))
    if entity is None:
        raise LookupError("every contract has an entity")
    return entity


async def get_time_zone(tx: ReadSession, contract: ContractRow) -> str:
    """Return the time zone in which the days of the contract begin: that of its entity."""
    return (await get_entity(tx, contract)).time_zone


async def insert_notice(tx: WriteSession, contract_id: UUID, end_date: date, kind: NoticeKind) -> bool:
    """Record a notice about the end date; False if it was recorded before."""
    notice = insert_into(NoticeRow).values(
        tenant_id=tx.tenant_id, id=ids.new(), contract_id=contract_id, end_date=end_date, kind=kind,
        create_time=clock.now(),
    )  # fmt: skip
    return bool(await tx.execute(notice.on_conflict_do_nothing(constraint="contract_notices_once_key")))


async def summarize(tx: ReadSession, entity_ids: Collection[UUID]) -> Sequence[ContractTotals]:
    """Return totals of the contracts in force by entity and currency, in that order; without ids, of all entities."""
    successor = aliased(ContractRow)
    today = cast(func.timezone(EntityRow.time_zone, func.now()), Date)
    has_successor = func.coalesce(successor.state.in_(IN_FORCE), false())
    undecided = ~has_successor, ContractRow.termination_date.is_(None)

    def due_within(days: int) -> ColumnElement[int]:
        return func.count().filter(*undecided, ContractRow.end_date <= today + days)

    active = ContractRow.state == ContractState.ACTIVE
    query: Select[*tuple[Any, ...]] = (
        select(
            ContractRow.entity_id,
            ContractRow.currency_code,
            func.count().filter(active),
            func.coalesce(func.sum(ContractRow.total_value).filter(active), 0),
            func.count().filter(~active),
            *map(due_within, (30, 60, 90)),
        )
        .join(EntityRow, EntityRow.id == ContractRow.entity_id)
        .outerjoin(successor, successor.id == ContractRow.renewed_to_id)
        .where(ContractRow.state.in_(IN_FORCE))
        .group_by(ContractRow.entity_id, ContractRow.currency_code)
        .order_by(ContractRow.entity_id, ContractRow.currency_code)
    )
    covered = scope_filter(tx.scope, ContractRow.entity_id)
    if covered is not None:
        query = query.where(covered)
    if entity_ids:
        query = query.where(ContractRow.entity_id.in_(entity_ids))
    return [
        ContractTotals(
            entity_id=entity_id, active=active, value=Money(value, currency), suspended=suspended,
            due_30=due_30, due_60=due_60, due_90=due_90,
        )
        for entity_id, currency, active, value, suspended, due_30, due_60, due_90 in await tx.rows(query)
    ]  # fmt: skip
