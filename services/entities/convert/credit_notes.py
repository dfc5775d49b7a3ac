"""Conversion of credit notes, their lines and refunds."""

from collections.abc import Iterable, Mapping
from uuid import UUID

from billing.entities.v1 import credit_note_service_pb2 as pb
from billing.entities.v1.credit_note_pb2 import CreditNote, CreditNoteLine, Refund
from billing.entities.v1.invoice_pb2 import InvoiceLine

from contract.values import (
    date_from_text,
    date_text,
    money_from_proto,
    money_or_none,
    money_to_proto,
    time_to_proto,
)
from kit import ids
from kit.errors import InvalidFields, Violation
from kit.money import Money
from services.entities import convert
from services.entities.domain.credit_notes import CreditNoteFilter, CreditNoteRequest
from services.entities.models.credit_notes import CreditedLine, CreditNoteDetails, CreditNoteRow, RefundRow


def details_to_proto(details: CreditNoteDetails, *, dry_run: bool = False) -> CreditNote:
    """Convert a credit note with its first lines and its refunds: without id and times for a dry run."""
    row = details.note
    message = to_proto(row)
    message.lines.extend(line_to_proto(line, row.currency_code) for line in details.lines)
    message.refunds.extend(map(_refund_to_proto, details.refunds))
    if dry_run:
        message.id = ""
        message.ClearField("create_time")
    return message


def to_proto(row: CreditNoteRow) -> CreditNote:
    """Convert a credit note without its lines and refunds."""
    return CreditNote(
        id=ids.CREDIT_NOTE.format(row.id),
        number=row.number,
        invoice_id=ids.INVOICE.format(row.invoice_id),
        invoice_number=row.invoice_number,
        entity_id=ids.ENTITY.format(row.entity_id),
        billing_profile_id=ids.BILLING_PROFILE.format(row.billing_profile_id),
        dispute_id=ids.DISPUTE.format_optional(row.dispute_id),
        currency_code=row.currency_code,
        issue_date=row.issue_date.isoformat(),
        reason=row.reason,
        issuer=convert.invoices.party_to_proto(row.issuer),
        recipient=convert.invoices.party_to_proto(row.recipient),
        net=money_to_proto(row.money(row.net)),
        tax=money_to_proto(row.money(row.tax)),
        total=money_to_proto(row.money(row.total)),
        issuer_tax=(
            None if row.issuer_tax is None else money_to_proto(Money(row.issuer_tax, row.issuer_currency_code))
        ),
        taxes=[convert.invoices.tax_to_proto(each, row.currency_code) for each in row.taxes],
        offset=money_to_proto(row.money(row.offset)),
        refund=money_to_proto(row.money(row.refund)),
        credit=money_to_proto(row.money(row.credit)),
        line_count=row.line_count,
        actor=row.actor,
        create_time=time_to_proto(row.create_time),
    )


def line_to_proto(credited: CreditedLine, currency: str) -> CreditNoteLine:
    """Convert a credited line of an invoice in `currency`."""
    line = credited.line
    return CreditNoteLine(
        line_id=ids.INVOICE_LINE.format(line.id),
        line_number=line.number,
        entity_id=ids.ENTITY.format_optional(line.entity_id),
        entity_code=line.entity_code,
        entity_name=line.entity_name,
        department_name=line.department_name,
        gl_code=line.gl_code,
        description=line.description,
        amount=money_to_proto(Money(credited.amount, currency)),
        tax_treatment=InvoiceLine.TaxTreatment.Value(line.tax_treatment),
        tax_rate_bp=line.tax_rate_bp,
    )


def _refund_to_proto(row: RefundRow) -> Refund:
    completed = None if row.completed_amount is None else Money(row.completed_amount, row.currency_code)
    return Refund(
        id=ids.REFUND.format(row.id),
        amount=money_to_proto(row.money),
        state=Refund.State.Value(row.state),
        completed_amount=money_to_proto(completed) if completed else None,
        difference=money_to_proto(completed - row.money) if completed else None,
        refund_date=date_text(row.refund_date),
        reference=row.reference,
        problem=row.problem,
        create_time=time_to_proto(row.create_time),
        update_time=time_to_proto(row.update_time),
    )


def amounts_from_proto(lines: Iterable[pb.CreditNoteLineAmount]) -> Mapping[UUID, Money]:
    """Convert net amounts of lines. Raises InvalidFields if a line is listed twice."""
    amounts: dict[UUID, Money] = {}
    repeated = []
    for number, line in enumerate(lines):
        line_id = ids.INVOICE_LINE.parse(line.line_id, f"lines[{number}].line_id")
        if line_id in amounts:
            repeated.append(Violation(f"lines[{number}].line_id", "is listed twice", "line.once"))
        amounts[line_id] = money_from_proto(line.amount)
    if repeated:
        raise InvalidFields(repeated)
    return amounts


def request_from_proto(request: pb.CreateCreditNoteRequest) -> CreditNoteRequest:
    """Convert CreateCreditNoteRequest. Raises InvalidFields unless either `lines` or `full` is set."""
    if request.full == bool(request.lines):
        text = "must list the amounts to credit, or be empty with `full`"
        raise InvalidFields([Violation("lines", text, "lines.or_full")])
    return CreditNoteRequest(
        invoice_id=ids.INVOICE.parse(request.id),
        amounts=amounts_from_proto(request.lines),
        reason=request.reason,
        offset=money_or_none(request, "offset"),
        refund=money_or_none(request, "refund"),
        credit=money_or_none(request, "credit"),
    )


def dispute_request_from_proto(request: pb.CreateDisputeCreditNoteRequest) -> CreditNoteRequest:
    """Convert CreateDisputeCreditNoteRequest. Raises InvalidFields."""
    return CreditNoteRequest(
        invoice_id=ids.INVOICE.parse(request.invoice_id, "invoice_id"),
        amounts=amounts_from_proto(request.lines),
        reason=request.reason,
        offset=money_or_none(request, "offset"),
        refund=money_or_none(request, "refund"),
        credit=money_or_none(request, "credit"),
        dispute_id=ids.DISPUTE.parse(request.dispute_id, "dispute_id"),
    )


def filter_from_proto(request: pb.ListCreditNotesRequest) -> CreditNoteFilter:
    """Convert the filters of ListCreditNotes. Raises InvalidFields for an id of another kind."""
    return CreditNoteFilter(
        invoice_id=ids.INVOICE.parse_optional(request.invoice_id, "invoice_id"),
        entity_id=ids.ENTITY.parse_optional(request.entity_id, "entity_id"),
        start=date_from_text(request.start_date),
        end=date_from_text(request.end_date),
        text=request.q,
    )
