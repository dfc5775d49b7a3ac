"""Conditions of rules: CEL expressions over the facts of a request.

The CEL library is used here only, and loaded with the first condition. Amounts are integers in the smallest unit of
their currency, so that comparisons are exact.

Conditions are evaluated on the event loop, so their time and memory must be bounded by their length. The library limits
the number of iterations only, but each iteration can double a text or a list, and a regular expression is compiled at
each evaluation. Therefore `map`, `filter` and `matches` don't exist, and a condition has one loop at most.

A tenant has up to 500 rules, whose conditions add up: an Evaluation lets other calls run between them.
"""

import asyncio
import re
import time
from collections.abc import Sequence
from decimal import Decimal
from functools import cache
from typing import Any, Final

from kit.cache import TtlCache
from kit.errors import InvalidFields, Violation
from kit.money import DIGITS_MAX, exponent
from services.approvals import domain
from services.approvals.domain.routes import Amounts, Unmet
from services.approvals.domain.rules import Facts, Rule

_COMPILED_MAX: Final = 5_000
_COMPILER_ERROR: Final = re.compile(r"ERROR: <input>:(\d+):(\d+): (.*)")
_TOTALS: Final = ("old_total_value", "new_total_value", "difference")
"""Variables about the total value of a contract that is amended."""
_AMOUNT_LIMIT: Final = Decimal(10**DIGITS_MAX)
_TEXT_MAX: Final = 300
"""Maximum length of a message of the CEL library that is returned to callers."""

_NOT_IN_CONDITIONS: Final = """
stdlib:
  exclude_macros: [map, filter]
  exclude_functions: [{name: matches}]
"""
_LOOP: Final = re.compile(r"\b(?:all|exists|exists_one)(?:\s|//[^\r\n]*)*\(")
"""Calls of the macros that loop; comments may stand before the parenthesis."""
_LOOPING_MAX: Final = 500
"""Maximum length of a condition with a loop: the iterations and what each costs share it, so the cost is quadratic."""

_TURN_S: Final = 0.005
"""How long the conditions of a request are evaluated before other calls run."""
_turns: Final = asyncio.Lock()
"""Held by the evaluation whose turn is next: one turn in each round of the event loop, however many requests wait."""

_compiled: Final[TtlCache[str, Any]] = TtlCache(_COMPILED_MAX)
"""Compiled expressions of all tenants, by their text."""


def check_syntax(condition: str) -> None:
    """Raise InvalidFields, with line and column, if the condition is not a boolean CEL expression. Empty is valid."""
    if condition:
        _expression(condition)


def unmet(condition: str, facts: Facts) -> Unmet | None:
    """Return why the condition is not true for the facts; None if it is true.

    A condition that can't be evaluated is not true, for example because an attribute is missing, because it exceeds the
    cost limit, or because it no longer compiles.
    """
    if not condition:
        return None
    try:
        value = _expression(condition).eval(data=_variables(facts)).value()
    except InvalidFields as error:
        return Unmet("; ".join(violation.description for violation in error.violations)[:_TEXT_MAX], failed=True)
    except RuntimeError as error:  # the cost limit of the library
        return Unmet(str(error)[:_TEXT_MAX], failed=True)
    if value is True:
        return None
    # An evaluation error, for example a missing attribute, is a status instead of a value.
    if value is False:
        return Unmet("is false", failed=False)
    return Unmet(str(value)[:_TEXT_MAX], failed=True)


class Evaluation:
    """Evaluates the conditions of the rules for a request, each once."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._results: dict[str, Unmet | None] = {}
        self._spent_s = 0.0

    async def prepare(self, rules: Sequence[Rule], amounts: Amounts) -> None:
        """Evaluate the conditions on which the route depends, and let other calls run in between."""
        for rule in domain.routes.candidates(rules, self._facts, amounts):
            if await self._evaluate(rule) is None:
                for level in domain.routes.levels(rule, rules, self._facts, amounts):
                    await self._evaluate(level)
                return

    async def _evaluate(self, rule: Rule) -> Unmet | None:
        if self._spent_s >= _TURN_S:
            async with _turns:
                await asyncio.sleep(0)
            self._spent_s = 0.0
        started = time.perf_counter()
        result = self.unmet(rule.spec.condition, self._facts)
        self._spent_s += time.perf_counter() - started
        return result

    def unmet(self, condition: str, facts: Facts) -> Unmet | None:
        """Return why the condition is not true for the facts, which are those of the request; None if it is true."""
        if condition not in self._results:
            self._results[condition] = unmet(condition, facts)
        return self._results[condition]


def _expression(condition: str) -> Any:
    expression = _compiled.get(condition)
    if expression is None:
        expression = _compile(condition)
        _compiled.set(condition, expression)
    return expression


@cache
def _environment() -> tuple[Any, Any]:
    """Return the CEL environment with the variables of conditions, and its boolean type."""
    from cel_expr_python import cel  # 10 MiB, needed only by tenants whose rules have conditions

    text, integer = cel.Type.STRING, cel.Type.INT
    texts = dict.fromkeys(
        ("request_type", "currency_code", "category", "requester", "entity_id", "department_id", "title"), text
    )
    amounts = dict.fromkeys(("amount_minor", *_TOTALS), integer)
    variables = {**texts, **amounts, "attributes": cel.Type.Map(text, text)}
    return cel.NewEnv(config=cel.NewEnvConfigFromYaml(_NOT_IN_CONDITIONS), variables=variables), cel.Type.BOOL


def _compile(condition: str) -> Any:
    _check_loops(condition)
    environment, boolean = _environment()
    try:
        expression = environment.compile(condition)
    except RuntimeError as error:  # the only class of errors that the library raises
        raise InvalidFields(_violations(str(error))) from None
    if expression.return_type() != boolean:
        description = f"must be a boolean expression, not {expression.return_type()}; add a comparison"
        raise InvalidFields([Violation("condition", description, "condition.type")])
    return expression


def _check_loops(condition: str) -> None:
    loops = len(_LOOP.findall(condition))
    if loops > 1:
        description = "must have at most one call of all, exists and exists_one"
        raise InvalidFields([Violation("condition", description, "condition.loops")])
    if loops and len(condition) > _LOOPING_MAX:
        description = f"must be at most {_LOOPING_MAX} characters if it calls all, exists or exists_one"
        raise InvalidFields([Violation("condition", description, "condition.loops")])


def _violations(message: str) -> list[Violation]:
    violations = [
        Violation("condition", f"line {line}, column {column}: {text}"[:_TEXT_MAX], "condition.syntax")
        for line, column, text in _COMPILER_ERROR.findall(message)
    ]
    return violations or [Violation("condition", message[:_TEXT_MAX], "condition.syntax")]


def _variables(facts: Facts) -> dict[str, Any]:
    amount = facts.amount
    return {
        "request_type": facts.request_type.value,
        "amount_minor": int(amount.amount.scaleb(exponent(amount.currency) or 0)) if amount else 0,
        "currency_code": amount.currency if amount else "",
        "category": facts.category,
        "requester": facts.requester,
        "entity_id": f"ent_{facts.entity_path[0].hex}",
        "department_id": f"dep_{facts.department_path[0].hex}" if facts.department_path else "",
        "title": facts.title,
        "attributes": dict(facts.attributes),
        **{name: _minor_units(facts, name) for name in _TOTALS},
    }


def _minor_units(facts: Facts, name: str) -> int:
    """Return an amount among the attributes in the smallest unit of the request's currency; 0 if there is none."""
    try:
        value = Decimal(facts.attributes.get(name, "0"))
    except ArithmeticError:
        return 0
    if facts.amount is None or not value.is_finite() or abs(value) >= _AMOUNT_LIMIT:
        return 0
    return int(value.scaleb(exponent(facts.amount.currency) or 0))
