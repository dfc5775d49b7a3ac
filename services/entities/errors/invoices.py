"""Errors of invoices."""

from datetime import date
from uuid import UUID

from kit import ids
from kit.errors import AlreadyExists, FailedPrecondition
from kit.money import DIGITS_MAX
from kit.resources import ResourceNotFound, StateForbids


class InvoiceNotFound(ResourceNotFound):
    reason = "INVOICE_NOT_FOUND"
    kind = ids.INVOICE


class InvoiceLineNotFound(ResourceNotFound):
    reason = "INVOICE_LINE_NOT_FOUND"
    kind = ids.INVOICE_LINE


class InvoiceStateForbids(StateForbids):
    reason = "INVOICE_STATE"
    kind = ids.INVOICE


class InvoicePeriodTaken(AlreadyExists):
    reason = "INVOICE_PERIOD_TAKEN"

    def __init__(self, entity_id: UUID, invoice_id: UUID, state: str, start: date, end: date) -> None:
        entity, invoice = ids.ENTITY.format(entity_id), ids.INVOICE.format(invoice_id)
        super().__init__(
            f"The entity {entity} already has the invoice {invoice} ({state}) from {start} until before {end}; void it"
            " first, or choose a period that does not overlap.",
            entity_id=entity,
            invoice_id=invoice,
            period_start_date=start,
            period_end_date=end,
        )


class InvoiceEmpty(FailedPrecondition):
    reason = "INVOICE_EMPTY"

    def __init__(self, entity_id: UUID, start: date, end: date) -> None:
        text = ids.ENTITY.format(entity_id)
        super().__init__(
            f"Nothing is to be billed to the entity {text} and those below it from {start} until before {end}: no"
            " contract fee falls due, and no allocated cost is unbilled.",
            entity_id=text,
            period_start_date=start,
            period_end_date=end,
        )


class InvoiceTooLarge(FailedPrecondition):
    reason = "INVOICE_TOO_LARGE"

    def __init__(self, lines: int, lines_max: int) -> None:
        super().__init__(
            f"The invoice would have {lines} lines or eliminated charges, and {lines_max} are allowed; choose a shorter"
            " period, or set `consolidation` of some entities to SEPARATE.",
            lines=lines,
            lines_max=lines_max,
        )


class InvoiceAmountTooLarge(FailedPrecondition):
    reason = "INVOICE_AMOUNT_TOO_LARGE"

    def __init__(self) -> None:
        super().__init__(
            f"An amount of the invoice would have more than {DIGITS_MAX} digits before the decimal point; choose a"
            " shorter period, set `consolidation` of some entities to SEPARATE, or check the exchange rates.",
            digits_max=DIGITS_MAX,
        )


class InvoiceSettled(FailedPrecondition):
    reason = "INVOICE_SETTLED"

    def __init__(self, invoice_id: UUID) -> None:
        text = ids.INVOICE.format(invoice_id)
        super().__init__(
            f"The invoice {text} can't be voided, because it was paid, credited or disputed in part; create a credit"
            " note instead.",
            invoice_id=text,
        )


class EinvoiceIncomplete(FailedPrecondition):
    reason = "EINVOICE_INCOMPLETE"

    def __init__(self, kind: ids.Kind, id: UUID, problems: list[str]) -> None:
        text = kind.format(id)
        super().__init__(
            f"The {kind.name} {text} is not valid as an e-invoice: {' '.join(problems)}", problems=problems
        )
        self.metadata[kind.field] = text
