"""Consolidated invoices: drafts, their lines, issue and withdrawal."""

import asyncio
from decimal import Decimal

import asyncpg
import pytest
from billing.entities.v1.contract_pb2 import Contract
from billing.entities.v1.department_pb2 import Department
from billing.entities.v1.entity_pb2 import Entity
from billing.entities.v1.events_pb2 import InvoiceIssued
from billing.entities.v1.invoice_pb2 import Invoice, InvoiceLine, InvoiceProblem
from grpc import StatusCode

from kit import ids
from tests.entities.allocation_api import AllocationApi
from tests.entities.billing_profile_api import BillingProfileApi
from tests.entities.contract_api import ContractApi
from tests.entities.contract_api import money as contract_money
from tests.entities.entities_api import EntitiesApi
from tests.entities.invoice_api import InvoiceApi, amounts, totals
from tests.harness.callers import refusal
from tests.harness.observe import PublishedEvents

OCTOBER = ("2026-10-01", "2026-11-01")


@pytest.fixture
async def holding(api: EntitiesApi, profiles: BillingProfileApi) -> Entity:
    """The top of a group in three currencies, with an issuer."""
    await profiles.create("Shared Services")
    for day in ("2026-10-01", "2026-11-01"):
        await api.set_rates(f"{day} USD/EUR 0.9123", f"{day} GBP/EUR 1.1717")
    return await api.create_entity("HOLD", tax_rate_bp=1900, payment_terms_days=14)


@pytest.fixture
async def us(api: EntitiesApi, holding: Entity) -> Entity:
    return await api.create_entity("US", parent_id=holding.id, currency_code="USD", tax_rate_bp=1900)


@pytest.fixture
async def departments(api: EntitiesApi, us: Entity) -> list[Department]:
    return [await api.create_department(us, code) for code in ("ENG", "HR", "OPS")]


@pytest.fixture
async def draft(costs: AllocationApi, invoices: InvoiceApi, holding: Entity, departments: list[Department]) -> Invoice:
    for department in departments:
        await costs.allocate(department, "10.01 USD", allocation_date="2026-10-05")
    return await invoices.create(holding, *OCTOBER)


class TestDraft:
    async def test_costs_of_the_group_are_converted_rounded_and_taxed(
        self, invoices: InvoiceApi, draft: Invoice
    ) -> None:
        assert amounts(draft) == ["9.13", "9.13", "9.13", "0.01"]
        assert totals(draft) == ("27.40", "5.21", "32.61")
        assert [line.kind for line in draft.lines] == [InvoiceLine.ALLOCATIONS] * 3 + [InvoiceLine.ROUNDING]
        line = draft.lines[0]
        assert (line.entity_code, line.department_name, line.original.amount, line.rate) == (
            "US", "ENG", "10.01", "0.9123",
        )  # fmt: skip
        (rate,) = draft.rates
        assert (rate.from_currency, rate.to_currency, rate.rate, rate.effective_date) == (
            "USD", "EUR", "0.9123", "2026-10-01",
        )  # fmt: skip
        assert (draft.state, draft.number, draft.recipient.legal_name) == (Invoice.DRAFT, "", "HOLD SE")
        assert await invoices.get(draft) == draft

    async def test_lines_lead_to_their_allocations(
        self, invoices: InvoiceApi, costs: AllocationApi, holding: Entity, departments: list[Department]
    ) -> None:
        made = [await costs.allocate(departments[0], "7.00 USD", allocation_date="2026-10-05") for _ in range(5)]
        draft = await invoices.create(holding, *OCTOBER)
        (line,) = await invoices.lines(draft)
        items = await invoices.items(draft, line, page_size=2)
        assert [item.allocation_id for item in items] == [each.id for each in made]
        assert sum(Decimal(item.amount.amount) for item in items) == Decimal(line.original.amount)

    async def test_a_second_draft_for_an_overlapping_period_is_refused(
        self, invoices: InvoiceApi, holding: Entity, draft: Invoice
    ) -> None:
        refused = await refusal(invoices.create(holding, "2026-10-31", "2026-12-01"))
        assert (refused.code, refused.reason) == (StatusCode.ALREADY_EXISTS, "INVOICE_PERIOD_TAKEN")
        assert refused.metadata["invoice_id"] == draft.id

    async def test_nothing_to_bill_is_refused(self, invoices: InvoiceApi, holding: Entity) -> None:
        refused = await refusal(invoices.create(holding, *OCTOBER))
        assert refused.reason == "INVOICE_EMPTY"

    async def test_separate_entities_are_left_out_with_everything_below_them(
        self, api: EntitiesApi, costs: AllocationApi, invoices: InvoiceApi, holding: Entity
    ) -> None:
        apart = await api.create_entity("APART", parent_id=holding.id, consolidation=Entity.SEPARATE)
        below = await api.create_entity("BELOW", parent_id=apart.id)
        for entity, amount in ((holding, "1.00 EUR"), (apart, "2.00 EUR"), (below, "4.00 EUR")):
            await costs.allocate(await api.create_department(entity, "IT"), amount, allocation_date="2026-10-05")
        assert (await invoices.create(holding, *OCTOBER)).net.amount == "1.00"
        assert (await invoices.create(apart, *OCTOBER)).net.amount == "6.00"

    async def test_a_missing_rate_names_pair_and_date(
        self, api: EntitiesApi, costs: AllocationApi, invoices: InvoiceApi, holding: Entity
    ) -> None:
        swiss = await api.create_entity("CH", parent_id=holding.id, currency_code="CHF")
        await costs.allocate(await api.create_department(swiss, "IT"), "5.00 CHF", allocation_date="2026-10-05")
        refused = await refusal(invoices.create(holding, *OCTOBER))
        assert refused.reason == "RATE_MISSING"
        assert refused.metadata["from_currency_code"] == "CHF"
        preview = await invoices.create(holding, *OCTOBER, validate_only=True)
        errors = [each.code for each in preview.problems if each.severity == InvoiceProblem.ERROR]
        assert errors == ["RATE_MISSING"]
        assert preview.id == ""

    async def test_a_preview_takes_nothing(
        self, invoices: InvoiceApi, costs: AllocationApi, holding: Entity, departments: list[Department]
    ) -> None:
        await costs.allocate(departments[0], "10.01 USD", allocation_date="2026-10-05")
        preview = await invoices.create(holding, *OCTOBER, validate_only=True)
        assert totals(preview) == totals(await invoices.create(holding, *OCTOBER))

    async def test_costs_posted_later_come_with_the_next_invoice(
        self, invoices: InvoiceApi, costs: AllocationApi, holding: Entity, departments: list[Department], draft: Invoice
    ) -> None:
        await invoices.issue(draft)
        await costs.allocate(departments[0], "5.00 USD", allocation_date="2026-10-06")
        await costs.allocate(departments[1], "7.00 USD", allocation_date="2026-11-06")
        later = await invoices.create(holding, "2026-11-01", "2026-12-01")
        assert [(line.first_date, line.original.amount) for line in later.lines if line.entity_id] == [
            ("2026-10-06", "5.00"), ("2026-11-06", "7.00"),
        ]  # fmt: skip

    async def test_reversals_of_billed_costs_are_credits_of_the_next_invoice(
        self, invoices: InvoiceApi, costs: AllocationApi, holding: Entity, departments: list[Department]
    ) -> None:
        cost = await costs.allocate(departments[0], "10.00 USD", allocation_date="2026-10-05")
        await invoices.issue(await invoices.create(holding, *OCTOBER))
        await costs.reverse(cost)
        later = await invoices.create(holding, "2026-11-01", "2026-12-01")
        assert later.lines[0].original.amount == "-10.00"


class TestContractFees:
    async def test_fees_due_in_the_period_are_billed_with_a_stub_at_the_end(
        self, contracts: ContractApi, invoices: InvoiceApi, holding: Entity
    ) -> None:
        total = contract_money("10928.33")
        await contracts.create_active(
            holding, start_date="2027-04-08", end_date="2027-07-01", billing_frequency=Contract.MONTHLY,
            total_value=total, phases=[{"start_date": "2027-04-08", "fee": contract_money("3950.00")}],
            contract_type=Contract.SUBSCRIPTION,
        )  # fmt: skip
        invoice = await invoices.create(holding, "2027-04-01", "2027-07-01")
        (line,) = await invoices.lines(invoice)
        assert line.amount.amount == "10928.33"
        items = await invoices.items(invoice, line)
        assert [(item.date, item.amount.amount) for item in items] == [
            ("2027-04-08", "3950.00"), ("2027-05-08", "3950.00"), ("2027-06-08", "3028.33"),
        ]  # fmt: skip

    async def test_a_period_that_ends_early_is_billed_by_days(
        self, contracts: ContractApi, invoices: InvoiceApi, holding: Entity
    ) -> None:
        await contracts.create_active(
            holding, start_date="2027-04-15", end_date="2027-05-20", billing_frequency=Contract.QUARTERLY,
            total_value=contract_money("1153.85"),
            phases=[{"start_date": "2027-04-15", "fee": contract_money("3000.00")}],
            contract_type=Contract.SUBSCRIPTION,
        )  # fmt: skip
        assert (await invoices.create(holding, "2027-04-01", "2027-07-01")).net.amount == "1153.85"

    async def test_a_fee_is_billed_once(
        self, contracts: ContractApi, invoices: InvoiceApi, api: EntitiesApi, holding: Entity
    ) -> None:
        daughter = await api.create_entity("SUB", parent_id=holding.id)
        await contracts.create_active(daughter, start_date="2026-10-01", end_date="2027-10-01")
        assert (await invoices.create(daughter, *OCTOBER)).net.amount == "100.00"
        assert (await refusal(invoices.create(holding, *OCTOBER))).reason == "INVOICE_EMPTY"


class TestEliminations:
    async def test_charges_between_entities_of_the_invoice_are_eliminated(
        self, api: EntitiesApi, costs: AllocationApi, invoices: InvoiceApi, holding: Entity, us: Entity
    ) -> None:
        uk = await api.create_entity("UK", parent_id=holding.id, currency_code="GBP", country_code="GB")
        it = await api.create_department(us, "IT")
        await api.set_rates("2026-10-05 GBP/USD 1.2850", confirm_large_change=True)
        await costs.allocate(it, "100.00 GBP", allocation_date="2026-10-05", counterparty_entity_id=uk.id)
        await costs.allocate(it, "50.00 USD", allocation_date="2026-10-05")
        invoice = await invoices.create(holding, *OCTOBER)
        (elimination,) = invoice.eliminations
        assert (elimination.supplier_code, elimination.buyer_code) == ("UK", "US")
        assert (elimination.original.amount, elimination.supplier_amount.amount) == ("100.00", "117.17")
        assert (elimination.booked.amount, elimination.buyer_amount.amount) == ("128.50", "117.23")
        assert [(line.kind, line.amount.amount) for line in invoice.lines] == [
            (InvoiceLine.ALLOCATIONS, "45.62"), (InvoiceLine.EXCHANGE_DIFFERENCE, "0.06"),
        ]  # fmt: skip


class TestIssue:
    async def test_an_issued_invoice_has_number_and_dates(
        self, invoices: InvoiceApi, draft: Invoice, published_events: PublishedEvents
    ) -> None:
        issued = await invoices.issue(draft)
        year = issued.issue_date[:4]
        assert (issued.state, issued.number) == (Invoice.ISSUED, f"INV-{year}-000001")
        assert issued.due_date > issued.issue_date
        assert issued.open.amount == "32.61"
        assert await invoices.get(issued) == issued
        event = await published_events.first(InvoiceIssued)
        assert (event.invoice_id, event.number, event.total.amount) == (issued.id, issued.number, "32.61")

    async def test_an_issued_invoice_is_not_refreshed_or_issued_again(
        self, invoices: InvoiceApi, draft: Invoice
    ) -> None:
        issued = await invoices.issue(draft)
        for call in (invoices.refresh(issued), invoices.issue(issued)):
            assert (await refusal(call)).reason == "INVOICE_STATE"

    @pytest.mark.parametrize(
        "statement",
        [
            "update entities.consolidated_invoices set note = 'other'",
            "update entities.consolidated_invoices set state = 'DRAFT', number = ''",
            "delete from entities.consolidated_invoices",
            "update entities.invoice_lines set amount = amount + 1",
            "delete from entities.invoice_lines",
            "delete from entities.invoice_charges",
            "update entities.invoice_charges set gl_code = 'other'",
        ],
    )
    async def test_the_database_refuses_changes_of_an_issued_invoice(
        self, invoices: InvoiceApi, draft: Invoice, admin: asyncpg.Pool, statement: str
    ) -> None:
        await invoices.issue(draft)
        key = "id" if "consolidated_invoices" in statement else "invoice_id"
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await admin.execute(f"{statement} where {key} = $1", ids.INVOICE.parse(draft.id))

    async def test_concurrent_issues_have_numbers_without_gaps(
        self, api: EntitiesApi, costs: AllocationApi, invoices: InvoiceApi, holding: Entity
    ) -> None:
        drafts = []
        for number in range(10):
            entity = await api.create_entity(f"S{number}", parent_id=holding.id)
            await costs.allocate(await api.create_department(entity, "IT"), allocation_date="2026-10-05")
            drafts.append(await invoices.create(entity, *OCTOBER))
        issued = await asyncio.gather(*(invoices.issue(each) for each in drafts))
        assert sorted(invoice.number[-6:] for invoice in issued) == [f"{number:06}" for number in range(1, 11)]


class TestVoid:
    async def test_everything_is_unbilled_again(self, invoices: InvoiceApi, holding: Entity, draft: Invoice) -> None:
        voided = await invoices.void(await invoices.issue(draft))
        assert (voided.state, voided.open.amount) == (Invoice.VOID, "0.00")
        again = await invoices.create(holding, *OCTOBER)
        assert totals(again) == totals(draft)
        assert [line.original.amount for line in again.lines] == [line.original.amount for line in draft.lines]

    async def test_fees_are_unbilled_again(self, contracts: ContractApi, invoices: InvoiceApi, holding: Entity) -> None:
        await contracts.create_active(holding, start_date="2026-10-01", end_date="2027-10-01")
        first = await invoices.create(holding, *OCTOBER)
        await invoices.void(first)
        assert totals(await invoices.create(holding, *OCTOBER)) == totals(first)


class TestRefresh:
    async def test_costs_posted_since_are_taken(
        self, invoices: InvoiceApi, costs: AllocationApi, departments: list[Department], draft: Invoice
    ) -> None:
        await costs.allocate(departments[0], "10.01 USD", allocation_date="2026-10-07")
        refreshed = await invoices.refresh(draft)
        assert amounts(refreshed) == ["18.26", "9.13", "9.13", "0.01"]
        assert refreshed.etag != draft.etag
