"""The desk of somebody of finance, who has a company and opens and charges budgets."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from billing.budgets.v1 import budget_service_pb2 as pb
from billing.budgets.v1 import charge_pb2
from billing.budgets.v1.alert_pb2 import Alert
from billing.budgets.v1.budget_pb2 import Budget
from billing.entities.v1.department_service_pb2 import CreateDepartmentRequest
from billing.entities.v1.entity_pb2 import Entity
from billing.entities.v1.entity_service_pb2 import CreateEntityRequest
from billing.type.v1.money_pb2 import Money

from tests.harness.callers import Caller
from tests.harness.services import Budgets, Entities


def eur(amount: str) -> Money:
    return Money(currency_code="EUR", amount=amount)


class Desk:
    """What somebody does with budgets, in few words."""

    def __init__(self, who: Caller, budgets: Budgets, entities: Entities) -> None:
        self.who = who
        self.stub = budgets.budgets
        self.entities = entities
        self.entity_id = ""

    async def company(self, code: str = "ACME", **given: Any) -> str:
        request = CreateEntityRequest(
            code=code, legal_name=f"{code} SE", entity_type=Entity.HOLDING, currency_code="EUR", country_code="DE"
        )
        request.MergeFrom(CreateEntityRequest(**given))
        return (await self.who.call(self.entities.entities.CreateEntity, request)).id

    async def department(self, entity_id: str, code: str = "ENG") -> str:
        request = CreateDepartmentRequest(entity_id=entity_id, code=code, name=code)
        return (await self.who.call(self.entities.departments.CreateDepartment, request)).id

    async def open(self, amount: str = "1000.00", /, **given: Any) -> Budget:
        """A budget of this year, of a company that is founded with the first one."""
        request = pb.CreateBudgetRequest(
            name="Cloud",
            period_type=Budget.ANNUAL,
            period_start_date=f"{datetime.now(UTC).year}-01-01",
            amount=eur(amount),
        )
        if "entity_id" not in given:
            self.entity_id = self.entity_id or await self.company()
            request.entity_id = self.entity_id
        for field in ("period_type", "period_start_date", "amount", "name"):
            if field in given:
                request.ClearField(field)
        request.MergeFrom(pb.CreateBudgetRequest(**given))
        return await self.who.call(self.stub.CreateBudget, request)

    async def charge(self, budget: Budget, amount: str, key: str = "", **given: Any) -> charge_pb2.Charge:
        request = pb.ChargeRequest(id=budget.id, amount=eur(amount), request_id=key or uuid4().hex, **given)
        return await self.who.call(self.stub.Charge, request)

    async def get(self, budget: Budget) -> Budget:
        return await self.who.call(self.stub.GetBudget, pb.GetBudgetRequest(id=budget.id))

    async def update(self, budget: Budget, **given: Any) -> Budget:
        return await self.who.call(self.stub.UpdateBudget, pb.UpdateBudgetRequest(id=budget.id, **given))

    async def alerts(self, budget: Budget, **given: Any) -> list[Alert]:
        request = pb.ListAlertsRequest(id=budget.id, **given)
        return list((await self.who.call(self.stub.ListAlerts, request)).alerts)


@pytest.fixture
def desk_of(budgets: Budgets, entities: Entities) -> Callable[[Caller], Desk]:
    """The desk of another caller."""
    return lambda who: Desk(who, budgets, entities)


@pytest.fixture
def desk(desk_of: Callable[[Caller], Desk], finance: Caller) -> Desk:
    return desk_of(finance)
