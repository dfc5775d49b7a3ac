"""What is charged: entities and budgets, made through the API."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Final, TypeVar
from uuid import uuid4

import asyncpg
from billing.budgets.v1 import budget_service_pb2
from billing.budgets.v1.budget_pb2 import Budget
from billing.budgets.v1.budget_service_pb2_grpc import BudgetServiceStub
from billing.entities.v1 import entity_service_pb2
from billing.entities.v1.entity_pb2 import Entity
from billing.entities.v1.entity_service_pb2_grpc import EntityServiceStub
from billing.type.v1.money_pb2 import Money
from grpc import aio

from tests.bench.load import WITHIN_S
from tests.bench.stack import Metadata

T = TypeVar("T")

CENT: Final = Money(currency_code="EUR", amount="0.01")
_ROOM: Final = Money(currency_code="EUR", amount="9000000000000.00")
_MADE_AT_ONCE: Final = 32
_keys = itertools.count()


@dataclass(frozen=True, slots=True)
class Way:
    """Who charges, and what."""

    metadata: Metadata | None
    budget_ids: Sequence[str]


def new_key() -> str:
    """A key that no call bore before."""
    return f"bench-{next(_keys)}"


async def at_once(calls: Sequence[Callable[[], Awaitable[T]]]) -> list[T]:
    """What all calls give, some of them under way at a time."""
    turn = asyncio.Semaphore(_MADE_AT_ONCE)

    async def one(call: Callable[[], Awaitable[T]]) -> T:
        async with turn:
            return await call()

    return list(await asyncio.gather(*map(one, calls)))


class Maker:
    """Makes entities and budgets of a tenant."""

    def __init__(self, entities: aio.Channel, budgets: aio.Channel, metadata: Metadata) -> None:
        self._entities = EntityServiceStub(entities)
        self._budgets = BudgetServiceStub(budgets)
        self._metadata = metadata

    async def entity(self, code: str = "") -> str:
        """The id of a new entity."""
        request = entity_service_pb2.CreateEntityRequest(
            code=code or uuid4().hex, legal_name="A company", entity_type=Entity.SUBSIDIARY, currency_code="EUR",
            country_code="DE",
        )  # fmt: skip
        return (await self._entities.CreateEntity(request, metadata=self._metadata, timeout=WITHIN_S)).id

    async def tree(self, *widths: int) -> list[str]:
        """The ids of the lowest budgets of new trees: so many roots, so many below each of them, and so on."""
        entity_id = await self.entity()
        level = [""]
        for width in widths:
            above = [parent_id for parent_id in level for _ in range(width)]
            level = await at_once([partial(self.budget, entity_id, parent_id) for parent_id in above])
        return level

    async def budget(self, entity_id: str, parent_id: str = "") -> str:
        """The id of a new budget, with more than is ever charged."""
        request = budget_service_pb2.CreateBudgetRequest(
            entity_id=entity_id, parent_id=parent_id, name="Cloud", period_type=Budget.ANNUAL,
            period_start_date=f"{datetime.now(UTC).year}-01-01", amount=_ROOM,
        )  # fmt: skip
        return (await self._budgets.CreateBudget(request, metadata=self._metadata, timeout=WITHIN_S)).id


async def multiply(admin: "asyncpg.Connection", table: str, times: int, *, where: str = "true", **changed: str) -> None:
    """Put so many copies of those rows straight into the table, as if they had been written long ago.

    `changed` says in SQL how the columns of a copy differ from the row's; `n` is the number of the copy, from 1.
    Whatever columns the table gets, they are copied. Triggers and foreign keys are left aside.
    """
    named = "select column_name from information_schema.columns where table_schema || '.' || table_name = $1"
    columns = [row["column_name"] for row in await admin.fetch(f"{named} and is_generated = 'NEVER'", table)]
    copies = (
        f"select row.*, row_number() over () n from {table} row cross join generate_series(1, {times}) where {where}"
    )
    async with admin.transaction():
        await admin.execute("set local session_replication_role = 'replica'")
        await admin.execute(
            f"insert into {table} ({', '.join(columns)})"
            f" select {', '.join(changed.get(column, column) for column in columns)} from ({copies}) copies",
            timeout=300,
        )


def id_sql() -> str:
    """An id for copy `n`, ordered as the ids of rows are that were written one each millisecond until now."""
    first = f"(extract(epoch from now()) * 1000)::bigint - {10**8} + n"
    return (
        f"(lpad(to_hex({first}), 12, '0') || '7' || substr(md5(n::text), 1, 3)"
        " || '8' || substr(md5(n::text), 4, 15))::uuid"
    )
