"""The example of docs/consolidation.md: the services compute exactly the numbers that the page derives by hand."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import asyncpg
import pytest
from billing.entities.v1.contract_pb2 import Contract
from billing.entities.v1.entity_pb2 import Entity
from billing.entities.v1.invoice_pb2 import Invoice, InvoiceLine, InvoiceLineItem

from kit import clock, ids
from tests.entities.allocation_api import AllocationApi, money_text
from tests.entities.billing_profile_api import BillingProfileApi
from tests.entities.contract_api import ContractApi, money, phase
from tests.entities.credit_note_api import CreditNoteApi
from tests.entities.entities_api import EntitiesApi
from tests.entities.invoice_api import InvoiceApi
from tests.entities.invoice_statement_api import InvoiceStatementApi

PAGE: Final = Path(__file__).parents[2] / "docs" / "consolidation.md"
SECOND_QUARTER: Final = ("2026-04-01", "2026-07-01")
TREATMENTS: Final = {"reverse charge": "REVERSE_CHARGE", "exempt": "EXEMPT", "19 %": "STANDARD"}
CONTRACTS: Final = ("Cloud platform", "Support")


def table(heading: str) -> list[list[str]]:
    """The rows of the first table below a heading of the page, without its head."""
    section = PAGE.read_text().partition(f"{heading}\n")[2]
    lines = iter(section.splitlines())
    rows = list[list[str]]()
    for line in lines:
        if line.startswith("|"):
            rows.append([cell.strip() for cell in line.strip("|").split("|")])
        elif rows:
            break
    assert len(rows) > 2, f"no table below {heading}"
    return rows[2:]


def plain(amount: str) -> str:
    return amount.replace(",", "").replace("−", "-")


@pytest.fixture
def on_day(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Sets the day on which calls are made."""

    def set_day(day: str) -> None:
        moment = datetime.fromisoformat(f"{day}T12:00:00").replace(tzinfo=UTC)
        monkeypatch.setattr(clock, "now", lambda: moment)

    return set_day


@pytest.fixture
async def nord(
    api: EntitiesApi, profiles: BillingProfileApi, costs: AllocationApi, contracts: ContractApi,
    admin: "asyncpg.Pool[asyncpg.Record]", on_day: Callable[[str], None],
) -> Entity:  # fmt: skip
    """The group of the example with its contracts and costs."""
    on_day("2026-07-02")
    await profiles.create("Nord Services")
    nord = await api.create_entity("NORD", tax_rate_bp=1900, payment_terms_days=30)
    uk = await api.create_entity("UK", parent_id=nord.id, currency_code="GBP", country_code="GB", tax_rate_bp=2000)
    us = await api.create_entity("US", parent_id=nord.id, currency_code="USD", country_code="US")
    await create_contracts(contracts, admin, nord, us)
    await api.set_rates("2026-05-12 GBP/USD 1.2850")
    await api.set_rates("2026-06-30 USD/EUR 0.9123", "2026-06-30 GBP/EUR 1.1717", confirm_large_change=True)
    it = await api.create_department(nord, "IT")
    cost = await costs.allocate(it, "1000.00 EUR", allocation_date="2026-04-20", gl_code="6200")
    await costs.credit(cost, "150.00 EUR")
    await costs.allocate(
        await api.create_department(uk, "IT"), "250.00 GBP", allocation_date="2026-06-03", gl_code="6200"
    )
    for code in ("ENG", "HR", "OPS"):
        department = await api.create_department(us, code)
        await costs.allocate(department, "10.01 USD", allocation_date="2026-05-20", gl_code="6200")
        if code == "ENG":
            await costs.allocate(
                department, "100.00 GBP", allocation_date="2026-05-12", counterparty_entity_id=uk.id, gl_code="6200"
            )
    return nord


async def create_contracts(
    contracts: ContractApi, admin: "asyncpg.Pool[asyncpg.Record]", nord: Entity, us: Entity
) -> None:
    await contracts.create_active(
        nord, name="Cloud platform", contract_type=Contract.SUBSCRIPTION, billing_frequency=Contract.MONTHLY,
        start_date="2026-04-08", end_date="", total_value=money("53183.87"),
        phases=[phase("2026-04-08", "3950.00"), phase("2026-05-23", "4500.00")],
    )  # fmt: skip
    support = await contracts.create_active(
        us, name="Support", contract_type=Contract.SUBSCRIPTION, billing_frequency=Contract.MONTHLY,
        start_date="2026-04-01", end_date="", total_value=money("14400.00", "USD"),
        phases=[phase("2026-04-01", "1200.00", "USD")],
    )  # fmt: skip
    # A contract whose end has passed can't be activated any more.
    await admin.execute(
        "update entities.billing_contracts set end_date = '2026-05-16' where id = $1", ids.CONTRACT.parse(support.id)
    )


async def test_the_example_is_computed_to_the_cent(
    invoices: InvoiceApi, statements: InvoiceStatementApi, credit_notes: CreditNoteApi, nord: Entity
) -> None:
    draft = await invoices.create(nord, *SECOND_QUARTER, currency_code="EUR", rate_policy=Invoice.PERIOD_END)
    lines = await invoices.lines(draft)
    assert [fees_of(await invoices.items(draft, line)) for line in lines if line.contract_id] == [
        [(day, plain(fee)) for contract, day, _, fee in table("### Fees") if contract == name] for name in CONTRACTS
    ]
    assert [shown(line) for line in lines] == [row_of_line(row) for row in table("### Lines")]
    assert [
        [each.supplier_code, each.buyer_code, money_text(each.original), each.supplier_amount.amount,
         money_text(each.booked), each.buyer_amount.amount]
        for each in draft.eliminations
    ] == [[plain(cell) for cell in row] for row in table("### Eliminated charges")]  # fmt: skip
    assert [[each.net.amount, each.tax.amount] for each in draft.taxes] == [
        [plain(net), plain(tax)] for _, net, tax in table("### Tax")
    ]
    assert {"net": draft.net.amount, "tax": draft.tax.amount, "total": draft.total.amount} == {
        name: plain(amount) for name, amount in table("### Total")
    }
    await check_settlement(invoices, statements, credit_notes, draft)


async def check_settlement(
    invoices: InvoiceApi, statements: InvoiceStatementApi, credit_notes: CreditNoteApi, draft: Invoice
) -> None:
    """Issue the invoice, credit its first line, and compare the statement; then nothing is left unbilled."""
    entity = Entity(id=draft.entity_id)
    issued = await invoices.get(await invoices.issue(draft))
    assert (await statements.verify(issued)).verified
    note = await credit_notes.create(issued, {1: "850.00"})
    (balance,) = (await statements.statement(entity)).balances
    assert {
        "credit note, net": note.net.amount,
        "credit note, tax": note.tax.amount,
        "credit note, total": note.total.amount,
        "billed": balance.billed.amount,
        "credited": balance.credited.amount,
        "open": balance.open.amount,
        "not due": balance.not_due.amount,
    } == {name: plain(amount) for name, amount in table("### Credit note and statement")}
    unbilled = await statements.unbilled(entity, include_descendants=True, as_of_date="2026-06-30")
    assert unbilled == []


def fees_of(items: Sequence[InvoiceLineItem]) -> list[tuple[str, str]]:
    return [(item.date, item.amount.amount) for item in items]


def shown(line: InvoiceLine) -> list[str]:
    original = money_text(line.original) if line.HasField("original") else ""
    treatment = InvoiceLine.TaxTreatment.Name(line.tax_treatment)
    what = "fee" if line.contract_id else line.department_name
    return [str(line.number), line.entity_code, what, original, line.rate, line.amount.amount, treatment]


def row_of_line(row: Sequence[str]) -> list[str]:
    number, entity, what, original, rate, amount, treatment = row
    what = "fee" if what in CONTRACTS else what if entity else ""
    return [number, entity, what, plain(original), rate, plain(amount), TREATMENTS[treatment]]
