"""Conversion of the holds of disputes on lines of invoices."""

from billing.entities.v1 import line_hold_service_pb2 as pb
from billing.entities.v1.credit_note_service_pb2 import CreditNoteLineAmount

from contract.values import money_to_proto
from kit import ids
from services.entities import convert
from services.entities.domain.line_holds import HoldRequest
from services.entities.models.line_holds import DisputeHolds


def to_proto(holds: DisputeHolds) -> pb.LineHolds:
    """Convert what a dispute holds of an invoice."""
    invoice = holds.invoice
    return pb.LineHolds(
        invoice_id=ids.INVOICE.format(invoice.id),
        dispute_id=ids.DISPUTE.format(holds.dispute_id),
        lines=[
            CreditNoteLineAmount(line_id=ids.INVOICE_LINE.format(line_id), amount=money_to_proto(invoice.money(amount)))
            for line_id, amount in sorted(holds.lines.items())
        ],
        held=money_to_proto(invoice.money(invoice.held)),
        open=money_to_proto(invoice.money(invoice.open)),
        refundable=money_to_proto(invoice.money(invoice.refundable)),
    )


def request_from_proto(request: pb.HoldLinesRequest | pb.ReleaseLinesRequest) -> HoldRequest:
    """Convert HoldLinesRequest or ReleaseLinesRequest. Raises InvalidFields."""
    return HoldRequest(
        invoice_id=ids.INVOICE.parse(request.invoice_id, "invoice_id"),
        dispute_id=ids.DISPUTE.parse(request.dispute_id, "dispute_id"),
        amounts=convert.credit_notes.amounts_from_proto(request.lines),
    )
