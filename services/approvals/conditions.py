"""Conditions of rules: expressions in CEL over what is asked for, checked when a rule is saved.

The library is loaded with the first condition, and known here only. Money is an integer of the smallest unit of its
currency, so that comparisons are exact.
"""

import re
from collections import OrderedDict
from functools import cache
from typing import Any, Final

from kit.errors import InvalidFields, Violation
from kit.money import exponent
from services.approvals.domain.rules import Facts

_KEPT_MAX: Final = 5_000
_PROBLEM: Final = re.compile(r"ERROR: <input>:(\d+):(\d+): (.*)")
_SHOWN_MAX: Final = 300
"""How much of what the compiler says is told."""


class Conditions:
    """Conditions that were compiled; they are remembered by their text."""

    def __init__(self) -> None:
        self._compiled: OrderedDict[str, Any] = OrderedDict()

    def check(self, condition: str) -> None:
        """Raise InvalidFields, with line and column, where the condition is none or gives no yes or no."""
        if condition:
            self._expression(condition)

    def problem(self, condition: str, facts: Facts) -> str | None:
        """Why the condition does not hold for the facts; None where it does."""
        if not condition:
            return None
        expression = self._expression(condition)
        try:
            value = expression.eval(data=_values(facts)).value()
        except RuntimeError as error:  # it would take too long: the library counts its steps
            return f"its condition can't be told: {error}"[:_SHOWN_MAX]
        if value is True:
            return None
        # What can't be looked at, for example an attribute that is not there, comes as a status instead of a value.
        return "its condition does not hold" if value is False else f"its condition can't be told: {value}"[:_SHOWN_MAX]

    def _expression(self, condition: str) -> Any:
        expression = self._compiled.get(condition)
        if expression is None:
            expression = self._compiled[condition] = _compile(condition)
            while len(self._compiled) > _KEPT_MAX:
                self._compiled.popitem(last=False)
        return expression


@cache
def _environment() -> tuple[Any, Any]:
    from cel_expr_python import cel  # 10 MiB, for tenants whose rules have conditions

    text, whole = cel.Type.STRING, cel.Type.INT
    names = dict.fromkeys(
        ("request_type", "currency_code", "category", "requester", "entity_id", "department_id", "title"), text
    )
    return cel.NewEnv(variables={**names, "amount_minor": whole, "attributes": cel.Type.Map(text, text)}), cel.Type.BOOL


def _compile(condition: str) -> Any:
    environment, yes_or_no = _environment()
    try:
        expression = environment.compile(condition)
    except RuntimeError as error:  # the only class of errors it has
        raise InvalidFields(_violations(str(error))) from None
    if expression.return_type() != yes_or_no:
        told = f"must be true or false, and gives {expression.return_type()}; compare it with something"
        raise InvalidFields([Violation("condition", told, "condition.type")])
    return expression


def _violations(said: str) -> list[Violation]:
    found = [
        Violation("condition", f"line {line}, column {column}: {text}"[:_SHOWN_MAX], "condition.syntax")
        for line, column, text in _PROBLEM.findall(said)
    ]
    return found or [Violation("condition", said[:_SHOWN_MAX], "condition.syntax")]


def _values(facts: Facts) -> dict[str, Any]:
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
    }
