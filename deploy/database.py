"""Provisions and migrates the database: a schema and two roles for each service.

`python -m deploy.database provision|migrate --passwords FILE` uses the server of `DATABASE_URL` (an administrator's);
FILE is `{"<role>": "<password>"}`. `sql` prints the SQL of the migrations.
"""

import argparse
import ast
import asyncio
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, urlsplit

import asyncpg

if TYPE_CHECKING:  # Alembic takes 0.5 s to import, and usually there is nothing to migrate
    from alembic.config import Config
    from sqlalchemy import Connection

ROOT: Final = Path(__file__).parent.parent

MIGRATIONS: Final = {
    "entities": "services/entities/migrations",
    "budgets": "services/budgets/migrations",
    "approvals": "services/approvals/migrations",
    "gateway": "gateway/migrations",
}
"""Folder of the revisions, by schema."""

ENGINES: Final = {"budgets": "budgets_engine"}
"""Roles without login that a service switches to for statements over several tenants."""

_PROVISION_LOCK: Final = 4_720_001
_LOCK_TRIES: Final = 40
_LOCK_NOT_AVAILABLE: Final = "55P03"
_DEADLOCK_DETECTED: Final = "40P01"


def roles(service: str) -> tuple[str, str]:
    """Return the role that owns and migrates the schema of a service, and the role of the running service."""
    return f"{service}_owner", f"{service}_app"


def role_url(url: str, role: str, password: str, database: str) -> str:
    """Return the URL of the same server for another role and database."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(
        scheme="postgresql",
        netloc=f"{quote(role, safe='')}:{quote(password, safe='')}@{host}",
        path=f"/{quote(database, safe='')}",
    ).geturl()


async def provision(admin_url: str, database: str, services: Iterable[str], passwords: Mapping[str, str]) -> None:
    """Create or update the database and the schema and roles of each service; `passwords` is by role.

    No service can read the schema of another one, and none runs with the role that owns its tables.
    """
    services = tuple(services)
    admin = await asyncpg.connect(admin_url)
    try:
        # Roles belong to the whole server: concurrent runs would conflict in the catalog.
        await admin.execute("SELECT pg_advisory_lock($1)", _PROVISION_LOCK)
        for role in (role for service in services for role in roles(service)):
            await _provision_role(admin, role, passwords[role])
        if not await admin.fetchval("SELECT count(*) FROM pg_database WHERE datname = $1", database):
            await admin.execute(f"CREATE DATABASE {_name(database)} TEMPLATE template0 ENCODING 'UTF8'")
        for service in services:
            if service in ENGINES:
                await _provision_engine(admin, ENGINES[service], roles(service)[1])
        inside = await asyncpg.connect(admin_url, database=database)
        try:
            await inside.execute(_revoke_public_sql(database))
            for service in services:
                await inside.execute(_schema_sql(database, service))
        finally:
            await inside.close()
    finally:
        await admin.close()


async def _provision_role(admin: asyncpg.Connection, role: str, password: str) -> None:
    row = await admin.fetchrow("SELECT rolsuper OR rolbypassrls AS powerful FROM pg_roles WHERE rolname = $1", role)
    if row is not None and row["powerful"]:
        raise PermissionError(
            f"role {role} exists with SUPERUSER or BYPASSRLS, which ignores row-level security: revoke that first"
        )
    verb = "CREATE" if row is None else "ALTER"
    limits = "NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE" if row is None else ""
    await admin.execute(f"{verb} ROLE {_name(role)} LOGIN {limits} PASSWORD {_literal(password)}")
    if row is None and not await admin.fetchval("SELECT rolsuper FROM pg_roles WHERE rolname = current_user"):
        # An administrator without SUPERUSER can create objects only for roles that it is a member of.
        await admin.execute(f"GRANT {_name(role)} TO CURRENT_USER")


async def _provision_engine(admin: asyncpg.Connection, engine: str, app: str) -> None:
    if not await admin.fetchval("SELECT count(*) FROM pg_roles WHERE rolname = $1", engine):
        await admin.execute(f"CREATE ROLE {_name(engine)} NOLOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE")
    # The service has the rights of the engine only after SET ROLE.
    await admin.execute(f"ALTER ROLE {_name(app)} NOINHERIT")
    await admin.execute(f"GRANT {_name(engine)} TO {_name(app)}")


def _revoke_public_sql(database: str) -> str:
    return f"""
        REVOKE ALL ON DATABASE {_name(database)} FROM PUBLIC;
        REVOKE ALL ON SCHEMA public FROM PUBLIC;
    """


def _schema_sql(database: str, service: str) -> str:
    schema = _name(service)
    owner, app = map(_name, roles(service))
    engine = f"GRANT USAGE ON SCHEMA {schema} TO {_name(ENGINES[service])};" if service in ENGINES else ""
    defaults = f"ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA {schema}"
    return f"""
        CREATE SCHEMA IF NOT EXISTS {schema} AUTHORIZATION {owner};
        GRANT CONNECT ON DATABASE {_name(database)} TO {owner}, {app};
        GRANT USAGE ON SCHEMA {schema} TO {app};
        {engine}
        {defaults} GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {app};
        {defaults} GRANT USAGE, SELECT ON SEQUENCES TO {app};
        ALTER ROLE {owner} SET search_path = {schema};
        ALTER ROLE {app} SET search_path = {schema};
        ALTER ROLE {app} SET idle_in_transaction_session_timeout = '10s';
    """


def _name(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


async def migrate(service: str, owner_url: str) -> None:
    """Migrate the schema of a service to the newest revision.

    One run at a time. A statement that does not get its lock within 300 ms is rolled back and retried, so that it does
    not block readers.
    """
    if await _is_at_head(service, owner_url):
        return
    from alembic import command
    from sqlalchemy import make_url, text
    from sqlalchemy.exc import DBAPIError
    from sqlalchemy.ext.asyncio import create_async_engine
    from sqlalchemy.pool import NullPool

    def upgrade(connection: "Connection") -> None:
        command.upgrade(_config(service, connection), "head")

    engine = create_async_engine(
        make_url(owner_url).set(drivername="postgresql+asyncpg"), hide_parameters=True, poolclass=NullPool
    )
    async with engine.connect() as connection:
        await connection.execute(text("SET statement_timeout = '5min'"))
        await connection.execute(text("SELECT pg_advisory_lock(hashtext(:name))"), {"name": f"migrate {service}"})
        await connection.execute(text("SET lock_timeout = '300ms'"))
        await connection.commit()
        for attempt in range(1, _LOCK_TRIES + 1):
            try:
                await connection.run_sync(upgrade)
                break
            except DBAPIError as error:
                await connection.rollback()
                state = getattr(error.orig, "sqlstate", None)
                if attempt == _LOCK_TRIES or state not in {_LOCK_NOT_AVAILABLE, _DEADLOCK_DETECTED}:
                    raise
                await asyncio.sleep(min(0.05 * attempt, 1))
    await engine.dispose()


def migration_sql(service: str) -> None:
    """Print the SQL of all migrations of a service."""
    from alembic import command

    command.upgrade(_config(service, None), "head", sql=True)


def _config(service: str, connection: "Connection | None") -> "Config":
    from alembic.config import Config

    config = Config(attributes={"service": service, "connection": connection})
    config.set_main_option("script_location", str(ROOT / MIGRATIONS[service]).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


async def _is_at_head(service: str, owner_url: str) -> bool:
    connection = await asyncpg.connect(owner_url)
    try:
        rows = await connection.fetch(f"SELECT version_num FROM {_name(service)}.alembic_version")
    except asyncpg.UndefinedTableError:
        return False
    finally:
        await connection.close()
    return {row["version_num"] for row in rows} == _heads(ROOT / MIGRATIONS[service] / "versions")


def _heads(versions: Path) -> set[str]:
    """Return the revisions that no other revision builds on, without executing the files."""
    revisions: set[str] = set()
    built_on: set[str] = set()
    for path in versions.glob("*.py"):
        for statement in ast.parse(path.read_bytes()).body:
            match statement:
                case ast.Assign(targets=[ast.Name(id=name)], value=value):
                    pass
                case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                    pass
                case _:
                    continue
            if name in {"revision", "down_revision"}:
                literal = ast.literal_eval(value)
                ids = {literal} if isinstance(literal, str) else set(literal or ())
                (revisions if name == "revision" else built_on).update(ids)
    return revisions - built_on


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m deploy.database", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("provision", "migrate"):
        command = commands.add_parser(name)
        command.add_argument("--database", default="billing")
        command.add_argument("--passwords", type=Path, required=True)
        command.add_argument("services", nargs="*", default=list(MIGRATIONS), metavar="SERVICE")
    commands.add_parser("sql").add_argument("services", nargs="*", default=list(MIGRATIONS), metavar="SERVICE")
    arguments = parser.parse_args()
    if arguments.command == "sql":
        for service in arguments.services:
            migration_sql(service)
        return
    admin_url = os.environ["DATABASE_URL"]
    passwords: dict[str, str] = json.loads(arguments.passwords.read_text())
    if arguments.command == "provision":
        asyncio.run(provision(admin_url, arguments.database, arguments.services, passwords))
        return
    for service in arguments.services:
        owner = roles(service)[0]
        asyncio.run(migrate(service, role_url(admin_url, owner, passwords[owner], arguments.database)))


if __name__ == "__main__":
    main()
