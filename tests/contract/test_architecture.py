"""The architecture that CONTRIBUTING.md promises, as tests: prints file and line of each violation.

.venv/bin/python -m pytest tests/contract/test_architecture.py -q
"""

from collections.abc import Collection, Mapping
from typing import Final

import pytest

from tests.contract.rules import RULES, Rule
from tests.contract.source import Violation, on_disk

PENDING: Final[Mapping[str, Collection[str]]] = {
    "no_float_in_money": {"budgets"},
    "layers_import_downwards": {"budgets"},
    "services_have_one_shape": {"budgets"},
    "convert_reads_no_clock": {"budgets"},
    "use_cases_do_not_reach_the_wire": {"budgets"},
    "sql_is_in_the_store": {"budgets"},
    "no_import_cycle": {"tests"},
    "idioms_exist_once": {"budgets"},
}
"""Where a rule does not hold yet: the service, or the folder at the top."""


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rule_holds(rule: Rule) -> None:
    violations = [each for each in rule(on_disk()) if _place(each) not in PENDING.get(rule.__name__, ())]
    assert not violations, "\n".join(["", *map(str, violations)])


def _place(violation: Violation) -> str:
    first, second, *_ = violation.file.split("/")
    return second if first == "services" else first
