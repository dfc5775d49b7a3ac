"""Migrations of approvals, downgraded and upgraded with bulk data in the tables."""

from collections.abc import Awaitable, Callable

import asyncpg
from alembic import command

from tests.approvals.bulk_data import BULK_DATA
from tests.harness.databases import Copy
from tests.harness.migrations import layout, migrate

_WHOLE_AMOUNTS = "select count(*), sum(whole_amount - floor(amount)) from approval_requests"


async def test_downgrade_and_upgrade_keep_rows_and_layout(fresh_database: Callable[[], Awaitable[Copy]]) -> None:
    copy = await fresh_database()
    admin = await asyncpg.connect(copy.admin_url)
    try:
        await admin.execute("set search_path = approvals")
        before = await layout(admin, "approvals")
        await BULK_DATA.load(admin)
        rows = await admin.fetchval("select count(*) from approval_requests")
        await migrate(copy, "approvals", command.downgrade, "0003")
        assert await admin.fetchval("select count(*) from approval_requests") == rows
        await migrate(copy, "approvals", command.upgrade, "head")
        assert tuple(await admin.fetchrow(_WHOLE_AMOUNTS) or ()) == (rows, 0)
        assert await layout(admin, "approvals") == before
        await migrate(copy, "approvals", command.downgrade, "base")
        tables = "select relname from pg_class where relnamespace = 'approvals'::regnamespace and relkind = 'r'"
        assert [row[0] for row in await admin.fetch(tables)] == ["alembic_version"]
        await migrate(copy, "approvals", command.upgrade, "head")
        assert await layout(admin, "approvals") == before
    finally:
        await admin.close()
