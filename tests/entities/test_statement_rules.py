"""Statements of account from dated events, compared with a simple model that keeps counters."""

from collections.abc import Callable
from dataclasses import astuple, dataclass, field, replace
from datetime import date, timedelta
from decimal import Decimal
from random import Random
from uuid import UUID

import pytest

from services.entities.domain.statements import (
    AccountEvents,
    AgeBucket,
    BilledInvoice,
    Credit,
    Hold,
    Payment,
    Refund,
    Statement,
    age_bucket,
    build,
)

START = date(2026, 1, 1)
DAYS = 120
ZERO = Decimal(0)
ENTITY = UUID(int=1)


@dataclass
class Counters:
    """The current state of an invoice, as a program without dates keeps it."""

    invoice: BilledInvoice
    issued: bool = False
    void: bool = False
    paid: Decimal = ZERO
    offset: Decimal = ZERO
    refund: Decimal = ZERO
    credit: Decimal = ZERO
    refunded: Decimal = ZERO
    held: Decimal = ZERO

    @property
    def due(self) -> Decimal:
        return self.invoice.total if self.issued and not self.void else ZERO

    @property
    def open(self) -> Decimal:
        return max(self.due - self.offset - self.paid, ZERO)


@dataclass
class World:
    """Invoices whose counters change day by day, and the events of it."""

    random: Random
    counters: list[Counters] = field(default_factory=list)
    events: AccountEvents = field(default_factory=lambda: AccountEvents(invoices=[]))
    last_id: int = 100

    def new_id(self) -> UUID:
        self.last_id += 1
        return UUID(int=self.last_id)

    def amount(self, most: Decimal) -> Decimal:
        return Decimal(self.random.randrange(int(most * 100) + 1)) / 100

    def issue(self, day: date) -> None:
        total = Decimal(self.random.choice([0, 1, -5000, *[self.random.randrange(1, 100_000)] * 9])) / 100
        invoice = BilledInvoice(
            id=self.new_id(), number=f"INV-{self.last_id}", currency=self.random.choice(["EUR", "USD"]), total=total,
            period_start=day - timedelta(days=self.random.randrange(24)), issue_date=day,
            due_date=day + timedelta(days=self.random.randrange(40)), void_date=None,
        )  # fmt: skip
        self.counters.append(Counters(invoice, issued=True))

    def void(self, counters: Counters, day: date) -> None:
        if not any((counters.void, counters.paid, counters.offset, counters.refund, counters.credit, counters.held)):
            counters.void, counters.invoice = True, replace(counters.invoice, void_date=day)

    def pay(self, counters: Counters, day: date) -> None:
        amount = self.amount(max(counters.open, Decimal(1)) * 2)
        payment = Payment(
            invoice_id=counters.invoice.id, id=self.new_id(), payment_id=f"p-{self.last_id}", day=day, amount=amount
        )
        self.events = replace(self.events, payments=[*self.events.payments, payment])
        counters.paid += amount

    def credit(self, counters: Counters, day: date) -> None:
        if counters.void:
            return
        offset, credit = self.amount(counters.open), self.random.choice([ZERO, Decimal("1.50")])
        refund = self.amount(max(counters.paid - counters.refund - counters.credit, ZERO))
        note = Credit(
            invoice_id=counters.invoice.id, id=self.new_id(), number=f"CRN-{self.last_id}", day=day, offset=offset,
            refund=refund, credit=credit,
        )  # fmt: skip
        self.events = replace(self.events, credits=[*self.events.credits, note])
        counters.offset += offset
        counters.refund += refund
        counters.credit += credit

    def refund(self, counters: Counters, day: date) -> None:
        amount = self.amount(counters.refund - counters.refunded)
        refund = Refund(
            invoice_id=counters.invoice.id, id=self.new_id(), credit_note_id=self.new_id(), credit_note_number="CRN",
            day=day, amount=amount,
        )  # fmt: skip
        self.events = replace(self.events, refunds=[*self.events.refunds, refund])
        counters.refunded += amount

    def hold(self, counters: Counters, day: date) -> None:
        counters.held = self.amount(counters.open)
        hold = Hold(invoice_id=counters.invoice.id, day=day, held=counters.held)
        self.events = replace(self.events, holds=[*self.events.holds, hold])

    def step(self, day: date) -> None:
        """Let something happen on a day."""
        actions: list[Callable[[Counters, date], None]] = [
            self.void,
            self.pay,
            self.pay,
            self.credit,
            self.refund,
            self.hold,
        ]
        if not self.counters or self.random.random() < 0.3:
            self.issue(day)
        else:
            self.random.choice(actions)(self.random.choice(self.counters), day)

    def all_events(self) -> AccountEvents:
        return replace(self.events, invoices=[each.invoice for each in self.counters])

    def expected(self, day: date) -> dict[str, tuple[Decimal, ...]]:
        """The sums by currency, and the parts of what is collectable by age."""
        sums: dict[str, list[Decimal]] = {}
        for each in self.counters:
            held = min(each.held, each.open)
            values = [
                each.due, each.offset + each.refund + each.credit, each.paid, each.refunded, each.open, held,
                max(each.paid - max(each.due - each.offset, ZERO), ZERO), each.credit + max(-each.due, ZERO),
                each.refund - each.refunded, ZERO, ZERO, ZERO, ZERO, ZERO,
            ]  # fmt: skip
            days = (day - (each.invoice.due_date or day)).days
            values[9 + (0 if days < 1 else 1 if days < 31 else 2 if days < 61 else 3 if days < 91 else 4)] = (
                each.open - held
            )
            before = sums.setdefault(each.invoice.currency, [ZERO] * len(values))
            sums[each.invoice.currency] = [left + right for left, right in zip(before, values, strict=True)]
        return {currency: tuple(values) for currency, values in sums.items()}


def shown(statement: Statement) -> dict[str, tuple[Decimal, ...]]:
    return {
        each.currency: (
            each.billed, each.credited, each.paid, each.refunded, each.open, each.held, each.overpaid,
            each.credit_balance, each.refund_pending, *astuple(each.ages),
        )
        for each in statement.balances
    }  # fmt: skip


@pytest.mark.parametrize("seed", range(24))
def test_the_statement_of_every_day_is_that_of_the_counters_on_that_day(seed: int) -> None:
    world = World(Random(seed))  # noqa: S311 - test data
    on_day = {}
    for number in range(DAYS):
        day = START + timedelta(days=number)
        for _ in range(world.random.choice([0, 0, 1, 1, 3])):
            world.step(day)
        on_day[day] = world.expected(day)
    events = world.all_events()
    for day, expected in on_day.items():
        statement = build(ENTITY, events, day, "EUR")
        assert shown(statement) == (expected or shown(build(ENTITY, AccountEvents(invoices=[]), day, "EUR")))
        check_sums(statement)


def check_sums(statement: Statement) -> None:
    """Check what holds in every statement."""
    for each in statement.balances:
        assert sum(astuple(each.ages)) == each.collectable == each.open - each.held
        assert each.balance == each.open - each.overpaid - each.credit_balance - each.refund_pending
        assert min(each.open, each.held, each.collectable, each.overpaid) >= 0
        of_currency = [document for document in statement.documents if document.invoice.currency == each.currency]
        assert sum(document.amount for document in of_currency) == each.balance
        if of_currency:
            assert of_currency[-1].balance == each.balance
        assert sum(document.open or ZERO for document in of_currency) == each.open
        months = [month for month in statement.months if month.currency == each.currency]
        assert (sum(month.billed for month in months), sum(month.open for month in months)) == (each.billed, each.open)
    positions = [document.position for document in statement.documents]
    assert positions == sorted(set(positions))


@pytest.mark.parametrize("seed", range(8))
def test_later_events_do_not_change_the_statement_of_a_day(seed: int) -> None:
    world = World(Random(seed))  # noqa: S311 - test data
    statements = {}
    for number in range(DAYS):
        day = START + timedelta(days=number)
        world.step(day)
        statements[day] = build(ENTITY, world.all_events(), day, "EUR")
    for day, statement in statements.items():
        later = build(ENTITY, world.all_events(), day, "EUR")
        assert (later.balances, later.months) == (statement.balances, statement.months)
        assert [(each.position, each.amount, each.open) for each in later.documents] == [
            (each.position, each.amount, each.open) for each in statement.documents
        ]


@pytest.mark.parametrize(
    ("days", "bucket"),
    [
        (-5, AgeBucket.NOT_DUE), (0, AgeBucket.NOT_DUE), (1, AgeBucket.TO_30_DAYS), (30, AgeBucket.TO_30_DAYS),
        (31, AgeBucket.TO_60_DAYS), (60, AgeBucket.TO_60_DAYS), (61, AgeBucket.TO_90_DAYS),
        (90, AgeBucket.TO_90_DAYS), (91, AgeBucket.OVER_90_DAYS),
    ],
)  # fmt: skip
def test_ages_are_counted_from_the_day_after_the_due_date(days: int, bucket: AgeBucket) -> None:
    assert age_bucket(START, START + timedelta(days=days)) is bucket


def test_everything_is_zero_without_documents() -> None:
    statement = build(ENTITY, AccountEvents(invoices=[]), START, "JPY")
    (balance,) = statement.balances
    assert balance.currency == "JPY"
    assert not any((balance.balance, balance.open, *astuple(balance.ages)))
    assert (statement.months, statement.documents) == ([], [])
