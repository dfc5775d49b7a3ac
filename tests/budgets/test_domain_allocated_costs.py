"""The choice of the budget for an allocated cost, and the time of its charge."""

from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from uuid import UUID, uuid4

import pytest

from kit.money import Money
from services.budgets import domain
from services.budgets.domain.allocated_costs import Candidate, Cost

ENTITY, DEPARTMENT, PARENT_DEPARTMENT, OTHER_DEPARTMENT = uuid4(), uuid4(), uuid4(), uuid4()
DIVISION, HOLDING = uuid4(), uuid4()
"""The entities above ENTITY."""
COST = Cost(
    allocation_id=uuid4(), entity_id=ENTITY, department_path=[DEPARTMENT, PARENT_DEPARTMENT],
    entities_above=[DIVISION, HOLDING], category="cloud", gl_code="6000",
    amount=Money(Decimal(10), "EUR"), day=date(2026, 3, 31), description="",
)  # fmt: skip
ALL = Candidate(UUID(int=1), ENTITY, None, "", "", "UTC", covers_descendants=False)
"""The oldest budget: of the whole entity, for all categories and ledger codes."""
CLOUD = ALL._replace(id=UUID(int=2), category="cloud")
PARENT_CLOUD_CODE = ALL._replace(id=UUID(int=3), department_id=PARENT_DEPARTMENT, category="cloud", gl_code="6000")
OURS = ALL._replace(id=UUID(int=4), department_id=DEPARTMENT)
OUR_CLOUD = OURS._replace(id=UUID(int=5), category="cloud")
OUR_CODE = OURS._replace(id=UUID(int=6), gl_code="6000")
OUR_CLOUD_CODE = OURS._replace(id=UUID(int=7), category="cloud", gl_code="6000")

DIVISIONS = ALL._replace(id=UUID(int=8), entity_id=DIVISION)
GROUP = ALL._replace(id=UUID(int=10), entity_id=HOLDING, covers_descendants=True)
GROUP_CLOUD = GROUP._replace(id=UUID(int=11), category="cloud")
DIVISION_GROUP = DIVISIONS._replace(id=UUID(int=12), covers_descendants=True)


class TestBudgetFor:
    @pytest.mark.parametrize(
        ("candidates", "best"),
        [
            ([], None),
            ([ALL, CLOUD, PARENT_CLOUD_CODE, OURS, OUR_CLOUD, OUR_CODE, OUR_CLOUD_CODE], OUR_CLOUD_CODE),
            ([ALL, CLOUD, PARENT_CLOUD_CODE, OURS, OUR_CLOUD], OUR_CLOUD),
            ([ALL, CLOUD, PARENT_CLOUD_CODE, OURS, OUR_CODE], OUR_CODE),
            ([OUR_CLOUD, OUR_CODE], OUR_CLOUD),
            ([ALL, CLOUD, PARENT_CLOUD_CODE, OURS], OURS),
            ([ALL, CLOUD, PARENT_CLOUD_CODE], PARENT_CLOUD_CODE),
            ([ALL, CLOUD], CLOUD),
            ([ALL], ALL),
            ([ALL._replace(department_id=OTHER_DEPARTMENT)], None),
            ([ALL._replace(category="travel")], None),
            ([ALL._replace(gl_code="7000")], None),
            ([OURS._replace(category="travel"), PARENT_CLOUD_CODE], PARENT_CLOUD_CODE),
            ([OURS._replace(gl_code="7000"), ALL], ALL),
            ([OURS._replace(id=UUID(int=9)), OURS], OURS),
            ([GROUP_CLOUD, DIVISION_GROUP, ALL], ALL),
            ([GROUP_CLOUD, DIVISION_GROUP], DIVISION_GROUP),
            ([GROUP, GROUP_CLOUD, DIVISIONS], GROUP_CLOUD),
            ([GROUP._replace(category="travel"), DIVISIONS], None),
            ([GROUP._replace(entity_id=uuid4())], None),
        ],
    )
    def test_nearest_owner_then_most_attributes_then_oldest(
        self, candidates: list[Candidate], best: Candidate | None
    ) -> None:
        assert domain.allocated_costs.budget_for(COST, candidates) == best
        assert domain.allocated_costs.budget_for(COST, candidates[::-1]) == best

    def test_a_cost_without_a_department_does_not_fit_a_budget_of_one(self) -> None:
        assert domain.allocated_costs.budget_for(replace(COST, department_path=[]), [OUR_CLOUD, CLOUD]) == CLOUD

    def test_a_cost_without_a_category_does_not_fit_a_budget_of_one(self) -> None:
        assert domain.allocated_costs.budget_for(replace(COST, category=""), [OUR_CLOUD, CLOUD, ALL]) == ALL

    @pytest.mark.parametrize(
        ("zone", "moment"),
        [
            ("UTC", datetime(2026, 3, 31, 12, tzinfo=UTC)),
            ("Pacific/Kiritimati", datetime(2026, 3, 30, 22, tzinfo=UTC)),
            ("Pacific/Pago_Pago", datetime(2026, 3, 31, 23, tzinfo=UTC)),
        ],
    )
    def test_a_cost_is_charged_at_noon_of_its_day(self, zone: str, moment: datetime) -> None:
        assert domain.allocated_costs.charge_time(COST.day, zone) == moment
