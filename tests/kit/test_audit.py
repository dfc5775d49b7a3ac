"""Every query of the audit log uses an index, whatever the filters and the length of the log."""

import contextlib
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from billing.audit.v1.audit_service_pb2 import ListAuditEventsRequest
from sqlalchemy.dialects import postgresql

from kit.db import Database
from kit.settings import Settings
from services.budgets import models
from serving.audit import AuditServicer
from serving.pages import Pages
from serving.timeline import Position

Connect = Callable[[str], contextlib.AbstractAsyncContextManager[asyncpg.Connection]]

ROWS = 40_000
NOW = datetime.now(UTC)
RESOURCE = UUID(int=17)


@pytest.fixture
async def long_log(admin: "asyncpg.Pool[asyncpg.Record]", tenant: UUID) -> UUID:
    """ROWS changes of a tenant, and as many of another; some are of one resource."""
    for tenant_id in (tenant, uuid4()):
        await admin.execute(
            "insert into budgets.audit_log"
            " (tenant_id, resource_table, resource_id, action, actor, trace_id, after, create_time)"
            " select $1, 'budgets', case when i % 2000 = 0 then $2 else gen_random_uuid() end, 'update', 'alice', '',"
            " '{}', $3::timestamptz - i * interval '1 second' from generate_series(1, $4::int) i",
            tenant_id,
            RESOURCE,
            NOW,
            ROWS,
        )
    await admin.execute("analyze budgets.audit_log")
    return tenant


@pytest.mark.parametrize(
    ("filters", "after", "index"),
    [
        ({}, None, "audit_log_time_idx"),
        ({}, Position(NOW - timedelta(hours=5), "budgets", 7), "audit_log_time_idx"),
        ({}, Position(NOW - timedelta(hours=5), "approvals", 7), "audit_log_time_idx"),
        ({"resource_type": "budget"}, None, "audit_log_time_idx"),
        ({"actor": "alice"}, None, "audit_log_time_idx"),
        ({"resource_id": f"bud_{RESOURCE.hex}"}, None, "audit_log_resource_idx"),
        ({"resource_id": f"bud_{RESOURCE.hex}"}, Position(NOW, "zebra", 1), "audit_log_resource_idx"),
    ],
)
async def test_every_query_uses_an_index(
    long_log: UUID,
    app_connection: Connect,
    settings: Callable[..., Settings],
    filters: dict[str, Any],
    after: Position | None,
    index: str,
) -> None:
    assert models.budgets.BudgetRow.__tablename__ == "budgets", "the models are imported"
    service_settings = settings("budgets")
    database = Database(service_settings)
    servicer = AuditServicer("budgets", database, Pages(service_settings))
    query = servicer._query(ListAuditEventsRequest(**filters))
    if after is not None:
        query = servicer._query_after(query, after)
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    sql = str(query.limit(51).compile(dialect=dialect, compile_kwargs={"literal_binds": True}))
    async with app_connection("budgets") as connection, connection.transaction():
        await connection.execute(f"set local app.tenant_id = '{long_log}'")
        explained = json.loads(await connection.fetchval(f"explain (analyze, format json) {sql}"))
    nodes = list(_nodes(explained[0]["Plan"]))
    assert [node["Index Name"] for node in nodes if "Index Name" in node] == [index]
    assert not [node for node in nodes if node["Node Type"] == "Seq Scan"]
    read = sum(node["Actual Rows"] for node in nodes if "Index Name" in node)
    assert 0 < read <= 60, "it reads no more rows than it returns"
    await database.close()


def _nodes(plan: dict[str, Any]) -> Any:
    yield plan
    for below in plan.get("Plans", ()):
        yield from _nodes(below)
