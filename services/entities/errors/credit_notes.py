"""Errors of credit notes and of holds on invoice lines."""

from decimal import Decimal
from uuid import UUID

from kit import ids
from kit.errors import FailedPrecondition
from kit.money import Money
from kit.resources import ResourceNotFound, StateForbids


class CreditNoteNotFound(ResourceNotFound):
    reason = "CREDIT_NOTE_NOT_FOUND"
    kind = ids.CREDIT_NOTE


class CreditExceedsLine(FailedPrecondition):
    reason = "CREDIT_EXCEEDS_LINE"

    def __init__(self, line_id: UUID, number: int, *, requested: Money, remaining: Decimal, held: Decimal) -> None:
        text = ids.INVOICE_LINE.format(line_id)
        limit = Money(remaining, requested.currency)
        blocked = f"; {Money(held, requested.currency)} of it is held by disputes" if held else ""
        super().__init__(
            f"At most {limit} of line {number} ({text}) can be credited, not {requested}{blocked}.",
            line_id=text,
            line_number=number,
            requested=requested.text(),
            remaining=limit.text(),
            held=Money(held, requested.currency).text(),
            currency_code=requested.currency,
        )


class CreditExceedsInvoice(FailedPrecondition):
    reason = "CREDIT_EXCEEDS_INVOICE"

    def __init__(self, *, requested: Money, remaining: Decimal) -> None:
        limit = Money(remaining, requested.currency)
        super().__init__(
            f"The credit note has a total of {requested}, but only {limit} of the invoice can still be credited."
            " Credit the lines below zero with it.",
            requested=requested.text(),
            remaining=limit.text(),
            currency_code=requested.currency,
        )


class CreditBelowZero(FailedPrecondition):
    reason = "CREDIT_BELOW_ZERO"

    def __init__(self, total: Money) -> None:
        super().__init__(
            f"The credit note has a total of {total}, but it can't be below zero. Credit lines above zero with it.",
            total=total.text(),
            currency_code=total.currency,
        )


class InvoiceFullyCredited(FailedPrecondition):
    reason = "INVOICE_FULLY_CREDITED"

    def __init__(self, invoice_id: UUID) -> None:
        text = ids.INVOICE.format(invoice_id)
        super().__init__(f"Nothing of the invoice {text} is left to credit.", invoice_id=text)


class OffsetExceedsOpen(FailedPrecondition):
    reason = "OFFSET_EXCEEDS_OPEN"

    def __init__(self, *, requested: Money, remaining: Decimal) -> None:
        limit = Money(remaining, requested.currency)
        super().__init__(
            f"At most {limit} can be set off against the invoice, which is what is open, not {requested}.",
            requested=requested.text(),
            remaining=limit.text(),
            currency_code=requested.currency,
        )


class RefundExceedsPaid(FailedPrecondition):
    reason = "REFUND_EXCEEDS_PAID"

    def __init__(self, *, requested: Money, remaining: Decimal) -> None:
        limit = Money(remaining, requested.currency)
        super().__init__(
            f"At most {limit} can be refunded, not {requested}: what was paid, less earlier refunds and credits.",
            requested=requested.text(),
            remaining=limit.text(),
            currency_code=requested.currency,
        )


class CreditNoteWithoutRefund(FailedPrecondition):
    reason = "CREDIT_NOTE_WITHOUT_REFUND"

    def __init__(self, credit_note_id: UUID) -> None:
        text = ids.CREDIT_NOTE.format(credit_note_id)
        super().__init__(f"No part of the credit note {text} is to be refunded.", credit_note_id=text)


class RefundStateForbids(StateForbids):
    reason = "REFUND_STATE"
    kind = ids.REFUND


class HoldExceedsLine(FailedPrecondition):
    reason = "HOLD_EXCEEDS_LINE"

    def __init__(self, line_id: UUID, number: int, *, requested: Money, remaining: Decimal) -> None:
        text = ids.INVOICE_LINE.format(line_id)
        limit = Money(remaining, requested.currency)
        super().__init__(
            f"At most {limit} of line {number} ({text}) can be held, not {requested}: the rest is credited or held.",
            line_id=text,
            line_number=number,
            requested=requested.text(),
            remaining=limit.text(),
            currency_code=requested.currency,
        )


class ReleaseExceedsHold(FailedPrecondition):
    reason = "RELEASE_EXCEEDS_HOLD"

    def __init__(self, line_id: UUID, *, requested: Money, held: Decimal) -> None:
        text = ids.INVOICE_LINE.format(line_id)
        limit = Money(held, requested.currency)
        super().__init__(
            f"The dispute holds {limit} of the line {text}, so {requested} can't be released.",
            line_id=text,
            requested=requested.text(),
            held=limit.text(),
            currency_code=requested.currency,
        )
