"""Conversion of statements of account."""

from datetime import date
from decimal import Decimal
from uuid import UUID

from billing.entities.v1 import invoice_statement_service_pb2 as pb
from billing.entities.v1.statement_pb2 import EntityStatement, StatementBalance, StatementMonth
from billing.entities.v1.statement_pb2 import StatementDocument as StatementDocumentMessage
from billing.type.v1.money_pb2 import Money as MoneyMessage

from contract.values import date_from_text, date_text, money_to_proto
from kit import ids
from kit.money import Money
from services.entities.domain.statements import (
    Balance,
    DocumentKind,
    DocumentPosition,
    MonthSums,
    Statement,
    StatementDocument,
    StatementQuery,
)


def query_from_proto(request: pb.GetEntityStatementRequest, position: bytes, limit: int) -> StatementQuery:
    """Parse GetEntityStatementRequest. `position` is that of the last document of the previous page; may be empty."""
    after = None
    if position:
        day, order, id = position.decode().split("/")
        after = DocumentPosition(date.fromisoformat(day), int(order), UUID(id))
    return StatementQuery(
        entity_id=ids.ENTITY.parse(request.id), as_of=date_from_text(request.as_of_date), after=after, limit=limit
    )


def position_of(document: StatementDocument) -> bytes:
    """Return the position of a document in the statement, for a page token."""
    return "/".join(map(str, document.position)).encode()


def to_proto(statement: Statement, next_page_token: str) -> EntityStatement:
    """Convert a statement with the documents of one page."""
    return EntityStatement(
        entity_id=ids.ENTITY.format(statement.entity_id),
        as_of_date=statement.as_of.isoformat(),
        balances=map(_balance_to_proto, statement.balances),
        months=map(_month_to_proto, statement.months),
        documents=map(_document_to_proto, statement.documents),
        next_page_token=next_page_token,
    )


def _balance_to_proto(balance: Balance) -> StatementBalance:
    def money(amount: Decimal) -> MoneyMessage:
        return money_to_proto(Money(amount, balance.currency))

    return StatementBalance(
        currency_code=balance.currency,
        billed=money(balance.billed),
        credited=money(balance.credited),
        paid=money(balance.paid),
        refunded=money(balance.refunded),
        balance=money(balance.balance),
        open=money(balance.open),
        held=money(balance.held),
        collectable=money(balance.collectable),
        overpaid=money(balance.overpaid),
        credit_balance=money(balance.credit_balance),
        refund_pending=money(balance.refund_pending),
        not_due=money(balance.ages.not_due),
        overdue_1_to_30_days=money(balance.ages.to_30_days),
        overdue_31_to_60_days=money(balance.ages.to_60_days),
        overdue_61_to_90_days=money(balance.ages.to_90_days),
        overdue_over_90_days=money(balance.ages.over_90_days),
    )


def _month_to_proto(month: MonthSums) -> StatementMonth:
    def money(amount: Decimal) -> MoneyMessage:
        return money_to_proto(Money(amount, month.currency))

    return StatementMonth(
        month_date=month.month.isoformat(),
        currency_code=month.currency,
        billed=money(month.billed),
        credited=money(month.credited),
        paid=money(month.paid),
        open=money(month.open),
    )


def _document_to_proto(document: StatementDocument) -> StatementDocumentMessage:
    invoice = document.invoice

    def money(amount: Decimal | None) -> MoneyMessage | None:
        return None if amount is None else money_to_proto(Money(amount, invoice.currency))

    return StatementDocumentMessage(
        kind=StatementDocumentMessage.Kind.Value(document.kind),
        date=document.day.isoformat(),
        invoice_id=ids.INVOICE.format(invoice.id),
        invoice_number=invoice.number,
        credit_note_id=ids.CREDIT_NOTE.format_optional(document.credit_note_id),
        credit_note_number=document.credit_note_number,
        payment_id=document.payment_id,
        amount=money(document.amount),
        balance=money(document.balance),
        due_date=date_text(invoice.due_date) if document.kind is DocumentKind.INVOICE else "",
        open=money(document.open),
        held=money(document.held),
        days_overdue=document.days_overdue,
    )
