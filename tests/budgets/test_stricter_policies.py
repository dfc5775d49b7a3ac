"""The policy of an overspent budget becomes stricter."""

from decimal import Decimal
from typing import Any

import asyncpg
import pytest
from billing.budgets.v1.budget_pb2 import Budget

from kit.ids import BUDGET
from tests.budgets.budgets_api import BudgetsApi, eur
from tests.harness.callers import refusal


class TestStricterPolicy:
    async def test_stricter_policy_of_an_overspent_budget_applies_to_the_next_charge(self, api: BudgetsApi) -> None:
        budget = await api.open("1000", overspend_policy=Budget.WARN)
        charge = await api.charge(budget, "1200")
        strict = await api.update(budget, overspend_policy=Budget.BLOCK)
        assert (strict.overspend_policy, strict.available) == (Budget.BLOCK, eur("-200.00"))
        refused = await refusal(api.charge(budget, "0.01"))
        assert (refused.reason, refused.metadata["short"]) == ("BUDGET_EXCEEDED", "200.01")
        await api.refund(charge, "100")
        assert (await api.update(budget, amount=eur("1050"))).available == eur("-50.00")
        lower = await refusal(api.update(budget, amount=eur("1049.99")))
        assert lower.message == (
            f"1100.00 EUR of the budget {budget.id} are spent, held or committed;"
            " its amount can't be lowered from 1050.00 EUR to 1049.99 EUR."
        )
        await api.refund(charge, "50.01")
        await api.charge(budget, "0.01")
        await api.verify(budget)

    async def test_database_refuses_more_than_the_policy_allows(self, api: BudgetsApi, admin: Any) -> None:
        budget = await api.open("100")
        await api.charge(budget, "60")
        spend = "update budgets.budgets set spent = spent + $1 where id = $2"
        with pytest.raises(asyncpg.CheckViolationError):
            await admin.execute(spend, Decimal("40.01"), BUDGET.parse(budget.id))
        await admin.execute(spend, Decimal(40), BUDGET.parse(budget.id))
