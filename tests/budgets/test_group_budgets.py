"""Group budgets, which also take costs of the entities below their own."""

from billing.budgets.v1.budget_pb2 import Budget

from tests.budgets.allocated_costs import CostEvents, allocation
from tests.budgets.budgets_api import BudgetsApi, eur
from tests.budgets.rolling import roll
from tests.harness.callers import refusal


class TestGroupBudgets:
    async def test_cost_that_fits_no_budget_of_its_entity_is_charged_to_the_nearest_group_budget(
        self, api: BudgetsApi, company: str, cost_events: CostEvents
    ) -> None:
        division = await api.company("DIVISION", parent_id=company)
        branch = await api.company("BRANCH", parent_id=division)
        department = await api.department(branch)
        group = await api.open(covers_descendants=True)
        divisions_own = await api.open(entity_id=division)
        travel = await api.open(entity_id=branch, category="travel")
        given = {"department_id": department, "department_path": [department]}
        path = [company, division, branch]
        await cost_events(
            allocation(branch, "1.00", category="cloud", entity_path=path, **given),
            allocation(branch, "2.00", category="travel", entity_path=path),
            allocation(division, "4.00", entity_path=path[:2]),
        )
        budgets = (group, divisions_own, travel)
        assert [(await api.get(each)).spent.amount for each in budgets] == ["1.00", "4.00", "2.00"]
        preview = await api.cost_budget(branch, department_id=department, category="cloud")
        assert (preview.budget.id, preview.matches[0].entity_id) == (group.id, company)
        assert preview.explanation == (
            "It is a group budget of the entity 2 levels above that of the cost. It is for every category and GL code."
        )
        await api.update(divisions_own, covers_descendants=True)
        preview = await api.cost_budget(branch, category="cloud")
        assert [match.budget_id for match in preview.matches] == [divisions_own.id, group.id]
        await cost_events(allocation(branch, "8.00", entity_path=path))
        assert (await api.get(divisions_own)).spent.amount == "12.00"
        await api.update(group, covers_descendants=False)
        await api.update(divisions_own, covers_descendants=False)
        await cost_events(allocation(branch, "16.00", entity_path=path))
        (spend,) = await cost_events.unbudgeted(1)
        assert (spend.amount, spend.reason) == (eur("16.00"), "NO_BUDGET")

    async def test_budget_of_a_department_is_no_group_budget(self, api: BudgetsApi, company: str) -> None:
        department = await api.department(company)
        budget = await api.open(department_id=department)
        for call in (
            api.open(department_id=department, covers_descendants=True), api.update(budget, covers_descendants=True),
        ):  # fmt: skip
            assert set((await refusal(call)).fields) == {"covers_descendants"}

    async def test_next_period_of_a_group_budget_is_one(self, api: BudgetsApi) -> None:
        budget = await api.open(covers_descendants=True, period_type=Budget.MONTHLY)
        assert (await roll(api, budget)).opened.covers_descendants
