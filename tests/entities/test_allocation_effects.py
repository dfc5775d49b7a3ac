"""Effects of allocations on budgets: the matching budget is charged once, and refunded."""

from collections.abc import Awaitable, Callable
from decimal import Decimal
from uuid import UUID

import asyncpg
import pytest
from billing.budgets.v1 import budget_service_pb2 as pb
from billing.budgets.v1 import ledger_service_pb2 as ledger_pb
from billing.budgets.v1.budget_pb2 import Budget
from billing.budgets.v1.entry_pb2 import Entry
from billing.entities.v1.department_pb2 import Department
from nats.aio.client import Client

from kit import clock
from tests.entities.allocation_api import AllocationApi, line, money
from tests.entities.entities_api import EntitiesApi
from tests.entities.rules_api import RulesApi, even, terms
from tests.entities.usage_records import UsageTracking, usage
from tests.harness.callers import Caller
from tests.harness.observe import eventually
from tests.harness.services import Budgets, Entities

Entries = Callable[[int], Awaitable[list[Entry]]]


@pytest.fixture
async def engineering(api: EntitiesApi) -> Department:
    return await api.create_department(await api.create_entity("ACME"), "ENG")


@pytest.fixture
async def entries(finance: Caller, budgets: Budgets, engineering: Department) -> Entries:
    """The entries of the department's budget of this year, oldest first, once there are `count`."""
    request = pb.CreateBudgetRequest(
        entity_id=engineering.entity_id, department_id=engineering.id, name="Cloud", period_type=Budget.ANNUAL,
        period_start_date=f"{clock.now().year}-01-01", amount=money("1000.00 EUR"),
    )  # fmt: skip
    budget = await finance.call(budgets.budgets.CreateBudget, request)

    async def wait(count: int) -> list[Entry]:
        async def enough() -> list[Entry]:
            response = await finance.call(budgets.ledger.ListEntries, ledger_pb.ListEntriesRequest(id=budget.id))
            return list(response.entries)[::-1] if len(response.entries) >= count else []

        return await eventually(enough)

    return wait


async def test_cost_is_charged_and_its_reversal_refunded(
    costs: AllocationApi, engineering: Department, entries: Entries
) -> None:
    allocation = await costs.allocate(engineering, "12.34 EUR", description="Storage")
    (charge,) = await entries(1)
    assert (charge.entry_type, charge.amount, charge.reference) == (Entry.CHARGE, money("12.34 EUR"), allocation.id)
    assert (charge.actor, charge.description) == ("alice", "Storage")
    reversal = await costs.reverse(allocation)
    _, refund = await entries(2)
    assert (refund.entry_type, refund.amount) == (Entry.REFUND, money("12.34 EUR"))
    assert refund.reference == reversal.id


async def test_credit_refunds_a_part_and_the_reversal_the_rest(
    costs: AllocationApi, engineering: Department, entries: Entries
) -> None:
    allocation = await costs.allocate(engineering, "12.34 EUR")
    await entries(1)
    credit = await costs.credit(allocation, "2.34 EUR", reason="Outage")
    _, refund = await entries(2)
    assert (refund.entry_type, refund.amount) == (Entry.REFUND, money("2.34 EUR"))
    assert (refund.reference, refund.description) == (credit.id, "Outage")
    await costs.reverse(allocation)
    *_, rest = await entries(3)
    assert rest.amount == money("10.00 EUR")


async def test_reversed_split_refunds_its_shares_and_charges_the_restored_cost(
    api: EntitiesApi, costs: AllocationApi, engineering: Department, entries: Entries, finance: Caller,
    entities: Entities,
) -> None:  # fmt: skip
    rules = RulesApi(finance, entities)
    below = [await api.create_department(engineering.entity_id, code, parent_id=engineering.id) for code in "AB"]
    whole = await costs.allocate(engineering, "10.00 EUR", source_ref="INV-1")
    await entries(1)
    split = await rules.split(allocation_id=whole.id, terms=terms(*even(*below)))
    await entries(4)
    split = await rules.reverse_split(split)
    posted = await entries(7)
    spent = [
        Decimal(each.amount.amount) * {Entry.CHARGE: 1, Entry.REFUND: -1}[each.entry_type] for each in posted
    ]  # fmt: skip
    assert sum(spent, Decimal(0)) == 10
    assert sorted(spent) == [-10, -5, -5, 5, 5, 10, 10]
    assert split.reversal.restored_allocation_id in {each.reference for each in posted}


async def test_each_line_of_a_batch_is_charged_once(
    costs: AllocationApi, engineering: Department, entries: Entries
) -> None:
    lines = [line(engineering, f"{n}.00 EUR", source_ref=f"r-{n}") for n in range(1, 21)]
    await costs.batch(*lines)
    await costs.batch(*lines, line(engineering, "0.50 EUR"))
    charged = await entries(21)
    assert sorted(Decimal(each.amount.amount) for each in charged) == [Decimal("0.5"), *range(1, 21)]


async def test_usage_is_charged(
    engineering: Department, entries: Entries, nats: Client, tenant: UUID, admin: "asyncpg.Pool[asyncpg.Record]"
) -> None:
    record = usage(engineering, "7.00 EUR")
    await UsageTracking(nats, tenant, admin).publish(record, record)
    (charge,) = await entries(1)
    assert (charge.amount, charge.actor) == (money("7.00 EUR"), "/platform/usage")
