"""Credit notes: net amounts of invoice lines that are credited, their tax, and what happens with the total.

The tax of a group (treatment and rate) is that of everything credited so far minus that of what was credited before.
So the credit notes of an invoice add up to it exactly, in whatever parts and order its lines are credited.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from enum import StrEnum
from typing import Final
from uuid import UUID

from kit import resources
from kit.money import Money
from services.entities import domain
from services.entities.domain.billing_documents import TaxSubtotal
from services.entities.domain.consolidation import TaxKey
from services.entities.domain.field_violations import FieldViolation
from services.entities.errors.credit_notes import (
    CreditBelowZero,
    CreditExceedsInvoice,
    CreditExceedsLine,
    HoldExceedsLine,
    OffsetExceedsOpen,
    RefundExceedsPaid,
    RefundStateForbids,
)

ZERO: Final = Decimal(0)


class RefundState(StrEnum):
    """Refund.State."""

    REQUESTED = "REQUESTED"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"


class RefundAction(StrEnum):
    """Actions on a refund; the value is the past participle used in error messages."""

    COMPLETE = "completed"
    FAIL = "failed"
    RETRY = "requested again"


REFUND_TRANSITIONS: Final[Mapping[tuple[RefundState, RefundAction], RefundState]] = {
    (RefundState.REQUESTED, RefundAction.COMPLETE): RefundState.COMPLETED,
    (RefundState.COMPLETED, RefundAction.COMPLETE): RefundState.COMPLETED,
    # What was paid back counts, whatever was reported before or is reported later.
    (RefundState.FAILED, RefundAction.COMPLETE): RefundState.COMPLETED,
    (RefundState.COMPLETED, RefundAction.FAIL): RefundState.COMPLETED,
    (RefundState.REQUESTED, RefundAction.FAIL): RefundState.FAILED,
    (RefundState.FAILED, RefundAction.FAIL): RefundState.FAILED,
    # A refund that is requested again is another one; the failed one remains.
    (RefundState.FAILED, RefundAction.RETRY): RefundState.FAILED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditableLine:
    """A line of an issued invoice. All amounts have the sign of `net`."""

    id: UUID
    number: int
    net: Decimal
    """Below zero for costs that were credited to the recipient."""
    tax_key: TaxKey
    credited: Decimal = ZERO
    """Net amount of the credit notes so far."""
    held: Decimal = ZERO
    """Net amount that disputes hold; only they can credit it."""

    @property
    def remaining(self) -> Decimal:
        """The part that is neither credited nor held."""
        return self.net - self.credited - self.held


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditableGroup:
    """A tax subtotal of an issued invoice, and what was credited of it."""

    subtotal: TaxSubtotal
    credited: Decimal = ZERO
    """Net amount of the credit notes so far."""
    held: Decimal = ZERO
    """Net amount that disputes hold."""

    @property
    def key(self) -> TaxKey:
        """Treatment and rate."""
        return TaxKey(self.subtotal.treatment, self.subtotal.tax_rate_bp)

    def tax_of(self, net: Decimal, currency: str) -> Decimal:
        """Return the tax of this part of the net amount; exactly the tax of the invoice if it is all of it."""
        if net == self.subtotal.net:
            return self.subtotal.tax
        return domain.consolidation.tax_amount(net, self.key, currency)


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditableInvoice:
    """The amounts of an issued invoice, and what was credited of them."""

    currency: str
    lines: Sequence[CreditableLine]
    """Those to be credited, or all."""
    groups: Sequence[CreditableGroup]

    @property
    def total(self) -> Decimal:
        """Net and tax."""
        return sum((group.subtotal.net + group.subtotal.tax for group in self.groups), ZERO)

    @property
    def tax_credited(self) -> Decimal:
        """The tax of what was credited so far."""
        return sum((group.tax_of(group.credited, self.currency) for group in self.groups), ZERO)

    @property
    def total_credited(self) -> Decimal:
        """Net and tax of what was credited so far."""
        return sum((group.credited for group in self.groups), self.tax_credited)


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditNoteAmounts:
    """The amounts of a credit note."""

    lines: Sequence[tuple[CreditableLine, Decimal]]
    """The credited lines with the net amount that is credited of each, in the order of the invoice."""
    taxes: Sequence[TaxSubtotal]
    net: Decimal
    tax: Decimal

    @property
    def total(self) -> Decimal:
        """Net and tax; never below zero."""
        return self.net + self.tax


def advance_refund(refund_id: UUID, state: RefundState, action: RefundAction) -> RefundState:
    """Return the state after `action`. Raises RefundStateForbids naming the states in which it is allowed."""
    return resources.advance(REFUND_TRANSITIONS, refund_id, state, action, RefundStateForbids)


def issuer_tax(invoice_issuer_tax: Money, invoice_tax: Decimal, *, credited: Decimal, tax: Decimal) -> Money:
    """Return the tax of a credit note in the issuer's currency, by running totals as well.

    `credited` is the tax credited before, and `tax` that of the credit note.
    """
    if not invoice_tax:
        return Money.zero(invoice_issuer_tax.currency)
    after = invoice_issuer_tax.pro_rata(credited + tax, of=invoice_tax)
    return after - invoice_issuer_tax.pro_rata(credited, of=invoice_tax)


def request_violations(
    lines: Sequence[CreditableLine], amounts: Mapping[UUID, Decimal], *, field: str = "lines"
) -> Iterator[FieldViolation]:
    """Yield the violations of net amounts by line that are to be credited or held; `field` is their list."""
    by_id = {line.id: line for line in lines}
    for number, (line_id, amount) in enumerate(amounts.items()):
        line = by_id.get(line_id)
        if line is None:
            yield FieldViolation(f"{field}[{number}].line_id", "must be a line of the invoice", "line.of_invoice")
        elif not amount or (amount < 0) != (line.net < 0):
            text = f"must be {'below' if line.net < 0 else 'above'} zero, like the line"
            yield FieldViolation(f"{field}[{number}].amount", text, "amount.sign")


def credit_lines(
    invoice: CreditableInvoice, amounts: Mapping[UUID, Decimal], holds: Mapping[UUID, Decimal] | None = None
) -> CreditNoteAmounts:
    """Return the amounts of a credit note over these net amounts of lines, which have no violations.

    A dispute passes the amounts that it holds; it can credit up to these, and nobody else can credit them. Raises
    CreditExceedsLine, CreditExceedsInvoice, CreditBelowZero.
    """
    lines = [(line, amounts[line.id]) for line in invoice.lines if line.id in amounts]
    for line, amount in lines:
        _check_line(line, amount, invoice.currency, holds)
    nets: dict[TaxKey, Decimal] = {}
    for line, amount in lines:
        nets[line.tax_key] = nets.get(line.tax_key, ZERO) + amount
    taxes = _tax_subtotals(invoice, nets)
    net, tax = sum((each.net for each in taxes), ZERO), sum((each.tax for each in taxes), ZERO)
    _check_total(invoice, net + tax)
    return CreditNoteAmounts(lines=lines, taxes=taxes, net=net, tax=tax)


def gross_held(invoice: CreditableInvoice) -> Decimal:
    """Return the total that a credit note of everything held would have; never below zero."""
    held = {group.key: group.held for group in invoice.groups if group.held}
    return max(ZERO, sum((each.net + each.tax for each in _tax_subtotals(invoice, held)), ZERO))


def all_that_is_left(invoice: CreditableInvoice) -> Mapping[UUID, Decimal]:
    """Return what is not credited yet of each line, including what disputes hold."""
    return {line.id: line.net - line.credited for line in invoice.lines if line.net != line.credited}


def check_hold(line: CreditableLine, amount: Decimal, currency: str) -> None:
    """Raise HoldExceedsLine if a dispute can't hold this much of a line in addition to what is held."""
    if abs(amount) > abs(line.remaining):
        requested = Money(amount, currency)
        raise HoldExceedsLine(line.id, line.number, requested=requested, remaining=line.remaining)


def _check_line(line: CreditableLine, amount: Decimal, currency: str, holds: Mapping[UUID, Decimal] | None) -> None:
    limit = line.remaining if holds is None else holds.get(line.id, ZERO)
    if abs(amount) > abs(limit):
        held = line.held if holds is None else ZERO
        requested = Money(amount, currency)
        raise CreditExceedsLine(line.id, line.number, requested=requested, remaining=limit, held=held)


def _tax_subtotals(invoice: CreditableInvoice, nets: Mapping[TaxKey, Decimal]) -> Sequence[TaxSubtotal]:
    """Return net and tax of further credits by tax group: the tax with them minus the tax without them."""
    subtotals = []
    for group in invoice.groups:
        if group.key in nets:
            net, before = nets[group.key], group.tax_of(group.credited, invoice.currency)
            tax = group.tax_of(group.credited + net, invoice.currency) - before
            subtotals.append(
                TaxSubtotal(treatment=group.key.treatment, tax_rate_bp=group.key.rate_bp, net=net, tax=tax)
            )
    return subtotals


def _check_total(invoice: CreditableInvoice, total: Decimal) -> None:
    """Check that the credit notes stay between zero and the invoice; lines below zero could break either bound."""
    if total < 0:
        raise CreditBelowZero(Money(total, invoice.currency))
    remaining = invoice.total - invoice.total_credited
    if total > remaining:
        raise CreditExceedsInvoice(requested=Money(total, invoice.currency), remaining=remaining)


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitRequest:
    """The requested use of the total of a credit note; None where the default applies."""

    offset: Decimal | None = None
    refund: Decimal | None = None
    credit: Decimal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditSplit:
    """The use of the total of a credit note; the parts sum to it."""

    offset: Decimal
    """Reduces what is open of the invoice."""
    refund: Decimal
    """Paid back."""
    credit: Decimal
    """Kept as a balance of the recipient for later invoices."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditNoteRequest:
    """Input for a credit note."""

    invoice_id: UUID
    amounts: Mapping[UUID, Money]
    """Net amounts by line; empty to credit everything that is left."""
    reason: str
    offset: Money | None
    refund: Money | None
    credit: Money | None
    dispute_id: UUID | None = None
    """The dispute that holds the amounts; None for a credit note without a dispute."""

    @property
    def split(self) -> SplitRequest:
        """The requested use of the total."""
        return SplitRequest(
            offset=self.offset.amount if self.offset else None,
            refund=self.refund.amount if self.refund else None,
            credit=self.credit.amount if self.credit else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditNoteFilter:
    """Filters of a list of credit notes; None or empty text does not filter."""

    invoice_id: UUID | None = None
    entity_id: UUID | None = None
    start: date | None = None
    end: date | None = None
    text: str = ""
    """Searched in number, reason and recipient, ignoring case."""


def currency_violations(request: CreditNoteRequest, currency: str) -> Iterator[FieldViolation]:
    """Yield the amounts of a request that are not in the currency of the invoice."""
    yield from domain.line_holds.currency_violations(request.amounts, currency)
    for field, part in (("offset", request.offset), ("refund", request.refund), ("credit", request.credit)):
        if part is not None and part.currency != currency:
            text = f"must be {currency}, the currency of the invoice"
            yield FieldViolation(f"{field}.currency_code", text, "currency.of_invoice")


def split_total(total: Decimal, request: SplitRequest, *, open_amount: Decimal) -> CreditSplit:
    """Return the use of the total of a credit note; it may have violations.

    By default nothing is refunded, as much as is open is set off against the invoice, and the rest is credited.
    """
    refund = request.refund or ZERO
    rest = total - refund
    if request.offset is not None:
        credit = rest - request.offset if request.credit is None else request.credit
        return CreditSplit(offset=request.offset, refund=refund, credit=credit)
    if request.credit is not None:
        return CreditSplit(offset=rest - request.credit, refund=refund, credit=request.credit)
    offset = min(open_amount, max(rest, ZERO))
    return CreditSplit(offset=offset, refund=refund, credit=rest - offset)


def split_violations(total: Money, split: CreditSplit) -> Iterator[FieldViolation]:
    """Yield the violation if the parts do not sum to the total of the credit note, or if one is below zero."""
    parts = split.offset, split.refund, split.credit
    if min(parts) < 0 or sum(parts) != total.amount:
        text = f"offset, refund and credit must sum to {total}, the total of the credit note"
        yield FieldViolation("split", text, "split.sum")


def check_split(split: CreditSplit, currency: str, *, open_amount: Decimal, refundable: Decimal) -> None:
    """Check the parts against what is open of the invoice, and what was paid less earlier refunds and credits.

    Raises OffsetExceedsOpen, RefundExceedsPaid.
    """
    if split.offset > open_amount:
        raise OffsetExceedsOpen(requested=Money(split.offset, currency), remaining=open_amount)
    if split.refund > refundable:
        raise RefundExceedsPaid(requested=Money(split.refund, currency), remaining=refundable)
