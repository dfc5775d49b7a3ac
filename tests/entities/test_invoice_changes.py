"""Invoices whose group, rates, contracts, costs or issuer change before or after they are issued."""

from decimal import Decimal

import pytest
from billing.entities.v1.amendment_pb2 import Amendment
from billing.entities.v1.department_pb2 import Department
from billing.entities.v1.entity_pb2 import Entity
from billing.entities.v1.invoice_pb2 import Invoice

from tests.entities.allocation_api import AllocationApi, line
from tests.entities.amendment_api import AmendmentApi
from tests.entities.billing_profile_api import BillingProfileApi
from tests.entities.contract_api import ContractApi, day
from tests.entities.contract_api import money as contract_money
from tests.entities.entities_api import EntitiesApi
from tests.entities.invoice_api import InvoiceApi
from tests.entities.rules_api import RulesApi, even, terms
from tests.entities.tree_api import TreeApi
from tests.harness.callers import Caller, refusal
from tests.harness.services import Entities

OCTOBER = ("2026-10-01", "2026-11-01")
NOVEMBER = ("2026-11-01", "2026-12-01")


@pytest.fixture
async def holding(api: EntitiesApi, profiles: BillingProfileApi) -> Entity:
    await profiles.create("Shared Services")
    return await api.create_entity("HOLD", tax_rate_bp=1900)


@pytest.fixture
async def daughter(api: EntitiesApi, holding: Entity) -> Entity:
    return await api.create_entity("SUB", parent_id=holding.id, tax_rate_bp=1900)


@pytest.fixture
async def it(api: EntitiesApi, daughter: Entity) -> Department:
    """A department of the daughter."""
    return await api.create_department(daughter, "IT")


async def bill(invoices: InvoiceApi, entity: Entity, start: str, end: str) -> list[tuple[str, str]]:
    """Create and issue an invoice with one line; return the days and amounts that it consists of."""
    invoice = await invoices.issue(await invoices.create(entity, start, end))
    (only,) = invoice.lines
    return [(item.date, item.amount.amount) for item in await invoices.items(invoice, only)]


class TestGroup:
    async def test_what_a_moved_entity_owes_is_billed_in_its_new_group(
        self, api: EntitiesApi, costs: AllocationApi, contracts: ContractApi, invoices: InvoiceApi,
        finance: Caller, entities: Entities, holding: Entity, daughter: Entity, it: Department,
    ) -> None:  # fmt: skip
        other = await api.create_entity("OTHER")
        await costs.allocate(it, "10.00 EUR", allocation_date="2026-10-15")
        await contracts.create_active(daughter, start_date="2026-10-01", end_date="2027-10-01")
        draft = await invoices.create(holding, *OCTOBER)
        assert draft.net.amount == "110.00"
        await TreeApi(finance, entities).move(daughter, other)
        assert (await refusal(invoices.create(other, *OCTOBER))).reason == "INVOICE_EMPTY"
        assert (await refusal(invoices.refresh(draft))).reason == "INVOICE_EMPTY"
        assert (await invoices.get(draft)) == draft
        await invoices.void(draft)
        assert (await invoices.create(other, *OCTOBER)).net.amount == "110.00"

    async def test_an_entity_set_apart_leaves_a_draft_when_it_is_refreshed(
        self, api: EntitiesApi, costs: AllocationApi, contracts: ContractApi, invoices: InvoiceApi,
        holding: Entity, daughter: Entity, it: Department,
    ) -> None:  # fmt: skip
        top = await api.create_department(holding, "IT")
        for department, amount in ((it, "10.00 EUR"), (top, "1.00 EUR")):
            await costs.allocate(department, amount, allocation_date="2026-10-15")
        await contracts.create_active(daughter, start_date="2026-10-01", end_date="2027-10-01")
        draft = await invoices.create(holding, *OCTOBER)
        await api.update(daughter, consolidation=Entity.SEPARATE)
        assert (await refusal(invoices.create(daughter, *OCTOBER))).reason == "INVOICE_EMPTY"
        assert (await invoices.refresh(draft)).net.amount == "1.00"
        assert (await invoices.create(daughter, *OCTOBER)).net.amount == "110.00"
        await api.update(daughter, consolidation=Entity.INCLUDE)
        assert (await invoices.refresh(draft)).net.amount == "1.00"


class TestRates:
    async def test_a_draft_keeps_the_rates_of_its_creation(
        self, api: EntitiesApi, costs: AllocationApi, invoices: InvoiceApi, holding: Entity
    ) -> None:
        us = await api.create_entity("US", parent_id=holding.id, currency_code="USD")
        await api.set_rates("2026-10-01 USD/EUR 0.90")
        await costs.allocate(await api.create_department(us, "IT"), "10.00 USD", allocation_date="2026-10-15")
        preview = await invoices.create(holding, *OCTOBER, validate_only=True)
        await api.set_rates("2026-10-01 USD/EUR 0.91")
        draft = await invoices.create(holding, *OCTOBER)
        await api.set_rates("2026-10-01 USD/EUR 0.92")
        assert (preview.net.amount, draft.net.amount) == ("9.00", "9.10")
        assert (await invoices.issue(draft)).net.amount == "9.10"

    async def test_an_average_needs_a_rate_on_each_day(
        self, api: EntitiesApi, costs: AllocationApi, invoices: InvoiceApi, holding: Entity
    ) -> None:
        us = await api.create_entity("US", parent_id=holding.id, currency_code="USD")
        await api.set_rates("2026-10-10 USD/EUR 0.90")
        await costs.allocate(await api.create_department(us, "IT"), "10.00 USD", allocation_date="2026-10-15")
        refused = await refusal(invoices.create(holding, *OCTOBER, rate_policy=Invoice.PERIOD_AVERAGE))
        assert (refused.reason, refused.metadata) == (
            "RATE_MISSING", {"from_currency_code": "USD", "to_currency_code": "EUR", "rate_date": "2026-10-01"},
        )  # fmt: skip

    async def test_each_day_of_a_quarter_in_five_currencies_has_its_own_rate(
        self, api: EntitiesApi, costs: AllocationApi, invoices: InvoiceApi, holding: Entity, it: Department
    ) -> None:
        months = ((8, 31), (9, 30), (10, 31))
        days = [f"2026-{month:02}-{day:02}" for month, last in months for day in range(1, last + 1)]
        units = {"USD": "10.01", "GBP": "10.01", "CHF": "10.01", "JPY": "10", "KWD": "10.001"}
        rates = [f"{date} {code}/EUR 1.{number:03}" for number, date in enumerate(days) for code in units]
        await api.set_rates(*rates, confirm_large_change=True)
        posted = [line(it, f"{units[code]} {code}", allocation_date=date) for date in days for code in units]
        for start in range(0, len(posted), 100):
            await costs.batch(*posted[start : start + 100], atomic=True)
        draft = await invoices.create(holding, "2026-08-01", "2026-11-01", rate_policy=Invoice.TRANSACTION_DATE)
        assert len(draft.rates) == 460
        sum_of_rates = sum(Decimal(f"1.{number:03}") for number in range(len(days)))
        assert Decimal(draft.net.amount) == round(sum(map(Decimal, units.values())) * sum_of_rates, 2)
        (listed,) = (await invoices.list_page()).invoices
        assert not listed.rates


class TestContracts:
    async def test_an_early_end_leads_to_one_credit(
        self, contracts: ContractApi, invoices: InvoiceApi, holding: Entity
    ) -> None:
        contract = await contracts.create_active(holding, start_date=day(-40), end_date=day(325))
        first = await bill(invoices, holding, day(-41), day(60))
        assert [amount for _, amount in first] == ["100.00"] * 4
        await contracts.terminate(contract, effective_date=day(1), for_cause=True)
        credit = await bill(invoices, holding, day(60), day(90))
        assert all(amount.startswith("-") for _, amount in credit)
        assert {date for date, _ in credit} <= {date for date, _ in first}
        assert (await refusal(invoices.create(holding, day(90), day(120)))).reason == "INVOICE_EMPTY"

    async def test_a_lower_price_in_a_billed_period_leads_to_one_credit(
        self, contracts: ContractApi, amendments: AmendmentApi, invoices: InvoiceApi, holding: Entity
    ) -> None:
        contract = await contracts.create_active(holding, start_date="2026-10-01", end_date="2027-10-01")
        assert await bill(invoices, holding, *OCTOBER) == [("2026-10-01", "100.00")]
        half = contract_money("50.00")
        amended = await amendments.create_approved(contract, Amendment.PRICE, effective_date="2026-10-16", fee=half)
        await amendments.wait_until_finished(amended)
        assert await bill(invoices, holding, *NOVEMBER) == [("2026-10-16", "-25.81"), ("2026-11-01", "50.00")]
        assert await bill(invoices, holding, "2026-12-01", "2027-01-01") == [("2026-12-01", "50.00")]


class TestCosts:
    async def test_a_split_that_is_reversed_after_billing_is_a_credit(
        self, api: EntitiesApi, rules: RulesApi, invoices: InvoiceApi, holding: Entity
    ) -> None:
        targets = [await api.create_department(holding, code) for code in ("A", "B", "C")]
        split = await rules.split("100.00 EUR", terms=terms(*even(*targets)), allocation_date="2026-10-05")
        assert (await invoices.issue(await invoices.create(holding, *OCTOBER))).net.amount == "100.00"
        await rules.reverse_split(split, allocation_date="2026-11-03")
        assert (await invoices.create(holding, *NOVEMBER)).net.amount == "-100.00"

    async def test_a_refreshed_draft_has_another_etag_even_with_the_same_totals(
        self, costs: AllocationApi, invoices: InvoiceApi, holding: Entity, it: Department
    ) -> None:
        cost = await costs.allocate(it, "10.00 EUR", allocation_date="2026-10-05")
        draft = await invoices.create(holding, *OCTOBER)
        await costs.reverse(cost, allocation_date="2026-10-06")
        await costs.allocate(it, "10.00 EUR", allocation_date="2026-10-07")
        refreshed = await invoices.refresh(draft)
        assert refreshed.total == draft.total
        for call in (invoices.refresh, invoices.issue, invoices.void):
            assert (await refusal(call(draft, etag=draft.etag))).reason == "ETAG_MISMATCH"


class TestIssuer:
    async def test_an_inactive_profile_issues_no_draft(
        self, costs: AllocationApi, profiles: BillingProfileApi, invoices: InvoiceApi, holding: Entity, it: Department
    ) -> None:
        second = await profiles.create(
            "Second", invoice_prefix="SND", credit_note_prefix="SNC", statement_prefix="SNS"
        )  # fmt: skip
        await costs.allocate(it, "10.00 EUR", allocation_date="2026-10-15")
        draft = await invoices.create(holding, *OCTOBER, billing_profile_id=second.id)
        await profiles.deactivate(second)
        for call in (invoices.issue, invoices.refresh):
            assert (await refusal(call(draft))).reason == "BILLING_PROFILE_INACTIVE"
        assert (await invoices.void(draft)).state == Invoice.VOID

    async def test_a_refreshed_draft_follows_the_vat_group(
        self, costs: AllocationApi, profiles: BillingProfileApi, invoices: InvoiceApi, holding: Entity,
        daughter: Entity, it: Department,
    ) -> None:  # fmt: skip
        profile = await profiles.create(
            "Second", invoice_prefix="SND", credit_note_prefix="SNC", statement_prefix="SNS"
        )  # fmt: skip
        await costs.allocate(it, "10.00 EUR", allocation_date="2026-10-15")
        draft = await invoices.create(holding, *OCTOBER, billing_profile_id=profile.id)
        await profiles.update(profile, vat_group_entity_ids=[daughter.id])
        refreshed = await invoices.refresh(draft)
        assert (draft.tax.amount, refreshed.tax.amount, refreshed.type) == ("1.90", "0.00", Invoice.STATEMENT)
