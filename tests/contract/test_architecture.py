"""The architecture that CONTRIBUTING.md promises: a failed rule prints file, line and problem of each violation.

.venv/bin/python -m pytest -q tests/contract/test_architecture.py
"""

import pytest

from tests.contract.rules import RULES, Rule
from tests.contract.source import on_disk


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rule_holds(rule: Rule) -> None:
    violations = rule(on_disk())
    assert not violations, "\n".join(["", *map(str, violations)])
