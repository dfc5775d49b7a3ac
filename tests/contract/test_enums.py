"""The enums of the domain have the same values as those of the protos and the database."""

import inspect
import re
from collections.abc import Iterator
from enum import StrEnum

import asyncpg
import pytest
from google.protobuf.descriptor import EnumDescriptor
from sqlalchemy import Enum as SqlEnum

from kit.db import TenantRow
from tests.contract import contract
from tests.contract.source import SERVICES


def mirrored(service: str) -> Iterator[tuple[type[StrEnum], EnumDescriptor]]:
    """Yield each domain enum with the proto enum that its docstring names, for example "Budget.State."."""
    protos = {enum.full_name: enum for enum in contract.enums()}
    for kind in {
        kind
        for module in contract.modules(service, "domain")
        for _, kind in inspect.getmembers(module, inspect.isclass)
    }:
        named = protos.get(f"billing.{service}.v1.{(kind.__doc__ or '').rstrip('.')}")
        if issubclass(kind, StrEnum) and named:
            yield kind, named


def of_resources(service: str) -> set[str]:
    """Return the full names of all enums in the protos of a service, except its error reasons."""
    return {
        enum.full_name
        for enum in contract.enums()
        if enum.file.package == f"billing.{service}.v1" and enum.name != "ErrorReason"
    }


@pytest.mark.parametrize("service", SERVICES)
def test_every_proto_enum_has_a_domain_enum(service: str) -> None:
    assert {named.full_name for _, named in mirrored(service)} == of_resources(service)


@pytest.mark.parametrize("service", SERVICES)
def test_proto_and_domain_enums_have_the_same_values(service: str) -> None:
    for kind, named in mirrored(service):
        values = {value.name for value in named.values if value.number}
        assert {member.value for member in kind} == values, kind
        assert all(member.name == member.value for member in kind)


@pytest.mark.parametrize("service", SERVICES)
async def test_native_enums_have_the_same_values(service: str, admin: "asyncpg.Pool[asyncpg.Record]") -> None:
    rows = await admin.fetch(
        "select t.typname, array_agg(e.enumlabel order by e.enumsortorder) as labels from pg_type t"
        " join pg_enum e on e.enumtypid = t.oid join pg_namespace n on n.oid = t.typnamespace"
        " where n.nspname = $1 group by t.typname",
        service,
    )
    contract.modules(service, "models")
    mapped = {
        column.type.name: list(column.type.enums)
        for row in rows_of(service)
        for column in row.__table__.columns
        if isinstance(column.type, SqlEnum) and column.type.native_enum
    }
    assert mapped == {row["typname"]: row["labels"] for row in rows}


@pytest.mark.parametrize("service", SERVICES)
async def test_text_enums_have_a_check_of_their_values(service: str, admin: "asyncpg.Pool[asyncpg.Record]") -> None:
    """An enum stored as text has a CHECK constraint with the values of its column."""
    contract.modules(service, "models")
    checks = {
        (row["table"], row["column"]): set(re.findall(r"'(\w+)'::text", row["definition"]))
        for row in await admin.fetch(
            "select t.relname as table, a.attname as column, pg_get_constraintdef(c.oid) as definition"
            " from pg_constraint c"
            " join pg_class t on t.oid = c.conrelid join pg_namespace n on n.oid = t.relnamespace"
            " join pg_attribute a on a.attrelid = t.oid and array[a.attnum] = c.conkey"
            " where n.nspname = $1 and c.contype = 'c' and c.conname = t.relname || '_' || a.attname || '_check'",
            service,
        )
    }
    for row in rows_of(service):
        for column in row.__table__.columns:
            if isinstance(column.type, SqlEnum) and not column.type.native_enum:
                place = (row.__tablename__, column.name)
                assert checks.get(place) == set(column.type.enums), place


def rows_of(service: str, above: type[TenantRow] = TenantRow) -> Iterator[type[TenantRow]]:
    for row in above.__subclasses__():
        if f"{row.__module__}.".startswith(f"services.{service}.models."):
            yield row
        yield from rows_of(service, row)
