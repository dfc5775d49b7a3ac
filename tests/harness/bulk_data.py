"""Bulk data for tests of query plans: one large tenant and several smaller ones.

Inserted directly into the tables; triggers and foreign keys are disabled. Some rows of each kind are rare, all at one
end of the ids: a scan from the other end reaches them last.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import asyncpg

RARE: Final = 100
"""Number of rare rows of each kind."""
TENANT_ID: Final = UUID(int=1)
"""The large tenant."""
_TENANT_IDS: Final = [TENANT_ID, *(UUID(int=number) for number in range(2, 11))]
_TIMEOUT_S: Final = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkData:
    """The rows of one service."""

    schema: str
    kinds: tuple[str, ...]
    """Kinds with ids; in SQL `pg_temp.id_of(kind, number, tenant)`."""
    sizes: Mapping[str, tuple[int, int]]
    """Temporary tables of (tenant, n, rare) to insert from: their rows for the large tenant and for each other one."""
    rare_first: bool
    """True if the rare rows have the lowest numbers, False for the highest."""
    tables: Mapping[str, str]
    """The insert statement of each table."""

    def id_of(self, kind: str, number: int) -> UUID:
        """Return an id of the large tenant; ids rise with the number."""
        return UUID(f"{number:012x}70008000{TENANT_ID.int:03x}{self.kinds.index(kind):09x}")

    async def load(self, admin: "asyncpg.Connection") -> None:
        """Insert all rows."""
        async with admin.transaction():
            await admin.execute("set local session_replication_role = 'replica'")
            await admin.execute(f"set local search_path = {self.schema}")
            await admin.execute(_ID_OF.format(kinds=list(self.kinds)))
            for name, (large, small) in self.sizes.items():
                await self._number(admin, name, [large if tenant == TENANT_ID else small for tenant in _TENANT_IDS])
            for rows in self.tables.values():
                await admin.execute(rows, timeout=_TIMEOUT_S)
        tables = ", ".join(f"{self.schema}.{table}" for table in self.tables)
        await admin.execute(f"vacuum (analyze) {tables}", timeout=_TIMEOUT_S)

    async def _number(self, admin: "asyncpg.Connection", name: str, counts: list[int]) -> None:
        rare = "n <= $3" if self.rare_first else "n > count - $3"
        await admin.execute(f"create temp table {name} (tenant uuid, n bigint, rare boolean) on commit drop")
        await admin.execute(
            f"insert into {name} select tenant, n, {rare} from unnest($1::uuid[], $2::int[])"
            " as of_tenant (tenant, count), generate_series(1, count) n",
            _TENANT_IDS, counts, RARE,
        )  # fmt: skip


_ID_OF: Final = """
    create function pg_temp.id_of(kind text, number bigint, tenant uuid) returns uuid language sql immutable as $$
        select (lpad(to_hex(number), 12, '0') || '70008000' || right(tenant::text, 3)
            || lpad(to_hex(array_position(array{kinds}, kind) - 1), 9, '0'))::uuid
    $$"""
