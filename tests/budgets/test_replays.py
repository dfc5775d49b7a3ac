"""A repeated key returns the same reply, whatever has changed since."""

from collections.abc import Awaitable, Callable
from uuid import UUID, uuid4

import asyncpg
import grpc
from billing.budgets.v1 import budget_service_pb2 as pb
from billing.budgets.v1.budget_pb2 import Budget
from billing.budgets.v1.rollover_pb2 import Transfer
from billing.entities.v1.department_service_pb2 import DeactivateDepartmentRequest
from billing.entities.v1.entity_service_pb2 import DeactivateEntityRequest, UpdateEntityRequest
from billing.type.v1.money_pb2 import Money

from kit import clock
from tests.budgets.budgets_api import BudgetsApi, eur, line
from tests.harness.callers import Caller, Refusal, refusal
from tests.harness.observe import eventually


class TestDeactivatedOwners:
    async def test_a_repeated_create_returns_the_budget(self, api: BudgetsApi) -> None:
        entity = await api.company("GOING")
        opened = await api.open(entity_id=entity, request_id="k")
        await api.who.call(api.entities.entities.DeactivateEntity, DeactivateEntityRequest(id=entity))
        assert await api.open(entity_id=entity, request_id="k") == opened
        assert (await refusal(api.open(entity_id=entity, request_id="other"))).reason == "OWNER_INACTIVE"

    async def test_a_repeated_create_returns_the_budget_of_a_department(self, api: BudgetsApi, company: str) -> None:
        department = await api.department(company)
        opened = await api.open(department_id=department, request_id="k")
        request = DeactivateDepartmentRequest(id=department)
        await api.who.call(api.entities.departments.DeactivateDepartment, request)
        assert await api.open(department_id=department, request_id="k") == opened
        assert (await refusal(api.open(department_id=department, request_id="other"))).reason == "OWNER_INACTIVE"

    async def test_a_key_with_different_input_is_still_a_mismatch(self, api: BudgetsApi) -> None:
        entity = await api.company("GOING")
        await api.open(entity_id=entity, request_id="k")
        await api.who.call(api.entities.entities.DeactivateEntity, DeactivateEntityRequest(id=entity))
        refused = await refusal(api.open("2000", entity_id=entity, request_id="k"))
        assert refused.reason == "IDEMPOTENCY_MISMATCH"

    async def test_a_repeated_reopen_returns_the_budget(self, api: BudgetsApi) -> None:
        entity = await api.company("GOING")
        budget = await api.open(entity_id=entity)
        await api.close(budget)
        reopening = pb.ReopenBudgetRequest(id=budget.id, request_id="k")
        reopened = await api.who.call(api.stubs.budgets.ReopenBudget, reopening)
        await api.who.call(api.entities.entities.DeactivateEntity, DeactivateEntityRequest(id=entity))
        assert await api.who.call(api.stubs.budgets.ReopenBudget, reopening) == reopened


async def test_a_repeated_create_returns_its_period_after_the_fiscal_year_changed(
    api: BudgetsApi, company: str
) -> None:
    year = clock.now().year
    opening = pb.CreateBudgetRequest(
        entity_id=company,
        name="Cloud",
        period_type=Budget.ANNUAL,
        period_end_date=f"{year + 1}-01-01",
        amount=eur("1000"),
        request_id="k",
    )
    opened = await api.who.call(api.stubs.budgets.CreateBudget, opening)
    assert opened.period_start_date == f"{year}-01-01"
    changed = UpdateEntityRequest(id=company, fiscal_year_start_month=12)
    await api.who.call(api.entities.entities.UpdateEntity, changed)
    assert await api.who.call(api.stubs.budgets.CreateBudget, opening) == opened
    opening.request_id = "other"
    refused = await refusal(api.who.call(api.stubs.budgets.CreateBudget, opening))
    assert set(refused.fields) == {"period_end_date"}


async def test_a_repeated_transfer_returns_its_amounts_after_the_rate_is_gone(
    api: BudgetsApi, tenant: UUID, admin: "asyncpg.Pool[asyncpg.Record]"
) -> None:
    await api.set_rates("EUR/USD 1.25")
    source, target = await api.open("1000"), await api.open(amount=Money(currency_code="USD", amount="100"))

    def transfer(key: str) -> Awaitable[Transfer]:
        request = pb.TransferBudgetRequest(id=source.id, to_budget_id=target.id, amount=eur("10"), request_id=key)
        return api.who.call(api.stubs.budgets.TransferBudget, request)

    done = await transfer("k")
    # The rate is gone as if it were too old; setting another rate evicts it from the caches.
    await admin.execute("delete from entities.exchange_rates where tenant_id = $1", tenant)
    await api.set_rates("GBP/JPY 190")

    async def refused() -> bool:
        try:
            await transfer(uuid4().hex)
        except grpc.aio.AioRpcError as error:
            return Refusal.of(error).reason == "RATE_MISSING"
        return False

    await eventually(refused)
    assert await transfer("k") == done


class TestEqualAmounts:
    async def test_repeated_charge_with_an_equal_amount_returns_the_charge(self, api: BudgetsApi) -> None:
        budget = await api.open()
        charge = await api.charge(budget, "10.0", "k")
        assert await api.charge(budget, "10.00", "k") == charge
        batch = await api.batch(line(budget, "10", "k"))
        assert (batch.results[0].charge, batch.results[0].replayed) == (charge, True)
        assert (await refusal(api.charge(budget, "10.01", "k"))).reason == "IDEMPOTENCY_MISMATCH"
        assert (await api.get(budget)).spent == eur("10.00")

    async def test_repeated_hold_refund_and_budget_with_equal_amounts_return_the_same(self, api: BudgetsApi) -> None:
        budget = await api.open("1000.0", request_id="k")
        assert await api.open("1000", request_id="k") == budget
        charge = await api.charge(budget, "10")
        assert await api.refund(charge, "5.0", "k") == await api.refund(charge, "5", "k")
        assert await api.hold(budget, "5.0", "k") == await api.hold(budget, "5", "k")

    async def test_key_of_another_user_is_refused_with_that_reason(
        self, api: BudgetsApi, api_for: Callable[[Caller], BudgetsApi], caller: Callable[..., Caller]
    ) -> None:
        budget = await api.open()
        await api.charge(budget, "10", "k")
        refused = await refusal(api_for(caller(subject="bob")).charge(budget, "10", "k"))
        assert refused.reason == "IDEMPOTENCY_MISMATCH"
        assert refused.message == "The key 'k' was used before by another user; use a new key."
