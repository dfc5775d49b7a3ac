"""Databases of a test run: a template is migrated once, and each worker uses copies (about 50 ms each)."""

import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import urlsplit

import asyncpg

from deploy.database import MIGRATIONS, migrate, provision, role_url, roles


@dataclass(frozen=True, slots=True)
class Cluster:
    """The server and the migrated template database."""

    admin_url: str
    template: str
    passwords: Mapping[str, str]
    """Password by role; the same in every copy, since roles belong to the whole server."""

    @classmethod
    async def prepared(cls, admin_url: str) -> "Cluster":
        """Create the template: schema and roles of every service, all migrations applied."""
        passwords = {role: secrets.token_hex(8) for service in MIGRATIONS for role in roles(service)}
        cluster = cls(admin_url, f"billing_test_{secrets.token_hex(4)}", passwords)
        await provision(admin_url, cluster.template, MIGRATIONS, passwords)
        for service in MIGRATIONS:
            owner = roles(service)[0]
            await migrate(service, role_url(admin_url, owner, passwords[owner], cluster.template))
        return cluster

    @classmethod
    def shared(cls, fields: Mapping[str, Any]) -> "Cluster":
        """Return the cluster that another process prepared, from `to_share`."""
        return cls(**fields)

    def to_share(self) -> dict[str, Any]:
        """Return the arguments of `shared`."""
        return asdict(self)

    async def copy(self, name: str) -> "Copy":
        """Create a database with empty tables."""
        copy = Copy(self, f"{self.template}_{name}")
        admin = await asyncpg.connect(self.admin_url)
        try:
            await admin.execute(f'create database "{copy.name}" template "{self.template}"')
        finally:
            await admin.close()
        # Privileges on a database are not copied from its template.
        await provision(self.admin_url, copy.name, MIGRATIONS, self.passwords)
        return copy

    async def drop(self) -> None:
        """Drop the template and all copies, on servers that outlive the run."""
        admin = await asyncpg.connect(self.admin_url)
        try:
            databases = await admin.fetch(
                "select datname from pg_database where starts_with(datname, $1)", self.template
            )
            for row in databases:
                await admin.execute(f'drop database "{row["datname"]}" with (force)')
        finally:
            await admin.close()


@dataclass(frozen=True, slots=True)
class Copy:
    """A database with the schemas of all services."""

    cluster: Cluster
    name: str

    @property
    def admin_url(self) -> str:
        """URL of the superuser, who reads all rows of all tenants."""
        return urlsplit(self.cluster.admin_url)._replace(path=f"/{self.name}").geturl()

    def url(self, role: str) -> str:
        """Return the URL of a role such as `budgets_app` or `budgets_owner`."""
        return role_url(self.cluster.admin_url, role, self.cluster.passwords[role], self.name)
