"""How PostgreSQL reads its tables for what the store asks: the statements as they were sent, and their plans.

They are explained as the role that serves and under row-level security; once as they are planned for their values, once
as they are planned for any.
"""

import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias, TypeVar
from uuid import UUID

import asyncpg
from sqlalchemy import event

from kit.auth import Scope
from kit.db import Database, ReadSession
from kit.origin import Origin
from kit.settings import Settings
from kit.telemetry import Trace
from tests.harness.databases import Copy

Statement: TypeAlias = tuple[str, Sequence[Any]]
T = TypeVar("T")


Question: TypeAlias = tuple[Callable[[ReadSession], Awaitable[Any]], set[str], int]
"""What is asked, the indexes of which one or more are read for it, and how many rows at most."""


class Read(NamedTuple):
    """How a statement reads its tables."""

    indexes: set[str]
    from_end_to_end: set[str]
    """The tables of which all rows are read."""
    rows: int
    """Those thrown away included."""


@dataclass(frozen=True, slots=True)
class Plans:
    """A database as a service has it for one tenant, and a connection of its serving role."""

    database: Database
    connection: "asyncpg.Connection"
    tenant_id: UUID

    async def asked(
        self, ask: Callable[[ReadSession], Awaitable[T]], *, scope: Scope | None = None
    ) -> tuple[list[Statement], T]:
        """The statements that the store sent, without those that begin a transaction; and the answer."""
        said: list[Statement] = []
        engine = self.database._engine.sync_engine

        def hear(_: Any, __: Any, statement: str, parameters: Any, ___: Any, ____: Any) -> None:
            if "set_config" not in statement:
                said.append((statement, parameters))

        trace, deadline = Trace.from_header(None), time.monotonic() + 30
        origin = Origin(tenant_id=self.tenant_id, actor="alice", trace=trace, deadline=deadline, scope=scope)
        event.listen(engine, "before_cursor_execute", hear)
        try:
            async with self.database.read(origin) as tx:
                fetch = tx.fetch

                async def hear_fetch(statement: str, *values: object) -> Sequence[asyncpg.Record]:
                    said.append((statement, values))
                    return await fetch(statement, *values)

                tx.fetch = hear_fetch  # type: ignore[method-assign]  # of this transaction only
                answer = await ask(tx)
        finally:
            event.remove(engine, "before_cursor_execute", hear)
        return said, answer

    async def badly_read(
        self, questions: Mapping[str, Question], *, scope: Scope | None = None
    ) -> dict[str, tuple[Read, str]]:
        """Those that read a table from end to end, another index, or more than they should."""
        wrong = {}
        for name, (ask, indexes, rows_max) in questions.items():
            ((statement, parameters),), _ = await self.asked(ask, scope=scope)
            for read in await self.reads(statement, parameters):
                found = bool(read.indexes) and read.indexes <= indexes
                if read.from_end_to_end or not found or read.rows > rows_max:
                    wrong[name] = read, statement
        return wrong

    async def reads(self, statement: str, parameters: Sequence[Any], *, of_table: str = "") -> list[Read]:
        """How it is read, for these values and for any; of all tables, or of one."""
        async with self.connection.transaction():
            await self.connection.execute("select set_config('app.tenant_id', $1, true)", str(self.tenant_id))
            await self.connection.execute("set local plan_cache_mode = force_generic_plan")
            await self.connection.execute(f"prepare asked as {statement}")
            values = f"({', '.join(map(_literal, parameters))})" if parameters else ""
            explain = "explain (analyze, timing off, format json)"
            told = [
                await self.connection.fetchval(f"{explain} {statement}", *parameters),
                await self.connection.fetchval(f"{explain} execute asked{values}"),
            ]
            await self.connection.execute("deallocate asked")
        return [_how_read(json.loads(each)[0]["Plan"], of_table) for each in told]


def _literal(value: Any) -> str:
    """As SQL has it."""
    if isinstance(value, list):
        return "'{" + ",".join(f'"{item}"' for item in value) + "}'"
    return "null" if value is None else "'" + str(value).replace("'", "''") + "'"


def _how_read(plan: dict[str, Any], of_table: str) -> Read:
    nodes = list(_nodes(plan))
    scans = [node for node in nodes if of_table in {"", node.get("Relation Name")} and "Relation Name" in node]
    indexes = {node["Index Name"] for node in nodes if "Index Name" in node}
    thrown_away = ("Rows Removed by Filter", "Rows Removed by Index Recheck")
    rows = sum((node["Actual Rows"] + sum(node.get(each, 0) for each in thrown_away)) * node["Actual Loops"]
               for node in scans)  # fmt: skip
    whole = {node["Relation Name"] for node in scans if node["Node Type"] == "Seq Scan"}
    return Read({index for index in indexes if index.startswith(of_table)}, whole, int(rows))


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for below in plan.get("Plans", ()):
        yield from _nodes(below)


@contextlib.asynccontextmanager
async def opened(settings: Settings, copy: Copy, tenant_id: UUID) -> AsyncIterator[Plans]:
    """The database of a service in a copy, as a tenant has it."""
    database, connection = Database(settings), await asyncpg.connect(copy.url(f"{settings.service}_app"))
    try:
        yield Plans(database, connection, tenant_id)
    finally:
        await connection.close()
        await database.close()
