"""Import cycles, and names that show at the call which layer is called."""

from collections.abc import Iterator, Mapping
from typing import Final

from tests.contract.source import Module, Source, Violation, layer_of

NAMED_BY_LAYER: Final = frozenset({"rpc", "service", "store", "domain", "convert", "models"})
"""Packages whose modules share their nouns with other layers."""


def no_import_cycle(source: Source) -> list[Violation]:
    """No module needs itself, through whichever others; imports for types count."""
    violations = []
    for group in _cycles({name: set(source.edges(module)) for name, module in source.items() if not module.is_package}):
        first = source[group[0]]
        line = next((line for name, line in source.edges(first).items() if name in group), 1)
        violations.append(first.violation(line, f"import cycle of {', '.join(group)}"))
    return violations


def _cycles(edges: Mapping[str, set[str]]) -> list[list[str]]:
    """The strongly connected components with more than one module (Tarjan)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    groups: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for target in sorted(edges[name] & edges.keys()):
            if target not in index:
                visit(target)
            if target in stack:
                low[name] = min(low[name], low[target])
        if low[name] == index[name]:
            group = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(group) > 1:
                groups.append(sorted(group))

    for name in sorted(edges):
        if name not in index:
            visit(name)
    return groups


def calls_show_their_layer(source: Source) -> list[Violation]:
    """`store.budgets.lock(…)`: modules of a layer are used through the layer, their functions never by bare name."""
    return [violation for module in source.of("services") for violation in _bare_names(source, module)]


def _bare_names(source: Source, module: Module) -> Iterator[Violation]:
    for imported in module.imports:
        layer = layer_of(imported.target)
        if not imported.is_of("services") or layer not in NAMED_BY_LAYER:
            continue
        package = ".".join(imported.target.split(".")[:3])
        if imported.target == package:  # `from services.x import store`
            if imported.bound not in {layer, package}:
                yield module.violation(imported.line, f"{package} is called {imported.bound} here")
        elif imported.target in source:
            if module.name != package:
                yield module.violation(imported.line, f"imports the module {imported.target}; call it through {layer}")
        elif imported.name.lstrip("_")[:1].islower() and module.name != package:
            yield module.violation(imported.line, f"imports the function {imported.target}; call it through {layer}")


def ledger_has_one_entry_point(source: Source) -> list[Violation]:
    """The ledger is used through its package; nothing else imports its modules."""
    return [
        module.violation(imported.line, f"imports {imported.module}; use services.budgets.ledger")
        for module in source.values()
        if not module.name.startswith(("services.budgets.ledger", "tests."))
        for imported in module.imports
        if imported.is_of("services.budgets.ledger")
        and (imported.module.startswith("services.budgets.ledger.") or imported.target in source)
        and imported.target != "services.budgets.ledger"
    ]
