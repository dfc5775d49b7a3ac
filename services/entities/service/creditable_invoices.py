"""What of an issued invoice can be credited or held."""

from collections.abc import Collection
from decimal import Decimal

from kit.db import ReadSession
from services.entities import store
from services.entities.domain.consolidation import TaxKey
from services.entities.domain.credit_notes import CreditableGroup, CreditableInvoice
from services.entities.models.invoices import InvoiceLineRow, InvoiceRow


async def read(tx: ReadSession, invoice: InvoiceRow, lines: Collection[InvoiceLineRow]) -> CreditableInvoice:
    """Return the amounts of the invoice with what is credited and held of it, and of these lines."""
    sums = await store.credit_notes.sum_by_tax(tx, invoice.id)
    groups = []
    for each in invoice.taxes:
        credited, held = sums.get(TaxKey(each.treatment, each.tax_rate_bp), (Decimal(0), Decimal(0)))
        groups.append(CreditableGroup(subtotal=each, credited=credited, held=held))
    return CreditableInvoice(currency=invoice.currency_code, lines=[line.creditable for line in lines], groups=groups)
