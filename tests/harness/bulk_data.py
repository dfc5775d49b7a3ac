"""Crowds: a large tenant, of which nobody wants to read everything, and smaller ones beside it.

Written straight into the tables; triggers and foreign keys are left aside. Of each kind some are rare, all at one end:
who reads on from the other end finds the first of them after everything else.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import asyncpg

RARE: Final = 100
"""How many of each kind are rare."""
TENANT_ID: Final = UUID(int=1)
"""The large tenant."""
_TENANT_IDS: Final = [TENANT_ID, *(UUID(int=number) for number in range(2, 11))]
_WITHIN_S: Final = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkData:
    """The rows of one service."""

    schema: str
    kinds: tuple[str, ...]
    """What has an id: `pg_temp.id_of(kind, number, tenant)` in SQL."""
    sizes: Mapping[str, tuple[int, int]]
    """Tables of (tenant, n, rare) to write from: numbers up to the first for the large tenant, the second for each of
    the others."""
    rare_first: bool
    """Whether the rare ones are those of the lowest numbers, not of the highest."""
    tables: Mapping[str, str]
    """What writes each table."""

    def id_of(self, kind: str, number: int) -> UUID:
        """The id of something of the large tenant; ids rise with the number."""
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
                await admin.execute(rows, timeout=_WITHIN_S)
        tables = ", ".join(f"{self.schema}.{table}" for table in self.tables)
        await admin.execute(f"vacuum (analyze) {tables}", timeout=_WITHIN_S)

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
