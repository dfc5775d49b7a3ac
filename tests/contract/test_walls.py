"""Who may know whom, and what lives where: architecture.md as tests."""

import sys
from pathlib import Path

import pytest

from tests.contract import source
from tests.contract.source import ROOT, SERVICES, files, imports, imports_any, name

NOUNS = {
    "entity", "entities", "department", "departments", "budget", "budgets", "charge", "charges", "alert", "alerts",
    "allocation", "allocations", "invoice", "invoices", "approval", "approvals", "dispute", "disputes", "holding",
    "subsidiary", "spend", "spent", "overspend", "ledger", "money", "currency",
}  # fmt: skip
"""What the gateway has never heard of."""

HTTP_SAYS = frozenset({"REQUEST_ENTITY_TOO_LARGE", "UNPROCESSABLE_ENTITY"})
"""HTTP has entities of its own."""

ALLOWED_NOUNS = {
    "contract/validation.py": {"money", "currency"},  # a value type, not a thing of the business
    "contract/values.py": {"money", "currency"},
    "serving/scope.py": {"entity", "entities", "department", "departments"},  # what tokens are confined to
}

ROOM = {"main", "rpc", "service", "domain", "store", "models", "convert", "events", "errors"}
MAIN_LINES_MAX = 40
FILE_LINES_MAX = 450

KNOWS: dict[str, set[str]] = {
    "kit": set(),
    "contract": {"kit"},
    "eventing": {"kit"},
    "serving": {"kit", "contract", "eventing"},
    "gateway": {"kit", "contract", "serving"},
    "clients": {"kit", "contract", "eventing", "serving"},
    "services": {"kit", "contract", "eventing", "serving", "clients", "services"},
}
"""The layers: whom each may import."""
OURS = {*KNOWS, "deploy", "tests"}
PURE_KIT = ("kit.money.", "kit.dates.", "kit.rates.", "kit.resources.")
"""What a domain may import of kit."""

service_files = pytest.mark.parametrize("service", SERVICES)


def of_service(service: str, module: str) -> list[Path]:
    """The module of the service: a file, or a package when it has grown."""
    folder = ROOT / "services" / service
    return sorted((folder / module).rglob("*.py")) or [folder / f"{module}.py"]


def migrations_of(path: Path) -> bool:
    return "migrations" in path.parts


class TestWhoKnowsWhom:
    @pytest.mark.parametrize("path", files(*KNOWS), ids=name)
    def test_each_layer_knows_only_those_below(self, path: Path) -> None:
        layer = path.relative_to(ROOT).parts[0]
        strangers = OURS - KNOWS[layer] - {layer} - ({"deploy"} if migrations_of(path) else set())
        assert not imports_any(path, *strangers)

    @pytest.mark.parametrize("path", files("services"), ids=name)
    def test_a_service_knows_no_other_service(self, path: Path) -> None:
        own = f"services.{path.relative_to(ROOT / 'services').parts[0]}"
        assert not {module for module in imports_any(path, "services") if not f"{module}.".startswith(f"{own}.")}

    @pytest.mark.parametrize("path", files("gateway", "contract", "eventing", "serving"), ids=name)
    def test_what_is_not_a_service_names_no_billing_noun(self, path: Path) -> None:
        assert not source.words(path, but=HTTP_SAYS) & NOUNS - ALLOWED_NOUNS.get(name(path), set())

    @pytest.mark.parametrize("path", files(*OURS - {"tests"}), ids=name)
    def test_what_runs_knows_no_test(self, path: Path) -> None:
        assert not imports_any(path, "tests", "pytest", "hypothesis", "testcontainers")

    @pytest.mark.parametrize("path", files(*OURS), ids=name)
    def test_imports_are_absolute(self, path: Path) -> None:
        assert not [module for module in imports(path) if module.startswith("relative")]


class TestWhatLivesWhere:
    @service_files
    def test_every_room_has_the_same_furniture(self, service: str) -> None:
        assert all(path.is_file() for module in ROOM for path in of_service(service, module))
        assert list((ROOT / "services" / service / "migrations" / "versions").glob("*.py"))

    @service_files
    def test_use_cases_know_neither_protobuf_nor_grpc_nor_sql(self, service: str) -> None:
        for path in of_service(service, "service"):
            assert not imports_any(path, "google", "grpc", "billing", "outside", "sqlalchemy", "asyncpg", "nats")

    @service_files
    def test_rules_are_pure(self, service: str) -> None:
        own = f"services.{service}"
        for path in of_service(service, "domain"):
            strange = {
                module
                for module in imports(path)
                if module.split(".")[0] not in sys.stdlib_module_names
                and not f"{module}.".startswith((*PURE_KIT, f"{own}.errors.", f"{own}.domain."))
            }
            assert not strange
            assert not {module for module in imports(path) if module.split(".")[0] in {"asyncio", "socket", "os", "io"}}
            assert "async def" not in path.read_text()

    @pytest.mark.parametrize("path", files("services", "gateway"), ids=name)
    def test_sql_is_in_the_store(self, path: Path) -> None:
        if migrations_of(path) or path.stem in {"store", "models"} or path.parent.name in {"store", "models"}:
            return
        assert not imports_any(path, "sqlalchemy", "alembic", "asyncpg") or name(path) == "gateway/limits.py"

    @service_files
    def test_only_the_converter_and_the_doors_know_messages(self, service: str) -> None:
        for module in ("domain", "store", "models", "errors", "service"):
            for path in of_service(service, module):
                assert not imports_any(path, "billing", "outside", "google.protobuf")

    @service_files
    def test_the_doors_know_no_rows(self, service: str) -> None:
        for path in of_service(service, "rpc"):
            assert not imports_any(path, f"services.{service}.models")

    @service_files
    def test_the_composition_root_is_short(self, service: str) -> None:
        for path in of_service(service, "main"):
            assert len(path.read_text().splitlines()) < MAIN_LINES_MAX

    @pytest.mark.parametrize("path", files(*OURS, "protos"), ids=name)
    def test_no_file_is_too_long(self, path: Path) -> None:
        assert len(path.read_text().splitlines()) <= FILE_LINES_MAX

    @pytest.mark.parametrize("path", files(*KNOWS), ids=name)
    def test_no_float_is_made_of_money(self, path: Path) -> None:
        if path.stem in {"domain", "store", "models", "convert", "money", "values", "service"}:
            assert "float" not in source.words(path)


class TestLock:
    LOCK = ROOT / "requirements.lock"

    def test_it_names_no_address(self) -> None:
        text = self.LOCK.read_text()
        assert not [
            word for word in ("://", "@", "--index-url", "--extra-index-url", "--find-links", "file:") if word in text
        ]

    def test_every_line_is_a_pinned_version_or_its_hash(self) -> None:
        for line in self.LOCK.read_text().splitlines():
            entry = line.strip().removesuffix("\\").strip()
            assert not entry or entry.startswith(("#", "--hash=sha256:")) or "==" in entry, line
