"""Use cases of the holds of disputes on lines of invoices."""

from collections.abc import Mapping
from decimal import Decimal
from uuid import UUID

from kit import ids
from kit.db import WriteSession
from services.entities import domain, service, store
from services.entities.domain.invoices import InvoiceAction
from services.entities.domain.line_holds import HoldKind, HoldRequest
from services.entities.errors.credit_notes import ReleaseExceedsHold
from services.entities.models.invoices import InvoiceRow
from services.entities.models.line_holds import DisputeHolds, LineHoldRow


async def hold(tx: WriteSession, request: HoldRequest) -> DisputeHolds:
    """Hold net amounts of lines of an issued invoice, in addition to what the dispute holds.

    Raises InvoiceNotFound, InvoiceStateForbids, InvalidFields, HoldExceedsLine.
    """
    invoice = await store.invoices.lock(tx, request.invoice_id)
    domain.invoices.advance(invoice.id, invoice.state, InvoiceAction.HOLD)
    amounts = _amounts(request, invoice)
    rows = await store.credit_notes.find_invoice_lines(tx, invoice.id, set(amounts))
    lines = [row.creditable for row in rows]
    service.field_violations.raise_any(domain.credit_notes.request_violations(lines, amounts))
    for line in lines:
        domain.credit_notes.check_hold(line, amounts[line.id], invoice.currency_code)
    await _change(tx, invoice, request.dispute_id, HoldKind.HELD, amounts)
    return await _holds(tx, invoice, request.dispute_id)


async def release(tx: WriteSession, request: HoldRequest) -> DisputeHolds:
    """Release net amounts that a dispute holds of lines of an invoice; without amounts, all of them.

    Raises InvoiceNotFound, InvalidFields, ReleaseExceedsHold.
    """
    invoice = await store.invoices.lock(tx, request.invoice_id)
    held = await store.line_holds.sum_of_dispute(tx, invoice.id, request.dispute_id)
    amounts = _amounts(request, invoice) or held
    for line_id, amount in amounts.items():
        of_line = held.get(line_id, Decimal(0))
        if abs(amount) > abs(of_line) or amount * of_line < 0:
            raise ReleaseExceedsHold(line_id, requested=invoice.money(amount), held=of_line)
    released = {line_id: -amount for line_id, amount in amounts.items() if amount}
    if released:
        await _change(tx, invoice, request.dispute_id, HoldKind.RELEASED, released)
    return await _holds(tx, invoice, request.dispute_id)


def _amounts(request: HoldRequest, invoice: InvoiceRow) -> Mapping[UUID, Decimal]:
    """Return the requested amounts by line. Raises InvalidFields."""
    violations = domain.line_holds.currency_violations(request.amounts, invoice.currency_code)
    service.field_violations.raise_any(violations)
    return {line_id: amount.amount for line_id, amount in request.amounts.items()}


async def _change(
    tx: WriteSession, invoice: InvoiceRow, dispute_id: UUID, kind: HoldKind, amounts: Mapping[UUID, Decimal]
) -> None:
    changes = {line_id: (Decimal(0), amount) for line_id, amount in amounts.items()}
    await store.credit_notes.update_invoice_lines(tx, changes)
    await store_changes(tx, invoice, dispute_id, kind, amounts)
    await store.invoices.save(tx, invoice)


async def store_changes(
    tx: WriteSession, invoice: InvoiceRow, dispute_id: UUID, kind: HoldKind, amounts: Mapping[UUID, Decimal]
) -> None:
    """Store changes of what a dispute holds, after those of the lines, and set what is held of the invoice."""
    creditable = await service.creditable_invoices.read(tx, invoice, [])
    invoice.held = domain.credit_notes.gross_held(creditable)
    rows = [
        LineHoldRow(
            id=ids.new(),
            invoice_id=invoice.id,
            line_id=line_id,
            dispute_id=dispute_id,
            kind=kind,
            amount=amount,
            invoice_held=invoice.held,
        )
        for line_id, amount in amounts.items()
    ]
    await store.line_holds.insert(tx, rows)


async def _holds(tx: WriteSession, invoice: InvoiceRow, dispute_id: UUID) -> DisputeHolds:
    lines = await store.line_holds.sum_of_dispute(tx, invoice.id, dispute_id)
    return DisputeHolds(invoice, dispute_id, lines)
