"""Query plans of the statements that a store sends.

They are explained with the role of the service and row-level security, once with their values (custom plan) and once
without (generic plan).
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


PlanCase: TypeAlias = tuple[Callable[[ReadSession], Awaitable[Any]], set[str], int]
"""A query, the indexes that it may use, and the maximum number of rows that it reads."""


class TableReads(NamedTuple):
    """How a plan reads its tables."""

    indexes: set[str]
    sequential_scans: set[str]
    """Tables that are read completely."""
    rows: int
    """Rows read, also those that a filter removes."""


@dataclass(frozen=True, slots=True)
class Plans:
    """The database of a service for one tenant, and a connection with the role of the service."""

    database: Database
    connection: "asyncpg.Connection"
    tenant_id: UUID

    async def statements(
        self, query: Callable[[ReadSession], Awaitable[T]], *, scope: Scope | None = None
    ) -> tuple[list[Statement], T]:
        """Run the query; return the statements that it sent, without set_config, and its result."""
        sent: list[Statement] = []
        engine = self.database._engine.sync_engine

        def record(_: Any, __: Any, statement: str, parameters: Any, ___: Any, ____: Any) -> None:
            if "set_config" not in statement:
                sent.append((statement, parameters))

        trace, deadline = Trace.from_header(None), time.monotonic() + 30
        origin = Origin(tenant_id=self.tenant_id, actor="alice", trace=trace, deadline=deadline, scope=scope)
        event.listen(engine, "before_cursor_execute", record)
        try:
            async with self.database.read(origin) as tx:
                fetch = tx.fetch

                async def recording_fetch(statement: str, *values: object) -> Sequence[asyncpg.Record]:
                    sent.append((statement, values))
                    return await fetch(statement, *values)

                tx.fetch = recording_fetch  # type: ignore[method-assign]  # of this transaction only
                result = await query(tx)
        finally:
            event.remove(engine, "before_cursor_execute", record)
        return sent, result

    async def bad_plans(
        self, cases: Mapping[str, PlanCase], *, scope: Scope | None = None
    ) -> dict[str, tuple[TableReads, str]]:
        """Return the cases that scan a table, use another index, or read more rows than allowed."""
        bad = {}
        for name, (query, indexes, rows_max) in cases.items():
            ((statement, parameters),), _ = await self.statements(query, scope=scope)
            for read in await self.reads(statement, parameters):
                uses_indexes = bool(read.indexes) and read.indexes <= indexes
                if read.sequential_scans or not uses_indexes or read.rows > rows_max:
                    bad[name] = read, statement
        return bad

    async def reads(self, statement: str, parameters: Sequence[Any], *, of_table: str = "") -> list[TableReads]:
        """Return how the custom and the generic plan read all tables, or one."""
        async with self.connection.transaction():
            await self.connection.execute("select set_config('app.tenant_id', $1, true)", str(self.tenant_id))
            await self.connection.execute("set local plan_cache_mode = force_generic_plan")
            await self.connection.execute(f"prepare explained as {statement}")
            values = f"({', '.join(map(_literal, parameters))})" if parameters else ""
            explain = "explain (analyze, timing off, format json)"
            plans = [
                await self.connection.fetchval(f"{explain} {statement}", *parameters),
                await self.connection.fetchval(f"{explain} execute explained{values}"),
            ]
            await self.connection.execute("deallocate explained")
        return [_table_reads(json.loads(each)[0]["Plan"], of_table) for each in plans]


def _literal(value: Any) -> str:
    """Return the value as an SQL literal."""
    if isinstance(value, list):
        return "'{" + ",".join(f'"{item}"' for item in value) + "}'"
    return "null" if value is None else "'" + str(value).replace("'", "''") + "'"


def _table_reads(plan: dict[str, Any], of_table: str) -> TableReads:
    nodes = list(_nodes(plan))
    scans = [node for node in nodes if of_table in {"", node.get("Relation Name")} and "Relation Name" in node]
    indexes = {node["Index Name"] for node in nodes if "Index Name" in node}
    removed = ("Rows Removed by Filter", "Rows Removed by Index Recheck")
    rows = sum((node["Actual Rows"] + sum(node.get(each, 0) for each in removed)) * node["Actual Loops"]
               for node in scans)  # fmt: skip
    scanned = {node["Relation Name"] for node in scans if node["Node Type"] == "Seq Scan"}
    return TableReads({index for index in indexes if index.startswith(of_table)}, scanned, int(rows))


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from _nodes(child)


@contextlib.asynccontextmanager
async def opened(settings: Settings, copy: Copy, tenant_id: UUID) -> AsyncIterator[Plans]:
    """Open the database of a service in a copy for a tenant."""
    database, connection = Database(settings), await asyncpg.connect(copy.url(f"{settings.service}_app"))
    try:
        yield Plans(database, connection, tenant_id)
    finally:
        await connection.close()
        await database.close()
