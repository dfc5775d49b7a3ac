"""What no invoice has taken: costs and fees by entity, page by page."""

from collections.abc import Callable

import pytest
from billing.entities.v1.department_pb2 import Department
from billing.entities.v1.entity_pb2 import Entity
from billing.entities.v1.statement_pb2 import UnbilledItem
from grpc import StatusCode

from tests.entities.allocation_api import AllocationApi, line, money_text
from tests.entities.billing_profile_api import BillingProfileApi
from tests.entities.contract_api import ContractApi
from tests.entities.entities_api import EntitiesApi
from tests.entities.invoice_api import InvoiceApi
from tests.entities.invoice_statement_api import InvoiceStatementApi
from tests.harness.callers import Caller, refusal
from tests.harness.services import Entities

OCTOBER = ("2026-10-01", "2026-11-01")


@pytest.fixture
async def holding(api: EntitiesApi, profiles: BillingProfileApi) -> Entity:
    await profiles.create("Shared Services")
    await api.set_rates("2026-10-01 USD/EUR 0.9123")
    return await api.create_entity("HOLD", tax_rate_bp=1900)


@pytest.fixture
async def us(api: EntitiesApi, holding: Entity) -> Entity:
    return await api.create_entity("US", parent_id=holding.id, currency_code="USD")


@pytest.fixture
async def it(api: EntitiesApi, us: Entity) -> Department:
    return await api.create_department(us, "IT")


def shown(items: list[UnbilledItem]) -> list[tuple[str, str, int, str, str]]:
    return [
        (item.entity_code, money_text(item.amount), item.item_count, item.first_date, item.last_date) for item in items
    ]


class TestCosts:
    async def test_costs_are_summed_by_entity_department_gl_code_and_currency(
        self, costs: AllocationApi, statements: InvoiceStatementApi, holding: Entity, us: Entity, it: Department
    ) -> None:
        await costs.allocate(it, "10.00 USD", allocation_date="2026-10-05", gl_code="6200")
        await costs.allocate(it, "5.50 USD", allocation_date="2026-10-07", gl_code="6200")
        await costs.allocate(it, "1.00 EUR", allocation_date="2026-10-06", gl_code="6200")
        await costs.allocate(it, "2.00 USD", allocation_date="2026-10-06", gl_code="6300")
        await costs.batch(line(us, "4.00 USD", allocation_date="2026-10-08"))
        items = await statements.unbilled(us)
        assert [(item.department_id, item.gl_code) for item in items] == [
            ("", ""), (it.id, "6200"), (it.id, "6200"), (it.id, "6300"),
        ]  # fmt: skip
        assert shown(items) == [
            ("US", "4.00 USD", 1, "2026-10-08", "2026-10-08"),
            ("US", "1.00 EUR", 1, "2026-10-06", "2026-10-06"),
            ("US", "15.50 USD", 2, "2026-10-05", "2026-10-07"),
            ("US", "2.00 USD", 1, "2026-10-06", "2026-10-06"),
        ]
        assert await statements.unbilled(holding) == []
        assert await statements.unbilled(holding, include_descendants=True) == items

    async def test_totals_are_those_of_all_pages(
        self, costs: AllocationApi, contracts: ContractApi, statements: InvoiceStatementApi, us: Entity, it: Department
    ) -> None:
        for number in range(5):
            await costs.allocate(it, "10.00 USD", allocation_date="2026-10-05", gl_code=f"620{number}")
        for _ in range(2):
            await contracts.create_active(us, start_date="2026-10-01", end_date="2027-10-01")
        whole = await statements.unbilled_page(us, as_of_date="2026-11-15")
        for size in (1, 2, 3, 6):
            page = await statements.unbilled_page(us, as_of_date="2026-11-15", page_size=size)
            assert page.totals == whole.totals
            assert await statements.unbilled(us, as_of_date="2026-11-15", page_size=size) == list(whole.unbilled_items)
        assert [
            (total.currency_code, total.allocated.amount, total.allocation_count, total.fees.amount, total.fee_count,
             total.total.amount)
            for total in whole.totals
        ] == [("EUR", "0.00", 0, "400.00", 4, "400.00"), ("USD", "50.00", 5, "0.00", 0, "50.00")]  # fmt: skip
        assert whole.as_of_date == "2026-11-15"

    async def test_costs_of_an_invoice_are_billed_until_it_is_void(
        self, costs: AllocationApi, invoices: InvoiceApi, statements: InvoiceStatementApi, holding: Entity,
        it: Department,
    ) -> None:  # fmt: skip
        await costs.allocate(it, "10.00 USD", allocation_date="2026-10-05")
        before = await statements.unbilled(holding, include_descendants=True)
        draft = await invoices.create(holding, *OCTOBER)
        assert await statements.unbilled(holding, include_descendants=True) == []
        await invoices.void(draft)
        assert await statements.unbilled(holding, include_descendants=True) == before

    async def test_a_reversal_of_a_billed_cost_is_unbilled(
        self, costs: AllocationApi, invoices: InvoiceApi, statements: InvoiceStatementApi, us: Entity, it: Department
    ) -> None:
        cost = await costs.allocate(it, "10.00 USD", allocation_date="2026-10-05")
        await invoices.issue(await invoices.create(us, *OCTOBER))
        await costs.reverse(cost)
        (item,) = await statements.unbilled(us)
        assert money_text(item.amount) == "-10.00 USD"


class TestFees:
    async def test_fees_that_have_fallen_due_are_unbilled_by_contract(
        self, contracts: ContractApi, statements: InvoiceStatementApi, holding: Entity
    ) -> None:
        contract = await contracts.create_active(holding, start_date="2026-10-15", end_date="2027-10-15")
        assert await statements.unbilled(holding, as_of_date="2026-10-14") == []
        (item,) = await statements.unbilled(holding, as_of_date="2026-11-15")
        assert (item.kind, item.contract_id, item.contract_number) == (
            UnbilledItem.CONTRACT_FEES, contract.id, contract.contract_number,
        )  # fmt: skip
        assert shown([item]) == [("HOLD", "200.00 EUR", 2, "2026-10-15", "2026-11-15")]

    async def test_billed_fees_are_left_out(
        self, contracts: ContractApi, invoices: InvoiceApi, statements: InvoiceStatementApi, holding: Entity
    ) -> None:
        await contracts.create_active(holding, start_date="2026-10-15", end_date="2027-10-15")
        await invoices.create(holding, *OCTOBER)
        assert shown(await statements.unbilled(holding, as_of_date="2026-11-15")) == [
            ("HOLD", "100.00 EUR", 1, "2026-11-15", "2026-11-15")
        ]

    async def test_a_fee_that_was_reduced_after_it_was_billed_is_a_credit(
        self, contracts: ContractApi, invoices: InvoiceApi, statements: InvoiceStatementApi, holding: Entity
    ) -> None:
        contract = await contracts.create_active(holding, start_date="2026-11-01", end_date="2027-11-01")
        await invoices.issue(await invoices.create(holding, "2026-11-01", "2027-03-01"))
        await contracts.terminate(contract, effective_date="2027-02-15")
        assert shown(await statements.unbilled(holding, as_of_date="2027-02-28")) == [
            ("HOLD", "-50.00 EUR", 1, "2027-02-01", "2027-02-01")
        ]

    async def test_the_day_is_that_of_the_entity_by_default(
        self, api: EntitiesApi, statements: InvoiceStatementApi, holding: Entity
    ) -> None:
        east = await api.create_entity("KI", parent_id=holding.id, time_zone="Pacific/Kiritimati")
        west = await api.create_entity("NU", parent_id=holding.id, time_zone="Pacific/Niue")
        days = [(await statements.unbilled_page(each)).as_of_date for each in (east, west)]
        assert days[0] > days[1]


class TestAccess:
    async def test_unknown_entities_and_those_outside_of_the_scope_are_not_found(
        self, caller: Callable[..., Caller], entities: Entities, statements: InvoiceStatementApi, holding: Entity,
        us: Entity,
    ) -> None:  # fmt: skip
        confined = InvoiceStatementApi(caller("finance", entity_scope=[us.id]), entities)
        assert await confined.unbilled(us) == []
        refused = await refusal(confined.unbilled(holding))
        assert (refused.code, refused.reason) == (StatusCode.NOT_FOUND, "ENTITY_NOT_FOUND")
        assert (await refusal(statements.unbilled(Entity(id=f"ent_{'0' * 32}")))).reason == "ENTITY_NOT_FOUND"
