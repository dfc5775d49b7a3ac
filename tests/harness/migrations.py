"""Run migrations of a service as its owner, and describe its schema."""

from collections.abc import Callable
from typing import Any, Final

import asyncpg
from sqlalchemy import Connection, make_url
from sqlalchemy.ext.asyncio import create_async_engine

from deploy import database
from tests.harness.databases import Copy

_LAYOUT: Final = """
    select c.relname || ' ' || a.attname || ' ' || format_type(a.atttypid, a.atttypmod) || ' ' || a.attnotnull
    from pg_class c join pg_attribute a on a.attrelid = c.oid
    where c.relnamespace = $1::text::regnamespace and a.attnum > 0 and not a.attisdropped
    union all
    select conrelid::regclass || ' ' || conname || ' ' || pg_get_constraintdef(oid)
    from pg_constraint where connamespace = $1::text::regnamespace
    union all
    select tablename || ' ' || policyname || ' ' || qual || ' ' || coalesce(with_check, '') from pg_policies
    where schemaname = $1::text
    union all
    select tgrelid::regclass || ' ' || pg_get_triggerdef(oid) from pg_trigger where not tgisinternal
    and tgrelid in (select oid from pg_class where relnamespace = $1::text::regnamespace)
"""


async def layout(admin: asyncpg.Connection, schema: str) -> set[str]:
    """Return the columns, constraints, policies and triggers of a schema."""
    return {row[0] for row in await admin.fetch(_LAYOUT, schema)}


async def migrate(copy: Copy, service: str, direction: Callable[[Any, str], object], revision: str) -> None:
    """Upgrade or downgrade the schema of a service to a revision."""

    def run(connection: Connection) -> None:
        direction(database._config(service, connection), revision)

    engine = create_async_engine(make_url(copy.url(f"{service}_owner")).set(drivername="postgresql+asyncpg"))
    async with engine.connect() as connection:
        await connection.run_sync(run)
    await engine.dispose()
