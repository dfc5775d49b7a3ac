"""Databases of a test run: migrated once into a template, of which each worker takes copies (some 50 ms each)."""

import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import urlsplit

import asyncpg

from deploy.database import MIGRATIONS, migrate, provision, role_url, roles


@dataclass(frozen=True, slots=True)
class Cluster:
    """The server, and the migrated database that is copied."""

    admin_url: str
    template: str
    passwords: Mapping[str, str]
    """By role; the same in every copy, since roles belong to the whole server."""

    @classmethod
    async def prepared(cls, admin_url: str) -> "Cluster":
        """Lay out the template: schema and roles of every service, with all migrations."""
        passwords = {role: secrets.token_hex(8) for service in MIGRATIONS for role in roles(service)}
        cluster = cls(admin_url, f"billing_test_{secrets.token_hex(4)}", passwords)
        await provision(admin_url, cluster.template, MIGRATIONS, passwords)
        for service in MIGRATIONS:
            owner = roles(service)[0]
            await migrate(service, role_url(admin_url, owner, passwords[owner], cluster.template))
        return cluster

    @classmethod
    def shared(cls, fields: Mapping[str, Any]) -> "Cluster":
        """The cluster that another process prepared."""
        return cls(**fields)

    def to_share(self) -> dict[str, Any]:
        """As `shared` takes it."""
        return asdict(self)

    async def copy(self, name: str) -> "Copy":
        """A database of one's own, empty but for the schemas."""
        copy = Copy(self, f"{self.template}_{name}")
        admin = await asyncpg.connect(self.admin_url)
        try:
            await admin.execute(f'create database "{copy.name}" template "{self.template}"')
        finally:
            await admin.close()
        # Rights on a database are not part of what a template hands on.
        await provision(self.admin_url, copy.name, MIGRATIONS, self.passwords)
        return copy

    async def drop(self) -> None:
        """Remove the template and all its copies: for servers that outlive the run."""
        admin = await asyncpg.connect(self.admin_url)
        try:
            made = await admin.fetch("select datname from pg_database where starts_with(datname, $1)", self.template)
            for row in made:
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
        """The administrator's, who sees every row of every tenant."""
        return urlsplit(self.cluster.admin_url)._replace(path=f"/{self.name}").geturl()

    def url(self, role: str) -> str:
        """That of a role such as `budgets_app` or `budgets_owner`."""
        return role_url(self.cluster.admin_url, role, self.cluster.passwords[role], self.name)
