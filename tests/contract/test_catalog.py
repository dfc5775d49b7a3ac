"""What the database itself says of our tables: who owns them, who sees which rows, and what never changes."""

import contextlib
from collections.abc import Callable
from uuid import uuid4

import asyncpg
import pytest

from deploy.database import ENGINES, MIGRATIONS, roles

Pool = asyncpg.Pool
SCHEMAS = list(MIGRATIONS)
APPEND_ONLY = {
    "audit_log",
    "inbox",
    "idempotency_keys",
    "budget_entries",
    "unbudgeted_spend",
    "posted_departments",
    "cost_allocations",
    "purchase_order_warnings",
    "cost_splits",
    "contract_signatures",
    "contract_notices",
}
SEEN_EVERYWHERE = {"outbox", "timers"}
"""What the service itself works off for all tenants."""
BOOKKEEPING = {"alembic_version"}
"""Alembic's own table, which has no tenant; the serving role may do no more than look at it."""
SECURITY_DEFINER: set[str] = set()
"""Functions that run with their owner's rights, each with its reason. There are none."""

ENGINE_RIGHTS: dict[str, dict[str, tuple[set[str], set[str]]]] = {
    "budgets": {
        "budgets": ({"SELECT"}, {"spent", "held", "committed", "captured", "ledger_version"}),
        "budget_entries": ({"SELECT", "INSERT"}, set()),
        "budget_holds": (
            {"SELECT", "INSERT"},
            {"captured", "released", "state", "expire_time", "last_entry_id", "version", "update_time"},
        ),
        "budget_alerts": ({"SELECT", "INSERT"}, {"state", "version", "update_time"}),
        "idempotency_keys": ({"SELECT", "INSERT"}, set()),
        "timers": ({"SELECT", "INSERT", "DELETE"}, {"due_time", "attempts"}),
        "outbox": ({"INSERT"}, set()),
        "audit_log": ({"INSERT"}, set()),
        "unbudgeted_spend": ({"SELECT", "INSERT"}, set()),
    }
}
"""The one exception from "one tenant in a transaction": what a role may do for several at once, by service and table;
of the rows that are there it changes these columns only."""

_TABLES = """
    select c.oid, c.relname, c.relrowsecurity, c.relforcerowsecurity, pg_get_userbyid(c.relowner) as owner
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where n.nspname = $1 and c.relkind in ('r', 'p')"""

_POLICIES = """
    select polname, polcmd, pg_get_expr(polqual, polrelid) as seen, pg_get_expr(polwithcheck, polrelid) as written,
        array(select rolname::text from pg_roles where oid = any(polroles)) as roles
    from pg_policy where polrelid = $1"""

every_schema = pytest.mark.parametrize("schema", SCHEMAS)


async def tables(admin: "Pool[asyncpg.Record]", schema: str) -> list[asyncpg.Record]:
    found = [row for row in await admin.fetch(_TABLES, schema) if row["relname"] not in BOOKKEEPING]
    assert found
    return found


@every_schema
async def test_every_table_has_a_tenant_in_its_key(admin: "Pool[asyncpg.Record]", schema: str) -> None:
    for table in await tables(admin, schema):
        columns = await admin.fetch("select attname, attnotnull from pg_attribute where attrelid = $1", table["oid"])
        assert {row["attname"]: row["attnotnull"] for row in columns}.get("tenant_id"), table["relname"]


@every_schema
async def test_row_level_security_is_forced_in_both_directions(admin: "Pool[asyncpg.Record]", schema: str) -> None:
    for table in await tables(admin, schema):
        assert table["relrowsecurity"], table["relname"]
        assert table["relforcerowsecurity"], table["relname"]
        policies = await admin.fetch(_POLICIES, table["oid"])
        engine = ENGINES.get(schema, "")
        shared = {f"{table['relname']}_tenants": [engine]} if table["relname"] in ENGINE_RIGHTS.get(schema, {}) else {}
        assert {policy["polname"]: policy["roles"] for policy in policies} == {
            f"{table['relname']}_tenant": [],
            **shared,
        }
        for policy in policies:
            assert policy["seen"] == policy["written"]
            assert policy["polcmd"] == b"*"
            everywhere = table["relname"] in SEEN_EVERYWHERE and policy["polname"] not in shared
            assert ("app.everywhere" in policy["seen"]) == everywhere, table["relname"]
            setting = "'app.tenant_ids'" if policy["polname"] in shared else "'app.tenant_id'"
            assert setting in policy["seen"]
            assert "tenant_id" in policy["seen"].partition("current_setting")[0]


@every_schema
async def test_the_serving_role_owns_nothing_and_has_no_power(admin: "Pool[asyncpg.Record]", schema: str) -> None:
    owner, app = roles(schema)
    assert {table["owner"] for table in await tables(admin, schema)} == {owner}
    engines = [ENGINES[schema]] if schema in ENGINES else []
    for role in (owner, app, *engines):
        found = await admin.fetchrow("select * from pg_roles where rolname = $1", role)
        assert found
        for power in ("rolsuper", "rolbypassrls", "rolcreaterole", "rolcreatedb", "rolreplication"):
            assert not found[power], (role, power)
    member_of = "select roleid::regrole::text from pg_auth_members where member = $1::regrole"
    assert [row["roleid"] for row in await admin.fetch(member_of, app)] == engines


every_engine = pytest.mark.parametrize(("schema", "engine"), ENGINES.items())
RIGHTS = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER")


def test_every_engine_is_stated() -> None:
    assert ENGINES.keys() == ENGINE_RIGHTS.keys()


@every_engine
async def test_an_engine_may_do_what_is_stated_and_nothing_else(
    admin: "Pool[asyncpg.Record]", schema: str, engine: str
) -> None:
    for table in await tables(admin, schema):
        on_table = {
            right
            for right in RIGHTS
            if await admin.fetchval("select has_table_privilege($1, $2::oid, $3)", engine, table["oid"], right)
        }
        columns = await admin.fetch(
            "select attname, has_column_privilege($1, attrelid, attnum, 'UPDATE') as changes,"
            " has_column_privilege($1, attrelid, attnum, 'REFERENCES') as refers"
            " from pg_attribute where attrelid = $2 and attnum > 0 and not attisdropped",
            engine,
            table["oid"],
        )
        changes = {row["attname"] for row in columns if row["changes"]}
        assert (on_table, changes) == ENGINE_RIGHTS[schema].get(table["relname"], (set(), set())), table["relname"]
        assert not any(row["refers"] for row in columns)


@every_engine
async def test_nobody_is_an_engine_by_himself(admin: "Pool[asyncpg.Record]", schema: str, engine: str) -> None:
    """The serving role may become it, and until then has nothing of it; nobody logs in as one."""
    _, app = roles(schema)
    found = await admin.fetchrow("select rolcanlogin, rolinherit from pg_roles where rolname = $1", engine)
    assert found
    assert not found["rolcanlogin"]
    assert await admin.fetchval("select count(*) from pg_auth_members where member = $1::regrole", engine) == 0
    assert await admin.fetchval("select count(*) from pg_class where relowner = $1::regrole", engine) == 0
    has = "select pg_has_role($1, $2, 'member') as may_become, pg_has_role($1, $2, 'usage') as is_one"
    assert dict(await admin.fetchrow(has, app, engine) or {}) == {"may_become": True, "is_one": False}
    for other in SCHEMAS:
        for role in roles(other):
            if role != app:
                assert not await admin.fetchval("select pg_has_role($1, $2, 'member')", role, engine), role


async def test_the_tenants_of_an_engine_are_nobody_elses(
    admin: "Pool[asyncpg.Record]",
    app_connection: Callable[[str], contextlib.AbstractAsyncContextManager[asyncpg.Connection]],
) -> None:
    """With `app.tenant_ids` set the serving role still sees nothing, until it says that it is the engine."""
    tenant, other = uuid4(), uuid4()
    for tenant_id in (tenant, other):
        await admin.execute(
            "insert into budgets.idempotency_keys (tenant_id, method, key, fingerprint, reply)"
            " values ($1, 'm', 'k', '', '')",
            tenant_id,
        )
    async with app_connection("budgets") as connection:
        seen = "select tenant_id from idempotency_keys where tenant_id = any($1)"
        for role, sees in (("", []), ("set local role budgets_engine;", [tenant])):
            async with connection.transaction():
                await connection.execute(f"{role} set local app.tenant_ids = '{tenant}'")
                assert [row["tenant_id"] for row in await connection.fetch(seen, [tenant, other])] == sees
        async with connection.transaction():
            await connection.execute("set local role budgets_engine")
            assert await connection.fetch(seen, [tenant, other]) == []  # who names nobody sees nobody


@every_schema
async def test_the_serving_role_sees_its_own_schema_only(admin: "Pool[asyncpg.Record]", schema: str) -> None:
    _, app = roles(schema)
    for other in [*SCHEMAS, "public"]:
        usable = await admin.fetchval("select has_schema_privilege($1, $2, 'usage')", app, other)
        creatable = await admin.fetchval("select has_schema_privilege($1, $2, 'create')", app, other)
        assert (usable, creatable) == (other == schema, False), other


@every_schema
async def test_what_is_append_only_can_only_be_appended(admin: "Pool[asyncpg.Record]", schema: str) -> None:
    _, app = roles(schema)
    for table in await tables(admin, schema):
        allowed = [
            right
            for right in ("INSERT", "UPDATE", "DELETE", "TRUNCATE")
            if await admin.fetchval("select has_table_privilege($1, $2::oid, $3)", app, table["oid"], right)
        ]
        if table["relname"] in APPEND_ONLY:
            assert allowed == ["INSERT"], table["relname"]
        assert "TRUNCATE" not in allowed


@every_schema
async def test_no_function_runs_with_its_owners_rights(admin: "Pool[asyncpg.Record]", schema: str) -> None:
    functions = await admin.fetch(
        "select p.proname, p.prosecdef from pg_proc p join pg_namespace n on n.oid = p.pronamespace"
        " where n.nspname = $1",
        schema,
    )
    assert {row["proname"] for row in functions if row["prosecdef"]} == SECURITY_DEFINER


@every_schema
async def test_no_view_shows_what_its_owner_sees(admin: "Pool[asyncpg.Record]", schema: str) -> None:
    views = await admin.fetch(
        "select c.relname, c.reloptions from pg_class c join pg_namespace n on n.oid = c.relnamespace"
        " where n.nspname = $1 and c.relkind in ('v', 'm')",
        schema,
    )
    assert all("security_invoker=true" in (row["reloptions"] or []) for row in views)


@every_schema
async def test_references_carry_the_tenant(admin: "Pool[asyncpg.Record]", schema: str) -> None:
    """So that the database refuses a row that points across tenants."""
    references = await admin.fetch(
        "select c.conname, array(select a.attname::text from unnest(c.conkey) k join pg_attribute a"
        " on a.attrelid = c.conrelid and a.attnum = k) as columns from pg_constraint c"
        " join pg_namespace n on n.oid = c.connamespace where n.nspname = $1 and c.contype = 'f'",
        schema,
    )
    for reference in references:
        assert "tenant_id" in reference["columns"], reference["conname"]


@every_schema
async def test_every_reference_has_an_index(admin: "Pool[asyncpg.Record]", schema: str) -> None:
    """One that begins with the tenant and another of its columns."""
    missing = await admin.fetch(
        "select c.conname from pg_constraint c join pg_namespace n on n.oid = c.connamespace"
        " where n.nspname = $1 and c.contype = 'f' and not exists (select from pg_index i where i.indrelid = c.conrelid"
        " and (i.indkey::int2[])[0:1] <@ c.conkey)",
        schema,
    )
    assert [row["conname"] for row in missing] == []


@every_schema
async def test_unique_keys_are_of_one_tenant(admin: "Pool[asyncpg.Record]", schema: str) -> None:
    """The outbox's id is a random one of ours, so that nobody else's rows can be guessed by it."""
    keys = await admin.fetch(
        "select c.relname, i.indexrelid::regclass::text as name, array(select a.attname::text from unnest(i.indkey) k"
        " join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k) as columns from pg_index i"
        " join pg_class c on c.oid = i.indrelid join pg_namespace n on n.oid = c.relnamespace"
        " where n.nspname = $1 and i.indisunique",
        schema,
    )
    for key in keys:
        if key["relname"] not in BOOKKEEPING | {"outbox", "audit_log"}:
            assert "tenant_id" in key["columns"], key["name"]
