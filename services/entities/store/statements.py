"""SQL for statements of account: the dated events of the invoices of an entity."""

from typing import Any, Final
from uuid import UUID

from kit.db import ReadSession
from services.entities.domain.statements import AccountEvents, BilledInvoice, Credit, Hold, Payment, Refund

# What has a time but no date of its own counts on its day in the time zone of the issuer.
_INVOICES: Final = """
    select invoice.id, invoice.number, invoice.currency_code as currency, invoice.total, invoice.period_start,
        invoice.issue_date, invoice.due_date, (invoice.void_time at time zone profile.time_zone)::date as void_date
    from consolidated_invoices invoice
    join billing_profiles profile on profile.tenant_id = $1 and profile.id = invoice.billing_profile_id
    where invoice.tenant_id = $1 and invoice.entity_id = $2 and (invoice.number <> '' or invoice.paid > 0)
    order by invoice.id"""
_PAYMENTS: Final = """
    select payment.invoice_id, payment.id, payment.payment_id, payment.payment_date as day,
        payment.applied_amount as amount
    from consolidated_invoices invoice
    join invoice_payments payment on payment.tenant_id = $1 and payment.invoice_id = invoice.id
    where invoice.tenant_id = $1 and invoice.entity_id = $2
    order by payment.id"""
_CREDITS: Final = """
    select invoice_id, id, number, issue_date as day, offset_amount as offset, refund_amount as refund,
        credit_amount as credit
    from credit_notes where tenant_id = $1 and entity_id = $2 order by id"""
_REFUNDS: Final = """
    select refund.invoice_id, refund.id, refund.credit_note_id, note.number as credit_note_number,
        coalesce(refund.refund_date, (refund.update_time at time zone profile.time_zone)::date) as day,
        refund.completed_amount as amount
    from credit_notes note
    join billing_profiles profile on profile.tenant_id = $1 and profile.id = note.billing_profile_id
    join credit_note_refunds refund on refund.tenant_id = $1 and refund.credit_note_id = note.id
    where note.tenant_id = $1 and note.entity_id = $2 and refund.state = 'COMPLETED'
    order by refund.id"""
_HOLDS: Final = """
    select hold.invoice_id, (hold.create_time at time zone profile.time_zone)::date as day, hold.invoice_held as held
    from consolidated_invoices invoice
    join billing_profiles profile on profile.tenant_id = $1 and profile.id = invoice.billing_profile_id
    join line_holds hold on hold.tenant_id = $1 and hold.invoice_id = invoice.id
    where invoice.tenant_id = $1 and invoice.entity_id = $2
    order by hold.id"""


async def find_events(tx: ReadSession, entity_id: UUID) -> AccountEvents:
    """Return everything that happened to the invoices of the entity."""

    async def fetch(statement: str) -> list[dict[str, Any]]:
        return [dict(row) for row in await tx.fetch(statement, tx.tenant_id, entity_id)]

    return AccountEvents(
        invoices=[BilledInvoice(**row) for row in await fetch(_INVOICES)],
        payments=[Payment(**row) for row in await fetch(_PAYMENTS)],
        credits=[Credit(**row) for row in await fetch(_CREDITS)],
        refunds=[Refund(**row) for row in await fetch(_REFUNDS)],
        holds=[Hold(**row) for row in await fetch(_HOLDS)],
    )
