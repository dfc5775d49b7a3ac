from collections.abc import Awaitable, Callable

import asyncpg
from alembic import command
from sqlalchemy import Connection, make_url
from sqlalchemy.ext.asyncio import create_async_engine

from deploy import database
from kit import ids
from tests.harness.databases import Copy

_LAYOUT = """
    select c.relname || ' ' || a.attname || ' ' || format_type(a.atttypid, a.atttypmod) || ' ' || a.attnotnull
    from pg_class c join pg_attribute a on a.attrelid = c.oid
    where c.relnamespace = 'entities'::regnamespace and a.attnum > 0
    union all
    select conrelid::regclass || ' ' || conname || ' ' || pg_get_constraintdef(oid)
    from pg_constraint where connamespace = 'entities'::regnamespace
    union all
    select tablename || ' ' || policyname || ' ' || qual || ' ' || with_check from pg_policies
    where schemaname = 'entities'
    union all
    select tgrelid::regclass || ' ' || pg_get_triggerdef(oid) from pg_trigger where not tgisinternal
    and tgrelid in (select oid from pg_class where relnamespace = 'entities'::regnamespace)
"""


async def test_down_and_up_again_with_rows_in_it(fresh_database: Callable[[], Awaitable[Copy]]) -> None:
    copy = await fresh_database()
    admin = await asyncpg.connect(copy.admin_url)
    try:
        await admin.execute("set search_path = entities")
        before = {row[0] for row in await admin.fetch(_LAYOUT)}
        await _fill(admin)
        await _migrate(copy, lambda connection: command.downgrade(database._config("entities", connection), "base"))
        left = "select relname from pg_class where relnamespace = 'entities'::regnamespace and relkind = 'r'"
        assert [row[0] for row in await admin.fetch(left)] == ["alembic_version"]
        await _migrate(copy, lambda connection: command.upgrade(database._config("entities", connection), "head"))
        assert {row[0] for row in await admin.fetch(_LAYOUT)} == before
        await _fill(admin)
    finally:
        await admin.close()


async def _fill(admin: asyncpg.Connection) -> None:
    tenant, entity, top, below = (ids.new() for _ in range(4))
    await admin.execute(
        "insert into billing_entities values ($1, $2, null, 'ACME', 'Acme SE', '', 'HOLDING', 'EUR', 'DE', '', '', 0,"
        " null, 'UTC', 1, 30, 'ACME', 'INCLUDE', 'ACTIVE', '{}', 1, now(), now())",
        tenant,
        entity,
    )
    await admin.execute(
        "insert into exchange_rates values ($1, $2, 'EUR', 'USD', current_date, 1.1, 'ECB', 1, now(), now())",
        tenant,
        ids.new(),
    )
    for department, parent in ((top, None), (below, top)):
        await admin.execute(
            "insert into departments values ($1, $2, $3, $4, $5, 'N', '', '', '', 0, 'ACTIVE', 1, now(), now())",
            tenant,
            department,
            entity,
            parent,
            department.hex,
        )
        await admin.execute(
            "insert into department_history values ($1, $2, $3, $4, current_date, null, now())",
            tenant,
            ids.new(),
            department,
            parent,
        )


async def _migrate(copy: Copy, run: Callable[[Connection], None]) -> None:
    owner = make_url(copy.url("entities_owner")).set(drivername="postgresql+asyncpg")
    engine = create_async_engine(owner)
    async with engine.connect() as connection:
        await connection.run_sync(run)
    await engine.dispose()
