"""Drives the budgets API as one user: opens and charges budgets of an entity."""

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from billing.budgets.v1 import alert_service_pb2 as alert_pb
from billing.budgets.v1 import budget_service_pb2 as pb
from billing.budgets.v1 import charge_pb2
from billing.budgets.v1 import ledger_service_pb2 as ledger_pb
from billing.budgets.v1.alert_pb2 import Alert
from billing.budgets.v1.budget_pb2 import Budget, CostBudgetPreview
from billing.budgets.v1.entry_pb2 import BudgetVerification, Entry
from billing.budgets.v1.hold_pb2 import Hold
from billing.entities.v1.department_service_pb2 import CreateDepartmentRequest
from billing.entities.v1.entity_pb2 import Entity
from billing.entities.v1.entity_service_pb2 import CreateEntityRequest
from billing.entities.v1.exchange_rate_service_pb2 import SetExchangeRatesRequest
from billing.type.v1.money_pb2 import Money

from tests.entities.entities_api import rate_input
from tests.harness.callers import Caller
from tests.harness.services import Budgets, Entities


def eur(amount: str) -> Money:
    return Money(currency_code="EUR", amount=amount)


def money(amount: str | Money) -> Money:
    """Return the amount; text is in euros."""
    return eur(amount) if isinstance(amount, str) else amount


def line(budget: Budget, amount: str | Money, key: str = "", **given: Any) -> ledger_pb.ChargeRequest:
    """Return the request of a charge, alone or in a batch."""
    return ledger_pb.ChargeRequest(id=budget.id, amount=money(amount), request_id=key or uuid4().hex, **given)


def numbers(budget: Budget) -> tuple[str, str, str, str, str]:
    """Return spent, held, committed, captured and available."""
    amounts = budget.spent, budget.held, budget.committed, budget.captured, budget.available
    return tuple(amount.amount for amount in amounts)  # type: ignore[return-value]  # of five


class BudgetsApi:
    """Calls of one user; the first budget creates the company that owns them."""

    def __init__(self, who: Caller, budgets: Budgets, entities: Entities) -> None:
        self.who = who
        self.stubs = budgets
        self.entities = entities
        self.entity_id = ""

    async def company(self, code: str = "ACME", **given: Any) -> str:
        request = CreateEntityRequest(
            code=code, legal_name=f"{code} SE", entity_type=Entity.HOLDING, currency_code="EUR", country_code="DE"
        )
        request.MergeFrom(CreateEntityRequest(**given))
        return (await self.who.call(self.entities.entities.CreateEntity, request)).id

    async def department(self, entity_id: str, code: str = "ENG", parent_id: str = "", **given: Any) -> str:
        request = CreateDepartmentRequest(entity_id=entity_id, code=code, name=code, parent_id=parent_id, **given)
        return (await self.who.call(self.entities.departments.CreateDepartment, request)).id

    async def open(self, amount: str = "1000.00", /, **given: Any) -> Budget:
        """Create an annual budget of this year; fields in `given` override the defaults."""
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
        return await self.who.call(self.stubs.budgets.CreateBudget, request)

    async def charge(self, budget: Budget, amount: str | Money, key: str = "", **given: Any) -> charge_pb2.Charge:
        return await self.who.call(self.stubs.ledger.Charge, line(budget, amount, key, **given))

    async def batch(self, *lines: ledger_pb.ChargeRequest, atomic: bool = False) -> ledger_pb.BatchChargeResponse:
        request = ledger_pb.BatchChargeRequest(charges=lines, atomic=atomic)
        return await self.who.call(self.stubs.ledger.BatchCharge, request)

    async def refund(
        self, charge: charge_pb2.Charge, amount: str | Money = "", key: str = "", **given: Any
    ) -> charge_pb2.Refund:
        """Refund the amount, by default all that is left of the charge."""
        usual = {"id": charge.budget_id, "charge_id": charge.id, "request_id": key or uuid4().hex}
        request = ledger_pb.RefundChargeRequest(**{**usual, **given}, amount=money(amount) if amount else None)
        return await self.who.call(self.stubs.ledger.RefundCharge, request)

    async def hold(self, budget: Budget, amount: str | Money, key: str = "", **given: Any) -> Hold:
        request = ledger_pb.CreateHoldRequest(
            id=budget.id, amount=money(amount), request_id=key or uuid4().hex, **given
        )
        return await self.who.call(self.stubs.ledger.CreateHold, request)

    async def commit(self, hold: Hold, key: str = "") -> Hold:
        request = ledger_pb.CommitHoldRequest(id=hold.budget_id, hold_id=hold.id, request_id=key or uuid4().hex)
        return await self.who.call(self.stubs.ledger.CommitHold, request)

    async def capture(self, hold: Hold, amount: str | Money = "", key: str = "", **given: Any) -> Hold:
        """Capture the amount, by default all that is left of the hold."""
        request = ledger_pb.CaptureHoldRequest(
            id=hold.budget_id, hold_id=hold.id, request_id=key or uuid4().hex, **given
        )
        if amount:
            request.amount.CopyFrom(money(amount))
        return await self.who.call(self.stubs.ledger.CaptureHold, request)

    async def release(self, hold: Hold, amount: str | Money = "", key: str = "") -> Hold:
        """Release the amount, by default all that is left of the hold."""
        request = ledger_pb.ReleaseHoldRequest(id=hold.budget_id, hold_id=hold.id, request_id=key or uuid4().hex)
        if amount:
            request.amount.CopyFrom(money(amount))
        return await self.who.call(self.stubs.ledger.ReleaseHold, request)

    async def get_hold(self, hold: Hold) -> Hold:
        return await self.who.call(
            self.stubs.ledger.GetHold, ledger_pb.GetHoldRequest(id=hold.budget_id, hold_id=hold.id)
        )

    async def holds(self, budget: Budget, **given: Any) -> list[Hold]:
        request = ledger_pb.ListHoldsRequest(id=budget.id, **given)
        return list((await self.who.call(self.stubs.ledger.ListHolds, request)).holds)

    async def entries(self, budget: Budget, **given: Any) -> list[Entry]:
        """Return the entries, newest first."""
        request = ledger_pb.ListEntriesRequest(id=budget.id, **given)
        return list((await self.who.call(self.stubs.ledger.ListEntries, request)).entries)

    async def verify(self, *budgets: Budget) -> list[BudgetVerification]:
        """Return the verifications; the test fails if the ledger of a budget differs from its balance."""
        verifications = [
            await self.who.call(self.stubs.ledger.VerifyBudget, ledger_pb.VerifyBudgetRequest(id=budget.id))
            for budget in budgets
        ]
        assert all(each.verified for each in verifications), verifications
        return verifications

    async def close(self, budget: Budget) -> Budget:
        return await self.who.call(self.stubs.budgets.CloseBudget, pb.CloseBudgetRequest(id=budget.id))

    async def set_rates(self, *rates: str) -> None:
        """Set exchange rates, each as "2026-03-01 USD/EUR 0.9"; without a day, they apply from today."""
        today = datetime.now(UTC).date()
        given = [rate_input(rate if rate[0].isdigit() else f"{today} {rate}") for rate in rates]
        await self.who.call(
            self.entities.rates.SetExchangeRates, SetExchangeRatesRequest(rates=given, confirm_large_change=True)
        )

    async def get(self, budget: Budget) -> Budget:
        return await self.who.call(self.stubs.budgets.GetBudget, pb.GetBudgetRequest(id=budget.id))

    async def cost_budget(self, entity_id: str, **fields: Any) -> CostBudgetPreview:
        """Preview the budget of a cost."""
        request = pb.PreviewCostBudgetRequest(entity_id=entity_id, **fields)
        return await self.who.call(self.stubs.budgets.PreviewCostBudget, request)

    async def update(self, budget: Budget, **given: Any) -> Budget:
        return await self.who.call(self.stubs.budgets.UpdateBudget, pb.UpdateBudgetRequest(id=budget.id, **given))

    async def alerts(self, budget: Budget, **given: Any) -> list[Alert]:
        request = alert_pb.ListAlertsRequest(id=budget.id, **given)
        return list((await self.who.call(self.stubs.alerts.ListAlerts, request)).alerts)
