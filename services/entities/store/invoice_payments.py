"""SQL for the payments of invoices."""

from uuid import UUID

from sqlalchemy import select

from kit.db import ReadSession, WriteSession
from services.entities.models.invoice_payments import InvoicePaymentRow
from serving.pages import Page, Slice


async def lock(tx: WriteSession, payment_id: str) -> None:
    """Prevent other transactions from recording this payment until this one ends."""
    await tx.lock(f"payment {payment_id}")


async def find(tx: ReadSession, payment_id: str) -> InvoicePaymentRow | None:
    """Return the payment with this id of the billing system; None if it was not recorded."""
    return await tx.one_or_none(select(InvoicePaymentRow).where(InvoicePaymentRow.payment_id == payment_id))


async def insert(tx: WriteSession, payment: InvoicePaymentRow) -> None:
    """Insert the payment."""
    tx.add(payment)
    await tx.flush()


async def list_page(tx: ReadSession, page: Page, invoice_id: UUID) -> Slice[InvoicePaymentRow]:
    """Return one page of the payments of an invoice, in the order in which they were recorded."""
    query = select(InvoicePaymentRow).where(InvoicePaymentRow.invoice_id == invoice_id)
    return await page.fetch(tx, query, InvoicePaymentRow.id)
