"""The layers inside a service: allowed imports, and what reaches protobuf, gRPC or SQL."""

import ast
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, TypeGuard

from tests.contract.source import SHARED, Module, Source, Violation, dotted, layer_of

WIRE: Final = frozenset({"google", "grpc", "billing", "outside"})
"""Protobuf, gRPC and the messages that are generated from our protos."""
SQL: Final = frozenset({"sqlalchemy", "alembic", "asyncpg"})
LAYERS: Final[Mapping[str, frozenset[str]]] = {
    layer: frozenset(allowed.split())
    for layer, allowed in {
        "errors": "errors",
        "domain": "domain errors",
        "models": "models domain",
        "store": "store models domain errors",
        "convert": "convert domain models errors",
        "metrics": "metrics domain",
        "clients": "clients domain errors",
        "events.published": "events.published convert domain models errors",
        "ledger": "ledger models domain errors",
        "documents": "documents",
        "service": "service ledger store models domain errors clients metrics events.published",
        "rpc": "rpc service ledger convert store domain errors clients events.published",
        "events.consumers": "service convert domain errors clients",
        "timers": "service store domain errors metrics",
        "main": "rpc service ledger convert clients events.published events.consumers timers",
    }.items()
}
"""The layers inside a service, and which layers each of them may import."""
SHARED_OF: Final[Mapping[str, frozenset[str]]] = {
    layer: frozenset(allowed.split())
    for layer, allowed in {
        "errors": "kit",
        "domain": "kit.dates kit.money kit.rates kit.resources kit.users",
        "models": "kit",
        "store": "kit eventing.outbox serving.pages",
        "convert": "kit contract",
        "metrics": "",
        "ledger": "kit eventing clients",
        "documents": "kit.money rendering.locales rendering.spreadsheets rendering.texts rendering.typesetting",
        "service": "kit eventing clients rendering.renderer",
    }.items()
}
"""What these layers may import of the shared layers; the others may import all of them."""
CLOCKS: Final = frozenset({
    "datetime.now", "datetime.utcnow", "datetime.today", "date.today", "time.time", "time.monotonic", "clock.now",
})  # fmt: skip
ADAPTERS: Final = frozenset({"clients", "events.published"})
"""Modules that build messages behind plain arguments; a use case may call them and never looks at a message."""


def layers_import_downwards(source: Source) -> list[Violation]:
    """Inside a service: rpc → service → store → models → domain, convert → domain and models. See LAYERS."""
    return [
        violation
        for module in source.of("services")
        if module.layer in LAYERS
        for violation in (*_wrong_layers(source, module), *_wrong_shared(module))
    ]


def _wrong_layers(source: Source, module: Module) -> Iterator[Violation]:
    """Imports of layers of the same service that this layer may not use.

    `from services.x import store` is an import of that layer, too, whatever is used of it.
    """
    allowed = LAYERS[module.layer]
    for imported in module.imports:
        if imported.is_of(f"services.{module.service}"):
            layer = layer_of(imported.target)
            if layer == "events":  # the package: what matters is what is used of it
                continue
            if layer and layer not in allowed:
                yield module.violation(imported.line, f"{module.layer} may not import {layer} ({imported.target})")
    for name, line in source.edges(module).items():
        if source[name].layer.startswith("events.") and source[name].layer not in allowed:
            yield module.violation(line, f"{module.layer} may not use {name}")


def _wrong_shared(module: Module) -> Iterator[Violation]:
    allowed = SHARED_OF.get(module.layer, frozenset(SHARED))
    for imported in module.imports:
        if imported.is_of(*SHARED) and not imported.is_of(*allowed):
            yield module.violation(imported.line, f"{module.layer} may not import {imported.target}")


def domain_is_pure(source: Source) -> list[Violation]:
    """The domain imports the standard library, the pure modules of kit and its own errors; no I/O, no clock."""
    violations = []
    for module in source.layers("domain"):
        own = (f"services.{module.service}", "kit")  # their layers are the business of layers_import_downwards
        violations += [
            module.violation(imported.line, f"a rule may not import {imported.target}")
            for imported in module.imports
            if (imported.module.split(".")[0] not in sys.stdlib_module_names and not imported.is_of(*own))
            or imported.is_of("asyncio", "socket", "os", "io", "time", "random", "kit.clock", "pathlib", "threading")
        ]  # fmt: skip
        violations += [
            module.violation(node.lineno, f"a rule may not await or read the clock: {ast.unparse(node)[:40]}")
            for node in ast.walk(module.tree)
            if isinstance(node, ast.AsyncFunctionDef | ast.Await) or _reads_clock(node)
        ]
    return violations


def convert_reads_no_clock(source: Source) -> list[Violation]:
    """Converters do not depend on the time at which they run."""
    violations = []
    for module in source.layers("convert"):
        lines = [imported.line for imported in module.imports if imported.target == "kit.clock.now"]
        lines += [node.lineno for node in ast.walk(module.tree) if _reads_clock(node)]
        violations += [module.violation(line, "reads the clock; take `now` as an argument") for line in lines]
    return violations


def _reads_clock(node: ast.AST) -> TypeGuard[ast.Call]:
    return isinstance(node, ast.Call) and dotted(node.func) in CLOCKS


def use_cases_do_not_reach_the_wire(source: Source) -> list[Violation]:
    """No module of `service` reaches protobuf, gRPC or SQL, also not through other modules of the service.

    `store`, `models` and `ledger` may use SQL: the way through them ends there for SQL. The adapters (ADAPTERS) build
    messages behind plain arguments.
    """
    return [
        violation
        for module in source.layers("service")
        for violation in (
            *_reached(source, module, WIRE, ADAPTERS),
            *_reached(source, module, SQL, ADAPTERS | {"store", "models", "ledger"}),
        )
    ]


def _reached(source: Source, start: Module, forbidden: Iterable[str], end_at: Iterable[str]) -> Iterator[Violation]:
    """How `start` reaches a forbidden package: one violation for each of its own imports that leads there."""
    for imported in start.imports:
        if imported.is_of(*forbidden):
            yield start.violation(imported.line, f"a use case may not import {imported.target}")
    for name, line in source.edges(start).items():
        path = _path_to(source, name, frozenset(forbidden), frozenset(end_at), frozenset({start.name}))
        if path:
            yield start.violation(line, f"a use case reaches {' → '.join(path)}")


def _path_to(
    source: Source, name: str, forbidden: frozenset[str], end_at: frozenset[str], seen: frozenset[str]
) -> list[str]:
    queue, visited = [[name]], {name, *seen}
    while queue:
        path = queue.pop(0)
        module = source[path[-1]]
        if not module.service or module.layer in end_at or (module.layer == "service" and len(path) == 1):
            continue  # another use case reports its own imports
        for imported in module.imports:
            if imported.is_of(*forbidden):
                return [*path, imported.target]
        following = [used for used in source.edges(module) if used not in visited]
        visited.update(following)
        queue += [[*path, used] for used in following]
    return []


def sql_is_in_the_store(source: Source) -> list[Violation]:
    """Only `store`, `models`, `ledger` and the migrations use SQL or add and flush rows."""
    violations = []
    for module in source.of("services", "gateway"):
        if module.layer in {"store", "models", "ledger"} or module.file == "gateway/rate_limits.py":
            continue
        violations += [
            module.violation(imported.line, f"imports {imported.target}; SQL belongs to the store")
            for imported in module.imports
            if imported.is_of(*SQL)
        ]
        violations += [
            module.violation(node.lineno, f"`{dotted(node.func)}` belongs to the store")
            for node in ast.walk(module.tree)
            if isinstance(node, ast.Call)
            and re.fullmatch(r"tx\.(add|add_all|flush|execute|scalar|scalars|fetch|delete|refresh)", dotted(node.func))
        ]
    return violations


def messages_stay_at_the_edge(source: Source) -> list[Violation]:
    """Rows, rules, errors and use cases know no messages."""
    return [
        module.violation(imported.line, f"{module.layer} may not import {imported.target}")
        for module in source.layers("domain", "store", "models", "errors", "service", "metrics")
        for imported in module.imports
        if imported.is_of(*WIRE)
    ]


def clients_hide_messages(source: Source) -> list[Violation]:
    """Public functions of `clients` take and return plain values, so that use cases that call them see no message."""
    violations = []
    for module in source.layers("clients"):
        wire = {imported.bound for imported in module.imports if imported.is_of(*WIRE)}
        violations += [
            module.violation(function.lineno, f"{function.name} has a message in its signature: {name}")
            for function in ast.walk(module.tree)
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef) and not function.name.startswith("_")
            for annotation in _annotations(function)
            for name in sorted({node.id for node in ast.walk(annotation) if isinstance(node, ast.Name)} & wire)
        ]
    return violations


def _annotations(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[ast.expr]:
    arguments = function.args
    for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
        if argument.annotation:
            yield argument.annotation
    if function.returns:
        yield function.returns
