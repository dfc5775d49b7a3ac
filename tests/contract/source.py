"""The source code as the architecture rules read it: modules, imports and names. Nothing is executed.

A `Source` is read from disk, or made of a few texts, so that each rule can be tested on planted faults.
"""

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
SERVICES = sorted(path.parent.name for path in ROOT.glob("services/*/main.py"))
SHARED = ("kit", "contract", "eventing", "rendering", "serving", "clients")
"""The shared layers; each may import only those before it."""
RUNTIME = (*SHARED, "services", "gateway", "deploy")
"""Everything that runs in production or in the local stack."""


class Violation(NamedTuple):
    """A place that breaks a rule."""

    file: str
    line: int
    problem: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.problem}"


class Import(NamedTuple):
    """One imported name: `from module import name`, or `import module` without a name."""

    module: str
    name: str
    bound: str
    """The name it has in the importing module."""
    line: int

    @property
    def target(self) -> str:
        """The full dotted name."""
        return f"{self.module}.{self.name}" if self.name else self.module

    def is_of(self, *packages: str) -> bool:
        """True if it comes from one of these packages."""
        return any(f"{self.target}.".startswith(f"{package}.") for package in packages)


@dataclass(frozen=True)
class Module:
    """A parsed file."""

    file: str
    text: str

    @property
    def is_package(self) -> bool:
        """True for an `__init__.py`."""
        return self.file.endswith("/__init__.py")

    @property
    def name(self) -> str:
        """The dotted name; that of the package for an `__init__.py`."""
        return self.file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    @property
    def service(self) -> str:
        """The service it belongs to: "budgets"; empty outside `services/`."""
        parts = self.name.split(".")
        return parts[1] if parts[0] == "services" and len(parts) > 1 else ""

    @property
    def layer(self) -> str:
        """The layer inside its service: "store", "events.published"; empty outside of a service."""
        return layer_of(self.name)

    @cached_property
    def tree(self) -> ast.Module:
        """The syntax tree."""
        return ast.parse(self.text)

    @cached_property
    def imports(self) -> list[Import]:
        """Every import in the file, also inside functions and `if TYPE_CHECKING`."""
        imports = []
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                imports += [Import(alias.name, "", alias.asname or alias.name, node.lineno) for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                module = "." * node.level + (node.module or "")
                imports += [Import(module, alias.name, alias.asname or alias.name, node.lineno) for alias in node.names]
        return imports

    @cached_property
    def attribute_chains(self) -> list[tuple[str, int]]:
        """Every `a.b.c` in the file, as long as it gets, and its line."""
        chains = ((dotted(node), node.lineno) for node in ast.walk(self.tree) if isinstance(node, ast.Attribute))
        return [(chain, line) for chain, line in chains if chain]

    def violation(self, line: int, problem: str) -> Violation:
        """A violation in this file."""
        return Violation(self.file, line, problem)


class Source(Mapping[str, Module]):
    """Modules by their dotted names."""

    def __init__(self, modules: Mapping[str, str]) -> None:
        """Of file names and their texts."""
        parsed = [Module(file, text) for file, text in modules.items()]
        self._modules = {module.name: module for module in parsed}

    def __getitem__(self, name: str) -> Module:
        return self._modules[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __len__(self) -> int:
        return len(self._modules)

    def of(self, *folders: str) -> list[Module]:
        """The modules below these folders ("services/budgets"), without migrations."""
        return [
            module
            for module in self.values()
            if module.file.startswith(tuple(f"{folder}/" for folder in folders)) and "/migrations/" not in module.file
        ]

    @property
    def services(self) -> list[str]:
        """The names of all services."""
        return sorted({module.service for module in self.values() if module.service})

    def layers(self, *layers: str) -> list[Module]:
        """The modules of these layers in all services."""
        return [module for module in self.of("services") if module.layer in layers]

    def edges(self, module: Module) -> dict[str, int]:
        """The modules that `module` uses, each with the line of the first use.

        `from services.x import store` followed by `store.budgets.lock(…)` uses `services.x.store.budgets`; a name that
        a package re-exports leads to the module that defines it. Packages themselves are not targets.
        """
        used: dict[str, int] = {}
        packages: dict[str, str] = {}
        for imported in module.imports:
            if imported.name and imported.target in self and self[imported.target].is_package:
                packages[imported.bound] = imported.target
            else:
                used.setdefault(self.defining(imported.target), imported.line)
        for chain, line in module.attribute_chains:
            first, _, rest = chain.partition(".")
            if first in packages:
                used.setdefault(self.defining(f"{packages[first]}.{rest}"), line)
        return {name: line for name, line in used.items() if name and name != module.name}

    def defining(self, name: str) -> str:
        """The module that defines a dotted name; empty if it is not ours, or a package."""
        prefix = name
        while prefix and prefix not in self:
            prefix = prefix.rpartition(".")[0]
        if not prefix or not self[prefix].is_package:
            return prefix
        attribute = name.removeprefix(prefix).lstrip(".").split(".")[0]
        for imported in self[prefix].imports:
            if imported.bound == attribute and imported.target not in {name, prefix}:
                return self.defining(imported.target)
        return ""


def layer_of(name: str) -> str:
    """The layer of a dotted name inside a service: "store", "events.published"; empty outside of a service."""
    top, *parts = name.split(".")
    inside = parts[1:] if top == "services" else []
    return ".".join(inside[:2] if inside[:1] == ["events"] else inside[:1])


def dotted(node: ast.expr) -> str:
    """`a.b.c` of nested attributes; empty if they don't start at a name."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        before = dotted(node.value)
        return f"{before}.{node.attr}" if before else ""
    return ""


@cache
def on_disk() -> Source:
    """The whole checkout, tests included."""
    folders = (*RUNTIME, "tests", "protos")
    paths = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    return Source({str(path.relative_to(ROOT)): path.read_text() for path in paths})


def words(module: Module, *, without: frozenset[str] = frozenset()) -> set[str]:
    """Every word of the identifiers and texts of a file, in lower case; comments, docstrings and `without` left out."""
    docstrings = {id(node.value) for node in ast.walk(module.tree) if isinstance(node, ast.Expr)}
    names: set[str] = set()
    for node in ast.walk(module.tree):
        for field in ("id", "attr", "arg", "name", "module"):
            names.add(str(getattr(node, field, "")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            names.add(node.value)
    return {word.lower() for text in names - without for word in split(text)}


def split(text: str) -> Iterator[str]:
    """Split an identifier into words: `createEntity_v1` → create, Entity, v."""
    word = ""
    for letter in f"{text} ":
        if letter.isalpha() and not (letter.isupper() and word and word[-1].islower()):
            word += letter
            continue
        if word:
            yield word
        word = letter if letter.isalpha() else ""
