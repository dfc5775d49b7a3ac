"""Contracts, their signatures and notices."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import ColumnElement, Date, Select, cast, false, func, or_, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import aliased

from kit import clock, ids
from kit.db import ReadSession, WriteSession, constraint_name, scope_filter
from kit.money import Money
from services.entities.domain.allocations import AllocationSource
from services.entities.domain.contracts import IN_FORCE, ContractState, ContractType, NoticeKind
from services.entities.errors.contracts import ContractNotFound, ContractNumberTaken
from services.entities.models.allocations import AllocationRow
from services.entities.models.contracts import ContractNumberRow, ContractRow, NoticeRow, SignatureRow
from services.entities.models.entities import EntityRow
from serving.pages import Page, Slice

_NAMED: Final = 10
"""Most contracts that a refusal names."""


def _visible_contracts(tx: ReadSession) -> Select[ContractRow]:
    """Contracts that the caller may see: those of the entities that they may see."""
    covered = scope_filter(tx.scope, ContractRow.entity_id)
    return select(ContractRow) if covered is None else select(ContractRow).where(covered)


async def get_contract(tx: ReadSession, contract_id: UUID) -> ContractRow:
    """The contract; raises ContractNotFound."""
    return _found(await tx.one_or_none(_visible_contracts(tx).where(ContractRow.id == contract_id)), contract_id)


async def lock_contract(tx: WriteSession, contract_id: UUID) -> ContractRow:
    """The contract, locked until the transaction ends; raises ContractNotFound."""
    locked = _visible_contracts(tx).where(ContractRow.id == contract_id).with_for_update(key_share=True)
    return _found(await tx.one_or_none(locked.execution_options(populate_existing=True)), contract_id)


async def get_entity_id(tx: ReadSession, contract_id: UUID) -> UUID:
    """Whose contract it is, which never changes; raises ContractNotFound."""
    wanted = _visible_contracts(tx).where(ContractRow.id == contract_id).with_only_columns(ContractRow.entity_id)
    entity_id = await tx.one_or_none(wanted)
    if entity_id is None:
        raise ContractNotFound(contract_id)
    return entity_id


def _found(contract: ContractRow | None, contract_id: UUID) -> ContractRow:
    if contract is None:
        raise ContractNotFound(contract_id)
    return contract


async def save_contract(tx: WriteSession, contract: ContractRow) -> None:
    """Write a new or changed contract, which gives it its id and etag; raises ContractNumberTaken."""
    number = contract.contract_number  # a flush that fails takes the row's values with it
    tx.add(contract)
    try:
        await tx.flush()
    except IntegrityError as error:
        if constraint_name(error) == "billing_contracts_number_key":
            raise ContractNumberTaken(number) from error
        raise


async def next_number(tx: WriteSession, year: int) -> str:
    """The next number of the tenant's own that no contract has, "CON-2026-000017"; one call at a time gets one."""
    counted = insert(ContractNumberRow).values(tenant_id=tx.tenant_id, year=year, last_number=1)
    counted = counted.on_conflict_do_update(
        index_elements=["tenant_id", "year"], set_={"last_number": ContractNumberRow.last_number + 1}
    )
    while True:
        (last,) = await tx.returning(counted.returning(ContractNumberRow.last_number))
        number = f"CON-{year}-{last:06}"
        taken = select(ContractRow.id).where(ContractRow.contract_number == number)
        if await tx.one_or_none(taken) is None:
            return number


async def list_contracts(
    tx: ReadSession,
    page: Page,
    *,
    entity_id: UUID | None,
    state: ContractState | None,
    contract_type: ContractType | None,
    ends_from: date | None,
    ends_before: date | None,
    text: str,
) -> Slice[ContractRow]:
    """One page of the contracts that fit all filters given, oldest first; `text` is looked for in number and name."""
    wanted = _visible_contracts(tx)
    if entity_id is not None:
        wanted = wanted.where(ContractRow.entity_id == entity_id)
    if state is not None:
        wanted = wanted.where(ContractRow.state == state)
    if contract_type is not None:
        wanted = wanted.where(ContractRow.contract_type == contract_type)
    if ends_from is not None:
        wanted = wanted.where(ContractRow.end_date >= ends_from)
    if ends_before is not None:
        wanted = wanted.where(ContractRow.end_date < ends_before)
    if text:
        searched = ContractRow.contract_number, ContractRow.name
        wanted = wanted.where(or_(*(column.icontains(text, autoescape=True) for column in searched)))
    return page.slice(await tx.all(page.narrow(wanted, ContractRow.id)))


async def find_signatures(tx: ReadSession, contract_ids: Collection[UUID]) -> Mapping[UUID, Sequence[SignatureRow]]:
    """Who signed each of the contracts, in the order in which they did; those that nobody signed are left out."""
    wanted = select(SignatureRow).where(SignatureRow.contract_id.in_(contract_ids)).order_by(SignatureRow.id)
    found: dict[UUID, list[SignatureRow]] = {}
    for signature in await tx.all(wanted):
        found.setdefault(signature.contract_id, []).append(signature)
    return found


async def get_signatures(tx: ReadSession, contract_id: UUID) -> Sequence[SignatureRow]:
    """Who signed the contract, in the order in which they did."""
    return (await find_signatures(tx, [contract_id])).get(contract_id, ())


async def find_in_force(tx: ReadSession, entity_id: UUID) -> Sequence[UUID]:
    """Ids of the first few contracts of an entity that are in force."""
    of_entity = ContractRow.entity_id == entity_id, ContractRow.state.in_(IN_FORCE)
    return await tx.all(select(ContractRow.id).where(*of_entity).order_by(ContractRow.id).limit(_NAMED))


async def lock_in_force(tx: WriteSession, entity_id: UUID) -> Sequence[ContractRow]:
    """All contracts of an entity that are in force, locked until the transaction ends."""
    of_entity = ContractRow.entity_id == entity_id, ContractRow.state.in_(IN_FORCE)
    return await tx.all(select(ContractRow).where(*of_entity).order_by(ContractRow.id).with_for_update(key_share=True))


async def get_entity_of(tx: ReadSession, contract: ContractRow) -> EntityRow:
    """The entity of the contract; it may change meanwhile."""
    entity = await tx.one_or_none(select(EntityRow).where(EntityRow.id == contract.entity_id))
    if entity is None:
        raise LookupError("a contract has an entity")
    return entity


async def get_time_zone(tx: ReadSession, contract: ContractRow) -> str:
    """The time zone of the contract's entity, in which its days begin."""
    return (await get_entity_of(tx, contract)).time_zone


async def database_now(tx: ReadSession) -> datetime:
    """This moment, by the clock that timers go by."""
    return await tx.one_or_none(select(func.now())) or clock.now()


async def record_notice(tx: WriteSession, contract_id: UUID, end_date: date, kind: NoticeKind) -> bool:
    """Note that the parties are told of an end; False where they were told before."""
    told = insert(NoticeRow).values(
        tenant_id=tx.tenant_id, id=ids.new(), contract_id=contract_id, end_date=end_date, kind=kind,
        create_time=clock.now(),
    )  # fmt: skip
    return bool(await tx.execute(told.on_conflict_do_nothing(constraint="contract_notices_once_key")))


@dataclass(frozen=True, slots=True)
class ContractSum:
    """The contracts in force of an entity in one currency: how many, what they are worth, how many end soon."""

    entity_id: UUID
    active: int
    value: Money
    """Of the active ones."""
    suspended: int
    due_30: int
    due_60: int
    due_90: int


async def summarize(tx: ReadSession, entity_ids: Collection[UUID]) -> Sequence[ContractSum]:
    """The contracts in force by entity and currency, in the order of both; of all entities where none is named."""
    successor = aliased(ContractRow)
    today = cast(func.timezone(EntityRow.time_zone, func.now()), Date)
    followed = func.coalesce(successor.state.in_(IN_FORCE), false())

    def due_within(days: int) -> ColumnElement[int]:
        return func.count().filter(~followed, ContractRow.end_date <= today + days)

    active = ContractRow.state == ContractState.ACTIVE
    summed: Select[*tuple[Any, ...]] = (
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
        summed = summed.where(covered)
    if entity_ids:
        summed = summed.where(ContractRow.entity_id.in_(entity_ids))
    return [
        ContractSum(entity_id, active, Money(value, currency), *others)
        for entity_id, currency, active, value, *others in await tx.rows(summed)
    ]


async def sum_usage(tx: ReadSession, entity_id: UUID, start: date, end: date | None) -> Sequence[Money]:
    """What the usage of an entity has cost on the days from `start` up to, and without, `end`; one for each currency.

    The caller's scope is not looked at.
    """
    of_usage = AllocationRow.entity_id == entity_id, AllocationRow.source == AllocationSource.USAGE
    summed = select(AllocationRow.currency_code, func.sum(AllocationRow.amount)).where(
        *of_usage, AllocationRow.allocation_date >= start
    )
    if end is not None:
        summed = summed.where(AllocationRow.allocation_date < end)
    rows = await tx.rows(summed.group_by(AllocationRow.currency_code).order_by(AllocationRow.currency_code))
    return [Money(amount, currency) for currency, amount in rows]
