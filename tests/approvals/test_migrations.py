"""Migrations of approvals, down and up again with many rows of several tenants in the tables."""

from collections.abc import Awaitable, Callable

import asyncpg
from alembic import command

from tests.approvals.bulk_data import BULK_DATA
from tests.harness.databases import Copy
from tests.harness.migrations import layout, migrate

_WHOLE = "select count(*), sum(whole_amount - floor(amount)) from approval_requests"


async def test_down_and_up_again_with_rows_in_it(fresh_database: Callable[[], Awaitable[Copy]]) -> None:
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
        assert tuple(await admin.fetchrow(_WHOLE) or ()) == (rows, 0)
        assert await layout(admin, "approvals") == before
        await migrate(copy, "approvals", command.downgrade, "base")
        left = "select relname from pg_class where relnamespace = 'approvals'::regnamespace and relkind = 'r'"
        assert [row[0] for row in await admin.fetch(left)] == ["alembic_version"]
        await migrate(copy, "approvals", command.upgrade, "head")
        assert await layout(admin, "approvals") == before
    finally:
        await admin.close()
