"""Test data: entities and budgets created through the API, and copies of rows."""

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

from tests.bench.load import TIMEOUT_S
from tests.bench.stack import Metadata

T = TypeVar("T")

CENT: Final = Money(currency_code="EUR", amount="0.01")
_ROOM: Final = Money(currency_code="EUR", amount="9000000000000.00")
_IN_FLIGHT_MAX: Final = 32
_keys = itertools.count()


@dataclass(frozen=True, slots=True)
class ChargeTarget:
    """A caller and the budgets that it charges."""

    metadata: Metadata | None
    budget_ids: Sequence[str]


def new_key() -> str:
    """Return a new idempotency key."""
    return f"bench-{next(_keys)}"


async def concurrently(calls: Sequence[Callable[[], Awaitable[T]]]) -> list[T]:
    """Run the calls concurrently, with a limit; return their results."""
    turn = asyncio.Semaphore(_IN_FLIGHT_MAX)

    async def one(call: Callable[[], Awaitable[T]]) -> T:
        async with turn:
            return await call()

    return list(await asyncio.gather(*map(one, calls)))


class Factory:
    """Creates entities and budgets of a tenant."""

    def __init__(self, entities: aio.Channel, budgets: aio.Channel, metadata: Metadata) -> None:
        self._entities = EntityServiceStub(entities)
        self._budgets = BudgetServiceStub(budgets)
        self._metadata = metadata

    async def entity(self, code: str = "") -> str:
        """Create an entity; return its id."""
        request = entity_service_pb2.CreateEntityRequest(
            code=code or uuid4().hex, legal_name="A company", entity_type=Entity.SUBSIDIARY, currency_code="EUR",
            country_code="DE",
        )  # fmt: skip
        return (await self._entities.CreateEntity(request, metadata=self._metadata, timeout=TIMEOUT_S)).id

    async def tree(self, *widths: int) -> list[str]:
        """Create trees of budgets with this many roots, children of each, and so on; return the ids of the leaves."""
        entity_id = await self.entity()
        level = [""]
        for width in widths:
            above = [parent_id for parent_id in level for _ in range(width)]
            level = await concurrently([partial(self.budget, entity_id, parent_id) for parent_id in above])
        return level

    async def budget(self, entity_id: str, parent_id: str = "") -> str:
        """Create a budget that is never exhausted; return its id."""
        request = budget_service_pb2.CreateBudgetRequest(
            entity_id=entity_id, parent_id=parent_id, name="Cloud", period_type=Budget.ANNUAL,
            period_start_date=f"{datetime.now(UTC).year}-01-01", amount=_ROOM,
        )  # fmt: skip
        return (await self._budgets.CreateBudget(request, metadata=self._metadata, timeout=TIMEOUT_S)).id


async def multiply(admin: "asyncpg.Connection", table: str, times: int, *, where: str = "true", **changed: str) -> None:
    """Insert `times` copies of the selected rows directly into the table.

    `changed` has SQL expressions for columns that differ in the copy; `n` is the number of the copy, from 1. All other
    columns are copied. Triggers and foreign keys are disabled.
    """
    query = "select column_name from information_schema.columns where table_schema || '.' || table_name = $1"
    columns = [row["column_name"] for row in await admin.fetch(f"{query} and is_generated = 'NEVER'", table)]
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
    """Return SQL for the id of copy `n`, as if one row per millisecond had been inserted until now."""
    first = f"(extract(epoch from now()) * 1000)::bigint - {10**8} + n"
    return (
        f"(lpad(to_hex({first}), 12, '0') || '7' || substr(md5(n::text), 1, 3)"
        " || '8' || substr(md5(n::text), 4, 15))::uuid"
    )
