"""The choice of the budget for an allocated cost, and the time of its charge."""

from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from uuid import UUID, uuid4

import pytest

from kit.money import Money
from services.budgets import domain
from services.budgets.domain.allocated_costs import Candidate, Cost

ENTITY, DEPARTMENT, OTHER_DEPARTMENT = uuid4(), uuid4(), uuid4()
COST = Cost(
    allocation_id=uuid4(), entity_id=ENTITY, department_id=DEPARTMENT, category="cloud", gl_code="6000",
    amount=Money(Decimal(10), "EUR"), day=date(2026, 3, 31), description="",
)  # fmt: skip
ALL = Candidate(UUID(int=1), None, "", "", 0, "UTC")
"""The oldest budget: of the whole entity, for all categories and ledger codes."""
CLOUD = ALL._replace(id=UUID(int=2), category="cloud")
OURS = ALL._replace(id=UUID(int=3), department_id=DEPARTMENT)
OUR_CLOUD = OURS._replace(id=UUID(int=4), category="cloud")


class TestBudgetFor:
    @pytest.mark.parametrize(
        ("candidates", "best"),
        [
            ([], None),
            ([ALL, CLOUD, OURS, OUR_CLOUD], OUR_CLOUD),
            ([ALL, CLOUD, OURS], OURS),
            ([ALL, CLOUD], CLOUD),
            ([ALL], ALL),
            ([ALL._replace(department_id=OTHER_DEPARTMENT)], None),
            ([ALL._replace(category="travel")], None),
            ([OURS._replace(category="travel"), ALL], ALL),
            ([OURS, OURS._replace(id=UUID(int=9), gl_code="6000")], OURS._replace(id=UUID(int=9), gl_code="6000")),
            ([OURS._replace(gl_code="7000"), OURS._replace(id=UUID(int=9))], OURS._replace(id=UUID(int=9))),
            ([OURS._replace(gl_code="7000"), CLOUD._replace(gl_code="6000")], OURS._replace(gl_code="7000")),
            ([OURS, OURS._replace(id=UUID(int=9), depth=2)], OURS._replace(id=UUID(int=9), depth=2)),
            ([OURS._replace(gl_code="6000"), OURS._replace(depth=2)], OURS._replace(gl_code="6000")),
            ([OURS._replace(id=UUID(int=9)), OURS], OURS),
        ],
    )
    def test_the_best_fitting_budget_is_chosen(self, candidates: list[Candidate], best: Candidate | None) -> None:
        assert domain.allocated_costs.budget_for(COST, candidates) == best
        assert domain.allocated_costs.budget_for(COST, candidates[::-1]) == best

    def test_a_cost_without_a_department_does_not_fit_a_budget_of_one(self) -> None:
        assert domain.allocated_costs.budget_for(replace(COST, department_id=None), [OUR_CLOUD, CLOUD]) == CLOUD

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
