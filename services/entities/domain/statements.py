"""Statements of account: what was billed, credited, paid and is open, as of the end of a day.

Only dated events count, never the current totals of an invoice, so later events do not change the statement of an
earlier day.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from decimal import Decimal
from enum import StrEnum
from typing import Final, NamedTuple
from uuid import UUID

from services.entities import domain

ZERO: Final = Decimal(0)


class DocumentKind(StrEnum):
    """StatementDocument.Kind."""

    INVOICE = "INVOICE"
    CREDIT_NOTE = "CREDIT_NOTE"
    PAYMENT = "PAYMENT"
    REFUND = "REFUND"
    VOID = "VOID"


_ORDER: Final = list(DocumentKind)
"""Order of the documents of a day."""


class AgeBucket(StrEnum):
    """Ages of what is collectable; the value is the field of Ages."""

    NOT_DUE = "not_due"
    TO_30_DAYS = "to_30_days"
    TO_60_DAYS = "to_60_days"
    TO_90_DAYS = "to_90_days"
    OVER_90_DAYS = "over_90_days"


@dataclass(slots=True)
class Ages:
    """What is collectable, by the days since the due date."""

    not_due: Decimal = ZERO
    to_30_days: Decimal = ZERO
    to_60_days: Decimal = ZERO
    to_90_days: Decimal = ZERO
    over_90_days: Decimal = ZERO

    def add(self, bucket: AgeBucket, amount: Decimal) -> None:
        """Add what is collectable of an invoice."""
        setattr(self, bucket, getattr(self, bucket) + amount)


@dataclass(frozen=True, slots=True, kw_only=True)
class BilledInvoice:
    """An invoice; a draft has payments at most."""

    id: UUID
    number: str
    currency: str
    total: Decimal
    period_start: date
    issue_date: date | None
    due_date: date | None
    void_date: date | None

    def is_billed(self, day: date) -> bool:
        """True if the invoice was issued and not void at the end of the day."""
        return self.issue_date is not None and self.issue_date <= day and not self.is_void(day)

    def is_void(self, day: date) -> bool:
        """True if the invoice was withdrawn by the end of the day."""
        return self.void_date is not None and self.void_date <= day


@dataclass(frozen=True, slots=True, kw_only=True)
class Payment:
    """A payment of an invoice, in its currency."""

    invoice_id: UUID
    id: UUID
    payment_id: str
    day: date
    amount: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Credit:
    """A credit note of an invoice."""

    invoice_id: UUID
    id: UUID
    number: str
    day: date
    offset: Decimal
    refund: Decimal
    credit: Decimal

    @property
    def total(self) -> Decimal:
        """The sum of its parts."""
        return self.offset + self.refund + self.credit


@dataclass(frozen=True, slots=True, kw_only=True)
class Refund:
    """What was paid back of a credit note."""

    invoice_id: UUID
    id: UUID
    credit_note_id: UUID
    credit_note_number: str
    day: date
    amount: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """A change of what disputes hold of an invoice, in the order in which they were made."""

    invoice_id: UUID
    day: date
    held: Decimal
    """What is held of the invoice after it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountEvents:
    """Everything that happened to the invoices of an entity."""

    invoices: Sequence[BilledInvoice]
    payments: Sequence[Payment] = ()
    credits: Sequence[Credit] = ()
    refunds: Sequence[Refund] = ()
    holds: Sequence[Hold] = ()


@dataclass(slots=True)
class Balance:
    """The account in one currency."""

    currency: str
    billed: Decimal = ZERO
    credited: Decimal = ZERO
    paid: Decimal = ZERO
    refunded: Decimal = ZERO
    open: Decimal = ZERO
    held: Decimal = ZERO
    overpaid: Decimal = ZERO
    credit_balance: Decimal = ZERO
    refund_pending: Decimal = ZERO
    ages: Ages = field(default_factory=Ages)

    @property
    def balance(self) -> Decimal:
        """What the entity owes; below zero if it is in its favour."""
        return self.billed - self.credited - self.paid + self.refunded

    @property
    def collectable(self) -> Decimal:
        """What is open and not held."""
        return self.open - self.held


@dataclass(slots=True)
class MonthSums:
    """The invoices whose period begins in a month, in one currency."""

    month: date
    currency: str
    billed: Decimal = ZERO
    credited: Decimal = ZERO
    paid: Decimal = ZERO
    open: Decimal = ZERO


class DocumentPosition(NamedTuple):
    """The place of a document in the statement, which is in this order."""

    day: date
    order: int
    id: UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class StatementDocument:
    """A document that changed the account."""

    kind: DocumentKind
    id: UUID
    day: date
    invoice: BilledInvoice
    amount: Decimal
    balance: Decimal = ZERO
    credit_note_id: UUID | None = None
    credit_note_number: str = ""
    payment_id: str = ""
    open: Decimal | None = None
    """Of INVOICE."""
    held: Decimal | None = None
    """Of INVOICE."""
    days_overdue: int = 0

    @property
    def position(self) -> DocumentPosition:
        """The place of the document in the statement."""
        return DocumentPosition(self.day, _ORDER.index(self.kind), self.id)


@dataclass(frozen=True, slots=True, kw_only=True)
class StatementQuery:
    """Which statement, and which page of its documents."""

    entity_id: UUID
    as_of: date | None
    """None: today in the time zone of the entity."""
    after: DocumentPosition | None
    limit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """A statement of account with all documents, or a page of them."""

    entity_id: UUID
    as_of: date
    balances: Sequence[Balance]
    months: Sequence[MonthSums]
    documents: Sequence[StatementDocument]


@dataclass(slots=True)
class _Account:
    """One invoice at the end of the day."""

    invoice: BilledInvoice
    due: Decimal
    """Its total if it was issued and not void."""
    paid: Decimal = ZERO
    offset: Decimal = ZERO
    refund_parts: Decimal = ZERO
    credit_parts: Decimal = ZERO
    refunded: Decimal = ZERO
    held_before: Decimal = ZERO

    @property
    def open(self) -> Decimal:
        return domain.invoices.open_amount(self.due, self.offset, self.paid)

    @property
    def held(self) -> Decimal:
        return min(self.held_before, self.open)

    @property
    def credited(self) -> Decimal:
        return self.offset + self.refund_parts + self.credit_parts


def build(entity_id: UUID, events: AccountEvents, as_of: date, currency: str) -> Statement:
    """Return the statement as of the end of a day; zeros in `currency` if there are no documents."""
    accounts = _accounts(events, as_of)
    documents = _with_balances(_documents(events, accounts, as_of))
    known = {document.invoice.id for document in documents}
    accounts = [account for account in accounts if account.invoice.id in known]
    currencies = sorted({account.invoice.currency for account in accounts}) or [currency]
    balances = {each: Balance(each) for each in currencies}
    months = dict[tuple[date, str], MonthSums]()
    for account in accounts:
        _add(balances[account.invoice.currency], account, as_of)
        key = account.invoice.period_start.replace(day=1), account.invoice.currency
        month = months.setdefault(key, MonthSums(*key))
        month.billed += account.due
        month.credited += account.credited
        month.paid += account.paid
        month.open += account.open
    return Statement(
        entity_id=entity_id,
        as_of=as_of,
        balances=list(balances.values()),
        months=[months[key] for key in sorted(months)],
        documents=documents,
    )


def _accounts(events: AccountEvents, as_of: date) -> Sequence[_Account]:
    accounts = {
        invoice.id: _Account(invoice, invoice.total if invoice.is_billed(as_of) else ZERO)
        for invoice in events.invoices
    }
    for payment in events.payments:
        if payment.day <= as_of:
            accounts[payment.invoice_id].paid += payment.amount
    for note in events.credits:
        if note.day <= as_of:
            account = accounts[note.invoice_id]
            account.offset += note.offset
            account.refund_parts += note.refund
            account.credit_parts += note.credit
    for refund in events.refunds:
        if refund.day <= as_of:
            accounts[refund.invoice_id].refunded += refund.amount
    for hold in events.holds:
        if hold.day <= as_of:
            accounts[hold.invoice_id].held_before = hold.held
    return list(accounts.values())


def _add(balance: Balance, account: _Account, as_of: date) -> None:
    balance.billed += account.due
    balance.credited += account.credited
    balance.paid += account.paid
    balance.refunded += account.refunded
    balance.open += account.open
    balance.held += account.held
    balance.overpaid += domain.invoices.overpaid_amount(account.due, account.offset, account.paid)
    balance.credit_balance += account.credit_parts + max(-account.due, ZERO)
    balance.refund_pending += account.refund_parts - account.refunded
    balance.ages.add(age_bucket(account.invoice.due_date, as_of), account.open - account.held)


def age_bucket(due_date: date | None, day: date) -> AgeBucket:
    """Return the age at the end of the day of what was due on `due_date`; the due date itself is not overdue."""
    days = (day - due_date).days if due_date else 0
    if days <= 0:
        return AgeBucket.NOT_DUE
    limits = ((30, AgeBucket.TO_30_DAYS), (60, AgeBucket.TO_60_DAYS), (90, AgeBucket.TO_90_DAYS))
    return next((bucket for limit, bucket in limits if days <= limit), AgeBucket.OVER_90_DAYS)


def _documents(events: AccountEvents, accounts: Iterable[_Account], as_of: date) -> list[StatementDocument]:
    by_invoice = {account.invoice.id: account for account in accounts}
    documents = [
        *_invoice_documents(by_invoice.values(), as_of),
        *(
            StatementDocument(
                kind=DocumentKind.PAYMENT, id=each.id, day=each.day, invoice=by_invoice[each.invoice_id].invoice,
                amount=-each.amount, payment_id=each.payment_id,
            )
            for each in events.payments
        ),
        *(
            StatementDocument(
                kind=DocumentKind.CREDIT_NOTE, id=each.id, day=each.day, invoice=by_invoice[each.invoice_id].invoice,
                amount=-each.total, credit_note_id=each.id, credit_note_number=each.number,
            )
            for each in events.credits
        ),
        *(
            StatementDocument(
                kind=DocumentKind.REFUND, id=each.id, day=each.day, invoice=by_invoice[each.invoice_id].invoice,
                amount=each.amount, credit_note_id=each.credit_note_id, credit_note_number=each.credit_note_number,
            )
            for each in events.refunds
        ),
    ]  # fmt: skip
    return sorted((each for each in documents if each.day <= as_of), key=lambda each: each.position)


def _invoice_documents(accounts: Iterable[_Account], as_of: date) -> Iterator[StatementDocument]:
    for account in accounts:
        invoice = account.invoice
        if invoice.issue_date is None:
            continue
        late = invoice.due_date and account.open > account.held
        yield StatementDocument(
            kind=DocumentKind.INVOICE,
            id=invoice.id,
            day=invoice.issue_date,
            invoice=invoice,
            amount=invoice.total,
            open=account.open,
            held=account.held,
            days_overdue=max((as_of - invoice.due_date).days, 0) if late and invoice.due_date else 0,
        )
        if invoice.void_date is not None:
            day = max(invoice.void_date, invoice.issue_date)
            yield StatementDocument(
                kind=DocumentKind.VOID, id=invoice.id, day=day, invoice=invoice, amount=-invoice.total
            )


def _with_balances(documents: Iterable[StatementDocument]) -> list[StatementDocument]:
    balances, result = defaultdict[str, Decimal](Decimal), []
    for document in documents:
        currency = document.invoice.currency
        balances[currency] += document.amount
        result.append(replace(document, balance=balances[currency]))
    return result
