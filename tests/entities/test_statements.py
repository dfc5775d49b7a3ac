"""Statements of account: invoices, credit notes, payments, refunds, holds and withdrawals by their dates."""

from collections.abc import Callable
from datetime import date, timedelta

from billing.entities.v1.entity_pb2 import Entity
from billing.entities.v1.invoice_pb2 import Invoice
from billing.entities.v1.statement_pb2 import EntityStatement, StatementBalance, StatementDocument
from grpc import StatusCode

from tests.entities.credit_note_api import CreditNoteApi, DisputeApi, IssuedInvoices, paid, refund_completed
from tests.entities.entities_api import EntitiesApi
from tests.entities.invoice_statement_api import InvoiceStatementApi
from tests.harness.callers import Caller, refusal
from tests.harness.events import Replica
from tests.harness.services import Entities


def days_later(day: str, days: int) -> str:
    return (date.fromisoformat(day) + timedelta(days=days)).isoformat()


def only(statement: EntityStatement) -> StatementBalance:
    (balance,) = statement.balances
    return balance


def kinds(statement: EntityStatement) -> list[tuple[str, str, str]]:
    """Kind, amount and balance of the documents."""
    return [
        (StatementDocument.Kind.Name(each.kind), each.amount.amount, each.balance.amount)
        for each in statement.documents
    ]


def ages(balance: StatementBalance) -> list[str]:
    return [
        each.amount
        for each in (
            balance.not_due, balance.overdue_1_to_30_days, balance.overdue_31_to_60_days,
            balance.overdue_61_to_90_days, balance.overdue_over_90_days,
        )
    ]  # fmt: skip


class TestBalance:
    async def test_everything_counts_from_its_date(
        self, issued: IssuedInvoices, statements: InvoiceStatementApi, credit_notes: CreditNoteApi, replica: Replica
    ) -> None:
        invoice = await issued.invoice("100.00", "50.00")
        entity, today = Entity(id=invoice.entity_id), invoice.issue_date
        await replica.handle(paid(invoice, "60.00", "pay-1", payment_date=days_later(today, 3)))
        await replica.handle(paid(invoice, "45.00", "pay-2", payment_date=days_later(today, 1)))
        note = await credit_notes.create(invoice, {1: "30.00"}, offset="20.00", refund="10.00")
        (refund,) = note.refunds
        completed = refund_completed(refund.id, "10.00")
        completed.refund_date = days_later(today, 5)
        await replica.handle(completed)
        expected = {
            -1: ("0.00", "0.00", "0.00", "0.00", "0.00", "0.00", "0.00"),
            0: ("150.00", "30.00", "0.00", "0.00", "130.00", "10.00", "120.00"),
            1: ("150.00", "30.00", "45.00", "0.00", "85.00", "10.00", "75.00"),
            3: ("150.00", "30.00", "105.00", "0.00", "25.00", "10.00", "15.00"),
            5: ("150.00", "30.00", "105.00", "10.00", "25.00", "0.00", "25.00"),
        }
        for days, amounts in expected.items():
            balance = only(await statements.statement(entity, as_of_date=days_later(today, days)))
            assert (
                balance.billed.amount, balance.credited.amount, balance.paid.amount, balance.refunded.amount,
                balance.open.amount, balance.refund_pending.amount, balance.balance.amount,
            ) == amounts, days  # fmt: skip
        statement = await statements.statement(entity, as_of_date=days_later(today, 5))
        assert kinds(statement) == [
            ("INVOICE", "150.00", "150.00"), ("CREDIT_NOTE", "-30.00", "120.00"), ("PAYMENT", "-45.00", "75.00"),
            ("PAYMENT", "-60.00", "15.00"), ("REFUND", "10.00", "25.00"),
        ]  # fmt: skip
        first, credit, payment, *_ = statement.documents
        assert (first.invoice_number, first.due_date, first.open.amount) == (invoice.number, invoice.due_date, "25.00")
        assert (credit.credit_note_id, credit.credit_note_number, payment.payment_id) == (note.id, note.number, "pay-2")
        (month,) = statement.months
        assert (month.month_date, month.billed.amount, month.credited.amount, month.paid.amount, month.open.amount) == (
            "2026-10-01", "150.00", "30.00", "105.00", "25.00",
        )  # fmt: skip

    async def test_the_part_that_is_held_is_not_overdue(
        self, issued: IssuedInvoices, statements: InvoiceStatementApi, disputes: DisputeApi
    ) -> None:
        invoice = await issued.invoice("100.00", "50.00")
        await disputes.hold(invoice, {1: "40.00"})
        entity, due = Entity(id=invoice.entity_id), invoice.due_date
        for days, expected in (
            (0, ["110.00", "0.00", "0.00", "0.00", "0.00"]), (1, ["0.00", "110.00", "0.00", "0.00", "0.00"]),
            (31, ["0.00", "0.00", "110.00", "0.00", "0.00"]), (61, ["0.00", "0.00", "0.00", "110.00", "0.00"]),
            (91, ["0.00", "0.00", "0.00", "0.00", "110.00"]),
        ):  # fmt: skip
            statement = await statements.statement(entity, as_of_date=days_later(due, days))
            balance = only(statement)
            assert (balance.open.amount, balance.held.amount, balance.collectable.amount) == (
                "150.00",
                "40.00",
                "110.00",
            )
            assert ages(balance) == expected
            assert statement.documents[0].days_overdue == days
        await disputes.release(invoice)
        assert only(await statements.statement(entity)).held.amount == "0.00"

    async def test_a_void_invoice_is_not_billed(
        self, issued: IssuedInvoices, statements: InvoiceStatementApi, replica: Replica
    ) -> None:
        invoice = await issued.invoice("100.00")
        entity = Entity(id=invoice.entity_id)
        await issued.invoices.void(invoice)
        statement = await statements.statement(entity)
        assert kinds(statement) == [("INVOICE", "100.00", "100.00"), ("VOID", "-100.00", "0.00")]
        assert only(statement).billed.amount == "0.00"
        await replica.handle(paid(invoice, "100.00", payment_date=invoice.issue_date))
        balance = only(await statements.statement(entity))
        assert (balance.overpaid.amount, balance.balance.amount) == ("100.00", "-100.00")

    async def test_the_statement_of_today_agrees_with_the_invoice(
        self, issued: IssuedInvoices, statements: InvoiceStatementApi, credit_notes: CreditNoteApi, replica: Replica,
        disputes: DisputeApi,
    ) -> None:  # fmt: skip
        invoice = await issued.invoice("70.00", "50.00", tax_rate_bp=1900)
        await replica.handle(paid(invoice, "33.00", payment_date=invoice.issue_date))
        await credit_notes.create(invoice, {2: "10.00"})
        await disputes.hold(invoice, {1: "5.00"})
        balance = only(await statements.statement(Entity(id=invoice.entity_id)))
        current: Invoice = await issued.invoices.get(invoice)
        for field in ("paid", "open", "held", "collectable", "overpaid"):
            assert getattr(balance, field) == getattr(current, field), field

    async def test_everything_is_zero_without_documents(
        self, api: EntitiesApi, statements: InvoiceStatementApi
    ) -> None:
        entity = await api.create_entity("YEN", currency_code="JPY", time_zone="Pacific/Kiritimati")
        statement = await statements.statement(entity)
        assert (statement.entity_id, only(statement).currency_code, only(statement).open.amount) == (
            entity.id, "JPY", "0",
        )  # fmt: skip
        assert not statement.months
        assert not statement.documents
        west = await statements.statement(await api.create_entity("W", time_zone="Pacific/Niue"))
        assert statement.as_of_date > west.as_of_date


class TestPages:
    async def test_documents_are_listed_page_by_page(
        self, issued: IssuedInvoices, statements: InvoiceStatementApi, replica: Replica
    ) -> None:
        invoice = await issued.invoice("100.00")
        entity = Entity(id=invoice.entity_id)
        for number in range(5):
            await replica.handle(paid(invoice, "1.00", f"pay-{number}", payment_date=invoice.issue_date))
        whole = await statements.statement(entity)
        assert len(whole.documents) == 6
        documents, token = list[StatementDocument](), ""
        for _ in range(3):
            page = await statements.statement(entity, page_size=2, page_token=token)
            assert (page.balances, len(page.documents)) == (whole.balances, 2)
            documents += page.documents
            token = page.next_page_token
        assert (documents, token) == (list(whole.documents), "")


async def test_entities_outside_of_the_scope_are_not_found(
    caller: Callable[..., Caller], entities: Entities, api: EntitiesApi
) -> None:
    holding = await api.create_entity("HOLD")
    us = await api.create_entity("US", parent_id=holding.id)
    confined = InvoiceStatementApi(caller("finance", entity_scope=[us.id]), entities)
    assert (await confined.statement(us)).entity_id == us.id
    refused = await refusal(confined.statement(holding))
    assert (refused.code, refused.reason) == (StatusCode.NOT_FOUND, "ENTITY_NOT_FOUND")
