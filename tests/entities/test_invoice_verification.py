"""Invoices computed again from their facts, also after somebody changed rows in the database."""

from uuid import UUID

import asyncpg
import pytest
from billing.entities.v1.entity_pb2 import Entity
from billing.entities.v1.invoice_pb2 import Invoice
from billing.entities.v1.statement_pb2 import InvoiceDifference, InvoiceVerification
from grpc import StatusCode

from tests.entities.allocation_api import AllocationApi
from tests.entities.billing_profile_api import BillingProfileApi
from tests.entities.contract_api import ContractApi
from tests.entities.credit_note_api import CreditNoteApi, DisputeApi, IssuedInvoices, paid, refund_failed
from tests.entities.entities_api import EntitiesApi
from tests.entities.invoice_api import InvoiceApi
from tests.entities.invoice_statement_api import InvoiceStatementApi
from tests.harness.callers import Caller, refusal
from tests.harness.events import Replica

OCTOBER = ("2026-10-01", "2026-11-01")
POLICIES = [Invoice.PERIOD_END, Invoice.TRANSACTION_DATE, Invoice.PERIOD_AVERAGE]


@pytest.fixture
async def holding(api: EntitiesApi, profiles: BillingProfileApi) -> Entity:
    """A group in three currencies, whose issuer accounts its taxes in a fourth one."""
    await profiles.create("Shared Services", currency_code="CHF")
    for day, usd in (("2026-10-01", "0.9123"), ("2026-10-06", "0.9200"), ("2026-10-20", "0.9311")):
        await api.set_rates(
            f"{day} USD/EUR {usd}", f"{day} GBP/EUR 1.1717", f"{day} CHF/EUR 1.0711", confirm_large_change=True
        )
    return await api.create_entity("HOLD", tax_rate_bp=1900)


@pytest.fixture
async def charged(api: EntitiesApi, costs: AllocationApi, contracts: ContractApi, holding: Entity) -> Entity:
    """The group with costs of all kinds: foreign, between companies, credits, without department, and a fee."""
    us = await api.create_entity("US", parent_id=holding.id, currency_code="USD", tax_rate_bp=700)
    uk = await api.create_entity("UK", parent_id=holding.id, currency_code="GBP", country_code="GB")
    it, ops, sales = [await api.create_department(us, code) for code in ("IT", "OPS", "SALES")]
    for department in (it, ops, sales):
        await costs.allocate(department, "10.01 USD", allocation_date="2026-10-05", gl_code="6200")
        await costs.allocate(department, "3.33 USD", allocation_date="2026-10-07", gl_code="6200")
    credited = await costs.allocate(
        await api.create_department(holding, "HQ"), "80.00 EUR", allocation_date="2026-10-05"
    )
    await costs.credit(credited, "12.34 EUR")
    await costs.allocate(it, "100.00 GBP", allocation_date="2026-10-06", counterparty_entity_id=uk.id)
    await contracts.create_active(holding, start_date="2026-10-01", end_date="2027-10-01")
    return holding


@pytest.fixture
async def invoice(invoices: InvoiceApi, charged: Entity) -> Invoice:
    return await invoices.issue(await invoices.create(charged, *OCTOBER))


def found(verification: InvoiceVerification) -> set[tuple[str, int, str, str]]:
    """Subject, line number, label and field of the differences."""
    assert verification.difference_count == len(verification.differences)
    assert verification.verified == (not verification.differences)
    return {
        (InvoiceDifference.Subject.Name(each.subject), each.line_number, each.label, each.field)
        for each in verification.differences
    }


class TestUnchanged:
    @pytest.mark.parametrize("policy", POLICIES, ids=Invoice.RatePolicy.Name)
    async def test_an_invoice_agrees_with_its_facts_in_every_state(
        self, invoices: InvoiceApi, statements: InvoiceStatementApi, charged: Entity,
        policy: Invoice.RatePolicy.ValueType,
    ) -> None:  # fmt: skip
        document = await invoices.create(charged, *OCTOBER, rate_policy=policy)
        for change in (None, invoices.refresh, invoices.issue, invoices.void):
            document = await change(document) if change else document
            verification = await statements.verify(document)
            assert found(verification) == set()
            assert (verification.line_count, verification.fee_count) == (document.line_count, 1)
            assert (verification.allocation_count, verification.elimination_count) == (8 + 1, 1)
            assert verification.tax_count == len(document.taxes)

    async def test_later_changes_of_master_data_and_rates_make_no_difference(
        self, api: EntitiesApi, profiles: BillingProfileApi, invoices: InvoiceApi, statements: InvoiceStatementApi,
        invoice: Invoice, charged: Entity,
    ) -> None:  # fmt: skip
        await api.update(charged, tax_rate_bp=500, legal_name="Another SE")
        await api.set_rates("2026-10-20 USD/EUR 0.5000", confirm_large_change=True)
        assert found(await statements.verify(invoice)) == set()

    async def test_unknown_invoices_are_not_found(self, statements: InvoiceStatementApi) -> None:
        refused = await refusal(statements.verify(Invoice(id=f"inv_{'0' * 32}")))
        assert (refused.code, refused.reason) == (StatusCode.NOT_FOUND, "INVOICE_NOT_FOUND")


TAMPERED: dict[str, tuple[str, set[tuple[str, int, str, str]]]] = {
    "the amount of a line": (
        "update invoice_lines set amount = amount + 0.01 where number = 1",
        {("LINE", 1, "", "amount")},
    ),
    "the original amount of a line": (
        "update invoice_lines set original_amount = 1 where number = 2",
        {("LINE", 2, "", "original")},
    ),
    "the GL code of a line": (
        "update invoice_lines set gl_code = '9999' where number = 4",
        {("LINE", 4, "", "gl_code")},
    ),
    "the dates and the count of a line": (
        "update invoice_lines set first_date = '2026-09-01', item_count = 7 where number = 4",
        {("LINE", 4, "", "first_date"), ("LINE", 4, "", "item_count")},
    ),
    "the rate of a line": (
        "update invoice_lines set rate = 2 where number = 4",
        {("LINE", 4, "", "rate")},
    ),
    "a deleted line": (
        "delete from invoice_lines where number = 4",
        {("LINE", 0, "US Allocated costs", "")},
    ),
    "the tax of the invoice": (
        "update consolidated_invoices set taxes = jsonb_set(taxes, '{0,tax}', '\"99.00\"') where true",
        {("TAX", 0, "EXEMPT 0 bp", "tax")},
    ),
    "the totals of the invoice": (
        "update consolidated_invoices set net = net + 1, total = total + 1 where true",
        {("TOTAL", 0, "", "net"), ("TOTAL", 0, "", "total")},
    ),
    "the tax in the issuer's currency": (
        "update consolidated_invoices set issuer_tax = issuer_tax + 0.01 where true",
        {("TOTAL", 0, "", "issuer_tax")},
    ),
    "the number of lines": (
        "update consolidated_invoices set line_count = 99 where true",
        {("TOTAL", 0, "", "line_count")},
    ),
    "an eliminated charge": (
        "update invoice_eliminations set supplier_amount = 1, allocation_count = 2 where true",
        {
            ("ELIMINATION", 0, "UK to US, GBP", "supplier_amount"),
            ("ELIMINATION", 0, "UK to US, GBP", "allocation_count"),
        },
    ),
    "a deleted elimination": ("delete from invoice_eliminations where true", {("ELIMINATION", 0, " to US, GBP", "")}),
    "a charge": (
        "update invoice_charges set original_amount = original_amount + 5 where original_currency_code = 'GBP'",
        {("CHARGE", 0, "charge of GBP", "original")},
    ),
    "the amount of a fee": (
        "update invoice_fees set amount = 101 where true",
        {("LINE", 2, "", "original"), ("LINE", 2, "", "amount")},
    ),
    "a missing rate": (
        """update consolidated_invoices set rates = (
            select jsonb_agg(each) from jsonb_array_elements(rates) each where each ->> 'source' <> 'GBP'
        ) where true""",
        {("RATE", 0, "GBP/EUR on 2026-10-31", "")},
    ),
}  # fmt: skip
"""Changes of rows, with differences that they must lead to; others that follow from these are found as well."""


class TestSettlement:
    @pytest.fixture
    async def settled(
        self, issued: IssuedInvoices, credit_notes: CreditNoteApi, disputes: DisputeApi, replica: Replica
    ) -> Invoice:
        """An invoice with payments, credit notes, a refund and a hold."""
        invoice = await issued.invoice("100.00", "50.00", tax_rate_bp=1900)
        for number, amount in enumerate(("60.00", "45.00")):
            await replica.handle(paid(invoice, amount, f"pay-{number}", payment_date=invoice.issue_date))
        note = await credit_notes.create(invoice, {1: "20.00"}, refund="10.00")
        await replica.handle(refund_failed(note.refunds[0].id))
        await credit_notes.retry_refund(note)
        await disputes.hold(invoice, {2: "30.00"})
        await disputes.credit(invoice, {2: "10.00"}, credit="2.00")
        return await issued.invoices.get(invoice)

    async def test_an_invoice_agrees_with_its_payments_credit_notes_refunds_and_holds(
        self, statements: InvoiceStatementApi, settled: Invoice
    ) -> None:
        assert settled.held.amount != "0.00"
        assert found(await statements.verify(settled)) == set()

    @pytest.mark.parametrize(
        ("statement", "expected"),
        [
            ("update consolidated_invoices set paid = paid + 1 where true", ("TOTAL", 0, "", "paid")),
            ("update consolidated_invoices set offset_amount = 0 where true", ("TOTAL", 0, "", "offset")),
            ("update consolidated_invoices set credited_balance = 0 where true", ("TOTAL", 0, "", "credited_balance")),
            ("update consolidated_invoices set refunded = 0 where true", ("TOTAL", 0, "", "refunded")),
            ("update consolidated_invoices set held = 0 where true", ("TOTAL", 0, "", "held")),
            ("update invoice_lines set credited = 0 where number = 1", ("LINE", 1, "", "credited")),
            ("update invoice_lines set held = 0 where number = 2", ("LINE", 2, "", "held")),
            ("delete from invoice_payments where amount = 60", ("TOTAL", 0, "", "paid")),
        ],
    )
    async def test_a_changed_counter_is_found(
        self, statements: InvoiceStatementApi, settled: Invoice, finance: Caller,
        admin: "asyncpg.Pool[asyncpg.Record]", statement: str, expected: tuple[str, int, str, str],
    ) -> None:  # fmt: skip
        await tamper(admin, finance.tenant_id, statement)
        assert found(await statements.verify(settled)) == {expected}


class TestTampered:
    @pytest.mark.parametrize("change", TAMPERED)
    async def test_the_difference_names_line_and_field(
        self, statements: InvoiceStatementApi, invoice: Invoice, finance: Caller,
        admin: "asyncpg.Pool[asyncpg.Record]", change: str,
    ) -> None:  # fmt: skip
        statement, expected = TAMPERED[change]
        await tamper(admin, finance.tenant_id, statement)
        assert found(await statements.verify(invoice)) >= expected

    async def test_values_are_shown(
        self, statements: InvoiceStatementApi, invoice: Invoice, finance: Caller, admin: "asyncpg.Pool[asyncpg.Record]"
    ) -> None:
        await tamper(admin, finance.tenant_id, "update invoice_lines set amount = 67.67 where number = 1")
        (difference,) = (await statements.verify(invoice)).differences
        assert (difference.line_id, difference.expected, difference.actual) == (invoice.lines[0].id, "67.66", "67.67")

    async def test_a_changed_allocation_is_found(
        self, statements: InvoiceStatementApi, invoice: Invoice, finance: Caller, admin: "asyncpg.Pool[asyncpg.Record]"
    ) -> None:
        await tamper(
            admin, finance.tenant_id, "update cost_allocations set amount = 81, entity_amount = 81 where amount = 80"
        )
        assert found(await statements.verify(invoice)) >= {
            ("CHARGE", 1, "", "original"), ("LINE", 1, "", "original"), ("LINE", 1, "", "amount"),
            ("TAX", 0, "STANDARD 1900 bp", "net"), ("TOTAL", 0, "", "total"),
        }  # fmt: skip

    async def test_another_tax_rate_of_a_line_is_found(
        self, statements: InvoiceStatementApi, invoice: Invoice, finance: Caller, admin: "asyncpg.Pool[asyncpg.Record]"
    ) -> None:
        await tamper(admin, finance.tenant_id, "update invoice_lines set tax_rate_bp = 500 where number = 4")
        assert ("LINE", 4, "", "tax_rate_bp") in found(await statements.verify(invoice))


async def tamper(admin: "asyncpg.Pool[asyncpg.Record]", tenant_id: UUID, statement: str) -> None:
    """Change rows of the tenant as somebody with all rights does, without triggers."""
    async with admin.acquire() as connection, connection.transaction():
        await connection.execute("set local session_replication_role = 'replica'")
        await connection.execute("set local search_path = entities")
        status: str = await connection.execute(f"{statement} and tenant_id = $1", tenant_id)
    assert not status.endswith(" 0"), statement
