"""No binary floating point where amounts of money may be."""

import ast
import re
from collections.abc import Iterator, Mapping
from typing import Final

from tests.contract.source import Module, Source, Violation

FLOATS: Final[Mapping[tuple[str, str], str]] = {
    ("services/approvals/store/approvals.py", "duration_statistics"): "percentile_cont takes the fraction as a float",
}
"""Floats that are no money: the file and the name that has one, with the reason. Seconds may always be floats."""
SECONDS: Final = ("_s", "_at", "timeout")
"""Ends of the names of durations and of moments of a clock, in seconds."""
EXACT_MATH: Final = frozenset({"floor", "ceil", "prod", "gcd", "lcm", "comb", "isqrt", "median", "median_low", "mean"})
"""What `math` and `statistics` compute without a float where Decimals or integers go in."""
_FLOAT_TYPES: Final = frozenset({"float", "Float", "Double", "REAL", "DOUBLE_PRECISION"})
_FLOAT_SQL: Final = re.compile(r"(?i)\bdouble precision\b|::\s*(real|float\d?)\b")


def no_float_in_money(source: Source) -> list[Violation]:
    """No `float`, float literal, float function or float column where amounts of money may be."""
    modules = [
        *source.layers("domain", "service", "store", "convert", "models", "ledger", "documents"),
        *(source[name] for name in ("kit.money", "contract.values") if name in source),
    ]
    return [violation for module in modules for violation in _floats(module)]


def _floats(module: Module) -> Iterator[Violation]:
    for node, owner in _owned(module.tree, ""):
        problem = _float_in(node)
        if problem and not owner.lower().endswith(SECONDS) and (module.file, owner) not in FLOATS:
            yield module.violation(getattr(node, "lineno", 0), f"{problem} in {owner or 'the module'}")


def _float_in(node: ast.AST) -> str:
    problem = ""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name) if name in _FLOAT_TYPES:
            problem = f"`{name}`"
        case ast.Constant(value=float() as value):
            problem = f"the float {value}"
        case ast.Constant(value=str() as text) if _FLOAT_SQL.search(text):
            problem = "a float type in SQL"
        case ast.ImportFrom(module="math" | "statistics" as origin):
            problem = ", ".join(f"`{origin}.{alias.name}`" for alias in node.names if alias.name not in EXACT_MATH)
        case ast.Attribute(value=ast.Name(id="math" | "statistics" as origin), attr=name) if name not in EXACT_MATH:
            problem = f"`{origin}.{name}`"
    return problem


def _owned(node: ast.AST, owner: str) -> Iterator[tuple[ast.AST, str]]:
    """Every node with the name of what it belongs to: the variable, parameter, keyword, or else the function."""
    yield node, owner
    for child in ast.iter_child_nodes(node):
        match child:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.arg(arg=name):
                yield from _owned(child, name)
            case ast.keyword(arg=str() as name) | ast.AnnAssign(target=ast.Name(id=name)):
                yield from _owned(child, name)
            case (
                ast.AnnAssign(target=ast.Attribute(attr=name))
                | ast.Assign(targets=[ast.Name(id=name) | ast.Attribute(attr=name)])
            ):
                yield from _owned(child, name)
            case ast.arguments():
                for argument, default in _arguments(child):
                    for part in filter(None, (argument, default)):
                        yield from _owned(part, argument.arg)
            case _:
                yield from _owned(child, owner)


def _arguments(node: ast.arguments) -> Iterator[tuple[ast.arg, ast.expr | None]]:
    """Each parameter with its default."""
    positional = [*node.posonlyargs, *node.args]
    without_default = len(positional) - len(node.defaults)
    yield from ((argument, None) for argument in positional[:without_default])
    yield from zip(positional[without_default:], node.defaults, strict=True)
    yield from zip(node.kwonlyargs, node.kw_defaults, strict=True)
    yield from ((argument, None) for argument in (node.vararg, node.kwarg) if argument)
