"""What the database itself says of our tables: who owns them, who sees which rows, and what never changes."""

import asyncpg
import pytest

from deploy.database import MIGRATIONS, roles

Pool = asyncpg.Pool
SCHEMAS = list(MIGRATIONS)
APPEND_ONLY = {"audit_log", "inbox", "idempotency_keys", "budget_entries"}
BOOKKEEPING = {"alembic_version"}
"""Alembic's own table, which has no tenant; the serving role may do no more than look at it."""
SECURITY_DEFINER: set[str] = set()
"""Functions that run with their owner's rights, each with its reason. There are none."""

_TABLES = """
    select c.oid, c.relname, c.relrowsecurity, c.relforcerowsecurity, pg_get_userbyid(c.relowner) as owner
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where n.nspname = $1 and c.relkind in ('r', 'p')"""

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
        policies = await admin.fetch(
            "select pg_get_expr(polqual, polrelid) as seen, pg_get_expr(polwithcheck, polrelid) as written, polcmd,"
            " polpermissive from pg_policy where polrelid = $1",
            table["oid"],
        )
        (policy,) = policies
        assert policy["seen"] == policy["written"]
        assert "app.tenant_id" in policy["seen"]
        assert policy["polcmd"] == b"*"
        assert ("app.everywhere" in policy["seen"]) == (table["relname"] == "outbox"), table["relname"]


@every_schema
async def test_the_serving_role_owns_nothing_and_has_no_power(admin: "Pool[asyncpg.Record]", schema: str) -> None:
    owner, app = roles(schema)
    assert {table["owner"] for table in await tables(admin, schema)} == {owner}
    for role in (owner, app):
        found = await admin.fetchrow("select * from pg_roles where rolname = $1", role)
        assert found
        for power in ("rolsuper", "rolbypassrls", "rolcreaterole", "rolcreatedb", "rolreplication"):
            assert not found[power], (role, power)
    member_of = "select count(*) from pg_auth_members where member = $1::regrole"
    assert await admin.fetchval(member_of, app) == 0


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
