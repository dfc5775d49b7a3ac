"""The source as the wall tests read it: files, what they import, what they name. Nothing is run."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
SERVICES = sorted(path.parent.name for path in ROOT.glob("services/*/main.py"))


def files(*folders: str) -> list[Path]:
    """Every Python file below the folders."""
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def name(path: Path) -> str:
    """The file as messages name it."""
    return str(path.relative_to(ROOT))


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_bytes())


def imports(path: Path) -> Iterator[str]:
    """Every module that the file imports, wherever it does; `from a import b` is `a.b`."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                yield f"relative import in line {node.lineno}"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imports_any(path: Path, *packages: str) -> set[str]:
    """What the file imports of the packages."""
    return {module for module in imports(path) if any(f"{module}.".startswith(f"{package}.") for package in packages)}


def words(path: Path, *, but: frozenset[str] = frozenset()) -> set[str]:
    """Every word of the identifiers and texts of a file, in lower case; comments, docstrings and `but` are left out."""
    parsed = tree(path)
    docstrings = {id(node.value) for node in ast.walk(parsed) if isinstance(node, ast.Expr)}
    named: set[str] = set()
    for node in ast.walk(parsed):
        for field in ("id", "attr", "arg", "name", "module"):
            named.add(str(getattr(node, field, "")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            named.add(node.value)
    return {word.lower() for text in named - but for word in split(text)}


def split(text: str) -> Iterator[str]:
    """`createEntity_v1` → create, Entity, v."""
    word = ""
    for letter in f"{text} ":
        if letter.isalpha() and not (letter.isupper() and word and word[-1].islower()):
            word += letter
            continue
        if word:
            yield word
        word = letter if letter.isalpha() else ""
