"""The catalog of the database: owners, row-level security, privileges, append-only tables, foreign keys."""

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
    "cost_split_reversals",
    "contract_signatures",
    "contract_notices",
    "invoice_documents",
}
READ_ACROSS_TENANTS = {"outbox", "timers"}
"""Tables whose rows the service processes for all tenants."""
COUNTED_ACROSS_TENANTS = {"dead_letters"}
"""Tables whose rows the service may read, but not write, for all tenants."""
BOOKKEEPING = {"alembic_version"}
"""Alembic's own table, which has no tenant; the app role has no rights on it."""
WRITTEN_BY_TRIGGER = {"audit_log"}
"""Tables that the app role only reads: triggers write them with the rights of the owner."""
SECURITY_DEFINER = {"record_change"}
"""Functions that run with the rights of their owner: the audit trigger, so that nothing else writes the audit log."""

ENGINE_RIGHTS: dict[str, dict[str, tuple[set[str], set[str]]]] = {
    "budgets": {
        "budgets": (
            {"SELECT"},
            {"carried", "carried_forward", "spent", "held", "committed", "captured", "ledger_version"},
        ),
        "budget_entries": ({"SELECT", "INSERT"}, set()),
        "budget_holds": (
            {"SELECT", "INSERT"},
            {
                "amount",
                "original_open",
                "captured",
                "released",
                "state",
                "expire_time",
                "last_entry_id",
                "version",
                "update_time",
            },
        ),
        "budget_alerts": ({"SELECT", "INSERT"}, {"state", "version", "update_time"}),
        "idempotency_keys": ({"SELECT", "INSERT"}, set()),
        "timers": ({"SELECT", "INSERT", "DELETE"}, {"due_time", "attempts"}),
        "outbox": ({"INSERT"}, set()),
        "unbudgeted_spend": ({"SELECT", "INSERT"}, set()),
    }
}
"""The one exception to "one tenant per transaction": the rights of an engine role, which works for several tenants at
once, by service and table, and the columns that it may update."""

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
    rows = [row for row in await admin.fetch(_TABLES, schema) if row["relname"] not in BOOKKEEPING]
    assert rows
    return rows


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
        special = special_policies(schema, table["relname"])
        assert {policy["polname"]: policy["roles"] for policy in policies} == {
            f"{table['relname']}_tenant": [],
            **shared,
            **{name: roles for name, (roles, *_) in special.items()},
        }
        for policy in policies:
            if policy["polname"] in special:
                actual = policy["roles"], policy["polcmd"], policy["seen"], policy["written"]
                assert actual == special[policy["polname"]]
                continue
            assert policy["seen"] == policy["written"]
            assert policy["polcmd"] == b"*"
            everywhere = table["relname"] in READ_ACROSS_TENANTS and policy["polname"] not in shared
            assert ("app.everywhere" in policy["seen"]) == everywhere, table["relname"]
            setting = "'app.tenant_ids'" if policy["polname"] in shared else "'app.tenant_id'"
            assert setting in policy["seen"]
            assert "tenant_id" in policy["seen"].partition("current_setting")[0]


def special_policies(schema: str, table: str) -> dict[str, tuple[list[str], bytes, str | None, str | None]]:
    """Return the policies for one purpose: their roles, command, and conditions of rows read and written."""
    if table in COUNTED_ACROSS_TENANTS:
        everywhere = "(( SELECT current_setting('app.everywhere'::text, true) AS current_setting) = 'on'::text)"
        return {f"{table}_count": ([], b"r", everywhere, None)}
    if table in WRITTEN_BY_TRIGGER:
        return {f"{table}_trigger": ([roles(schema)[0]], b"a", None, "true")}
    return {}


@every_schema
async def test_app_role_owns_nothing_and_has_no_privileges(admin: "Pool[asyncpg.Record]", schema: str) -> None:
    owner, app = roles(schema)
    assert {table["owner"] for table in await tables(admin, schema)} == {owner}
    engines = [ENGINES[schema]] if schema in ENGINES else []
    for role in (owner, app, *engines):
        attributes = await admin.fetchrow("select * from pg_roles where rolname = $1", role)
        assert attributes
        for power in ("rolsuper", "rolbypassrls", "rolcreaterole", "rolcreatedb", "rolreplication"):
            assert not attributes[power], (role, power)
    member_of = "select roleid::regrole::text from pg_auth_members where member = $1::regrole"
    assert [row["roleid"] for row in await admin.fetch(member_of, app)] == engines


every_engine = pytest.mark.parametrize(("schema", "engine"), ENGINES.items())
RIGHTS = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER")


def test_rights_of_every_engine_are_listed() -> None:
    assert ENGINES.keys() == ENGINE_RIGHTS.keys()


@every_engine
async def test_engine_has_exactly_the_listed_rights(admin: "Pool[asyncpg.Record]", schema: str, engine: str) -> None:
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
async def test_no_role_is_an_engine_by_default(admin: "Pool[asyncpg.Record]", schema: str, engine: str) -> None:
    """The app role may switch to the engine role and has none of its rights before; no one can log in as an engine."""
    _, app = roles(schema)
    attributes = await admin.fetchrow("select rolcanlogin, rolinherit from pg_roles where rolname = $1", engine)
    assert attributes
    assert not attributes["rolcanlogin"]
    assert await admin.fetchval("select count(*) from pg_auth_members where member = $1::regrole", engine) == 0
    assert await admin.fetchval("select count(*) from pg_class where relowner = $1::regrole", engine) == 0
    has = "select pg_has_role($1, $2, 'member') as may_become, pg_has_role($1, $2, 'usage') as is_one"
    assert dict(await admin.fetchrow(has, app, engine) or {}) == {"may_become": True, "is_one": False}
    for other in SCHEMAS:
        for role in roles(other):
            if role != app:
                assert not await admin.fetchval("select pg_has_role($1, $2, 'member')", role, engine), role


async def test_app_role_needs_the_engine_role_to_see_several_tenants(
    admin: "Pool[asyncpg.Record]",
    app_connection: Callable[[str], contextlib.AbstractAsyncContextManager[asyncpg.Connection]],
) -> None:
    """With `app.tenant_ids` set the app role still sees no rows until it switches to the engine role."""
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
            assert await connection.fetch(seen, [tenant, other]) == []  # without tenant ids no row is visible


@every_schema
async def test_app_role_uses_its_own_schema_only(admin: "Pool[asyncpg.Record]", schema: str) -> None:
    _, app = roles(schema)
    for other in [*SCHEMAS, "public"]:
        usable = await admin.fetchval("select has_schema_privilege($1, $2, 'usage')", app, other)
        creatable = await admin.fetchval("select has_schema_privilege($1, $2, 'create')", app, other)
        assert (usable, creatable) == (other == schema, False), other


@every_schema
async def test_append_only_tables_allow_inserts_only(admin: "Pool[asyncpg.Record]", schema: str) -> None:
    _, app = roles(schema)
    for table in await tables(admin, schema):
        allowed = [
            right
            for right in ("INSERT", "UPDATE", "DELETE", "TRUNCATE")
            if await admin.fetchval("select has_table_privilege($1, $2::oid, $3)", app, table["oid"], right)
        ]
        if table["relname"] in WRITTEN_BY_TRIGGER:
            assert allowed == [], table["relname"]
        elif table["relname"] in APPEND_ONLY:
            assert allowed == ["INSERT"], table["relname"]
        assert "TRUNCATE" not in allowed


@every_schema
async def test_serving_roles_have_no_rights_on_the_version_table(admin: "Pool[asyncpg.Record]", schema: str) -> None:
    members = [roles(schema)[1], *([ENGINES[schema]] if schema in ENGINES else [])]
    for role in members:
        for right in RIGHTS:
            table = f"{schema}.alembic_version"
            assert not await admin.fetchval("select has_table_privilege($1, $2, $3)", role, table, right), (role, right)


@every_schema
async def test_only_the_audit_trigger_is_security_definer(admin: "Pool[asyncpg.Record]", schema: str) -> None:
    functions = await admin.fetch(
        "select p.proname, p.prosecdef, p.proconfig from pg_proc p join pg_namespace n on n.oid = p.pronamespace"
        " where n.nspname = $1",
        schema,
    )
    definers = {row["proname"]: row["proconfig"] for row in functions if row["prosecdef"]}
    assert definers.keys() == ({row["proname"] for row in functions} & SECURITY_DEFINER)
    # Otherwise a caller could make it use functions of another schema.
    assert all(settings == ["search_path=pg_catalog, pg_temp"] for settings in definers.values())


@every_schema
async def test_views_are_security_invoker(admin: "Pool[asyncpg.Record]", schema: str) -> None:
    views = await admin.fetch(
        "select c.relname, c.reloptions from pg_class c join pg_namespace n on n.oid = c.relnamespace"
        " where n.nspname = $1 and c.relkind in ('v', 'm')",
        schema,
    )
    assert all("security_invoker=true" in (row["reloptions"] or []) for row in views)


@every_schema
async def test_foreign_keys_contain_the_tenant(admin: "Pool[asyncpg.Record]", schema: str) -> None:
    """The database then rejects a row that refers to another tenant."""
    references = await admin.fetch(
        "select c.conname, array(select a.attname::text from unnest(c.conkey) k join pg_attribute a"
        " on a.attrelid = c.conrelid and a.attnum = k) as columns from pg_constraint c"
        " join pg_namespace n on n.oid = c.connamespace where n.nspname = $1 and c.contype = 'f'",
        schema,
    )
    for reference in references:
        assert "tenant_id" in reference["columns"], reference["conname"]


@every_schema
async def test_every_foreign_key_has_an_index(admin: "Pool[asyncpg.Record]", schema: str) -> None:
    """An index that starts with the tenant and another column of the key."""
    missing = await admin.fetch(
        "select c.conname from pg_constraint c join pg_namespace n on n.oid = c.connamespace"
        " where n.nspname = $1 and c.contype = 'f' and not exists (select from pg_index i where i.indrelid = c.conrelid"
        " and (i.indkey::int2[])[0:1] <@ c.conkey)",
        schema,
    )
    assert [row["conname"] for row in missing] == []


@every_schema
async def test_unique_keys_contain_the_tenant(admin: "Pool[asyncpg.Record]", schema: str) -> None:
    """Ids of the outbox are generated by us, so a conflict reveals nothing of another tenant."""
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
