"""The packages at the top of the checkout, and the shape of a service."""

from collections.abc import Mapping
from typing import Final

from tests.contract.source import RUNTIME, Source, Violation, words

KNOWS: Final[Mapping[str, frozenset[str]]] = {
    "kit": frozenset(),
    "contract": frozenset({"kit"}),
    "eventing": frozenset({"kit"}),
    "rendering": frozenset({"kit"}),
    "serving": frozenset({"kit", "contract", "eventing"}),
    "gateway": frozenset({"kit", "contract", "serving"}),
    "clients": frozenset({"kit", "contract", "eventing", "serving"}),
    "services": frozenset({"kit", "contract", "eventing", "rendering", "serving", "clients"}),
}
"""The packages at the top, and which of the others each may import."""

NOUNS: Final = frozenset({
    "entity", "entities", "department", "departments", "budget", "budgets", "charge", "charges", "alert", "alerts",
    "allocation", "allocations", "invoice", "invoices", "approval", "approvals", "dispute", "disputes", "holding",
    "subsidiary", "spend", "spent", "overspend", "ledger", "money", "currency",
})  # fmt: skip
"""Words of the business, which generic packages do not use."""
HTTP_WORDS: Final = frozenset({"REQUEST_ENTITY_TOO_LARGE", "UNPROCESSABLE_ENTITY"})
ALLOWED_NOUNS: Final[Mapping[str, frozenset[str]]] = {
    "contract/validation.py": frozenset({"money", "currency"}),  # a value type, not a resource
    "contract/values.py": frozenset({"money", "currency"}),
    "rendering/locales.py": frozenset({"money", "currency"}),
    "rendering/spreadsheets.py": frozenset({"money", "currency"}),
    "serving/scope.py": frozenset({"entity", "entities", "department", "departments"}),  # tokens are limited to them
}

PARTS: Final = frozenset({
    "main", "clients", "timers", "rpc", "service", "domain", "store", "models", "convert", "events", "errors",
    "migrations",
})  # fmt: skip
"""What every service has."""
EXTRA_PARTS: Final[Mapping[str, frozenset[str]]] = {
    "budgets": frozenset({"ledger"}),
    "entities": frozenset({"documents"}),
}
OPTIONAL_PARTS: Final = frozenset({"metrics"})

FILE_LINES_MAX: Final = 450
MAIN_LINES_MAX: Final = 40


def packages_import_downwards(source: Source) -> list[Violation]:
    """A package at the top imports only those that it stands on; nothing that runs imports tests."""
    return [
        module.violation(imported.line, f"{top} may not import {imported.target}")
        for top, allowed in KNOWS.items()
        for module in source.values()
        if module.name.split(".")[0] == top
        for imported in module.imports
        if imported.is_of(*{*KNOWS, "deploy", "tests"} - allowed - {top})
        and not ("migrations" in module.name and imported.is_of("deploy"))
    ]


def nothing_imports_tests(source: Source) -> list[Violation]:
    """What runs imports no test and no test tool."""
    return [
        module.violation(imported.line, f"imports {imported.target}")
        for module in source.of(*RUNTIME)
        for imported in module.imports
        if imported.is_of("tests", "pytest", "hypothesis", "testcontainers")
    ]


def services_are_independent(source: Source) -> list[Violation]:
    """No service imports another one; they call each other over gRPC."""
    return [
        module.violation(imported.line, f"imports {imported.target} of another service")
        for module in source.of("services")
        for imported in module.imports
        if imported.is_of("services") and not imported.is_of(f"services.{module.service}")
        and imported.target != "services"
    ]  # fmt: skip


def imports_are_absolute(source: Source) -> list[Violation]:
    """An import shows the whole path."""
    return [
        module.violation(imported.line, "a relative import")
        for module in source.values()
        for imported in module.imports
        if imported.module.startswith(".")
    ]


def services_have_one_shape(source: Source) -> list[Violation]:
    """Every service has the same parts under the same names."""
    violations = []
    for service in source.services:
        names = [module.name for module in source.values() if module.service == service]
        parts = {name.split(".")[2] for name in names if name.count(".") > 1}
        parts |= {"migrations"} if any(f"services.{service}.migrations" in name for name in names) else set()
        file, extra = f"services/{service}/__init__.py", EXTRA_PARTS.get(service, frozenset())
        violations += [Violation(file, 1, f"has no {part}") for part in sorted(PARTS - parts)]
        unknown = parts - PARTS - OPTIONAL_PARTS - extra
        violations += [Violation(file, 1, f"has a part of its own: {part}") for part in sorted(unknown)]
        violations += [
            source[name].violation(1, f"{part} is a file; it is a package in every service")
            for part in ("rpc", "service", "domain", "store", "models", "convert", "events", "errors", *extra)
            if (name := f"services.{service}.{part}") in source and not source[name].is_package
        ]
    return violations


def main_is_short(source: Source) -> list[Violation]:
    """The composition root has no rules."""
    return [
        module.violation(1, f"{len(module.text.splitlines())} lines; at most {MAIN_LINES_MAX}")
        for module in source.layers("main")
        if len(module.text.splitlines()) > MAIN_LINES_MAX
    ]


def generic_packages_name_no_business(source: Source) -> list[Violation]:
    """The gateway and the shared layers below `clients` use no word of the business."""
    return [
        module.violation(1, f"names {', '.join(sorted(nouns))}")
        for module in source.of("gateway", "contract", "eventing", "rendering", "serving")
        if (nouns := words(module, without=HTTP_WORDS) & NOUNS - ALLOWED_NOUNS.get(module.file, frozenset()))
    ]


def files_are_short(source: Source) -> list[Violation]:
    """A file that grows longer is split by noun."""
    return [
        module.violation(1, f"{lines} lines; at most {FILE_LINES_MAX}")
        for module in source.values()
        if (lines := len(module.text.splitlines())) > FILE_LINES_MAX
    ]
