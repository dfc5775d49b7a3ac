"""Use case of verifying an invoice: read it with its facts, and compare."""

from datetime import date, timedelta
from uuid import UUID

from kit.db import ReadSession
from kit.money import Money
from services.entities import domain, store
from services.entities.domain.billing_documents import LineKind, RatePolicy
from services.entities.domain.consolidation import (
    BilledEntity,
    Charge,
    EliminationDraft,
    FeeDue,
    LineDraft,
    Rates,
    TaxKey,
)
from services.entities.domain.rates import Conversion, Derivation, DerivedRate
from services.entities.domain.verifications import (
    Facts,
    InvoiceVerification,
    Settlement,
    StoredInvoice,
    StoredLine,
    Totals,
)
from services.entities.models.invoices import (
    InvoiceChargeRow,
    InvoiceEliminationRow,
    InvoiceFeeRow,
    InvoiceLineRow,
    InvoiceRow,
)


async def verify(tx: ReadSession, invoice_id: UUID) -> InvoiceVerification:
    """Compute an invoice again from its allocations, fees and rates, and compare. Raises InvoiceNotFound."""
    invoice = await store.invoices.get(tx, invoice_id)
    rates = _rates(invoice)
    by_day = invoice.rate_policy is RatePolicy.TRANSACTION_DATE
    # Without a rate nothing was converted, so the day does not matter.
    day = max((conversion.day for conversion in rates), default=invoice.period_end - timedelta(days=1))
    line_rows = await store.invoices.list_first_lines(tx, invoice.id, domain.invoices.LINES_MAX)
    fees = await store.verifications.list_fees(tx, invoice)
    charges = [
        *await store.verifications.sum_allocations(tx, invoice, day, by_day=by_day),
        *(_fee_charge(fee, entity_id, None if by_day else day) for fee, entity_id in fees),
    ]
    stored = StoredInvoice(
        currency=invoice.currency_code,
        issuer_currency=invoice.issuer_currency_code,
        entity_ids=invoice.entity_ids,
        lines=[_line(row) for row in line_rows],
        charges=[_charge(row, day) for row in await store.verifications.list_charges(tx, invoice)],
        eliminations=[_elimination(row) for row in await store.invoices.list_eliminations(tx, invoice.id)],
        taxes=invoice.taxes,
        totals=Totals(
            net=invoice.net,
            tax=invoice.tax,
            total=invoice.total,
            issuer_tax=invoice.issuer_tax,
            line_count=invoice.line_count,
        ),
        settlement=Settlement(
            paid=invoice.paid,
            exchange_difference=invoice.exchange_difference,
            offset=invoice.offset,
            credited_balance=invoice.credited_balance,
            refunded=invoice.refunded,
            held=invoice.held,
        ),
        rates=rates,
    )
    facts = Facts(
        charges=charges,
        settlement=await store.verifications.sum_settlement(tx, invoice),
        credited=await store.verifications.sum_credited(tx, invoice),
        held=await store.verifications.sum_held(tx, invoice),
    )
    return domain.verifications.verify(invoice.id, stored, facts)


def _rates(invoice: InvoiceRow) -> Rates:
    return {
        Conversion(each.source, each.target, each.day): DerivedRate(Derivation.DIRECT, each.rate, each.effective_date)
        for each in invoice.rates
    }


def _line(row: InvoiceLineRow) -> StoredLine:
    entity = None
    if row.entity_id:
        entity = BilledEntity(
            id=row.entity_id, code=row.entity_code, name=row.entity_name, country_code="", tax_rate_bp=row.tax_rate_bp
        )
    content = LineDraft(
        kind=row.kind,
        description=row.description,
        amount=row.amount,
        tax=TaxKey(row.tax_treatment, row.tax_rate_bp),
        entity=entity,
        department_id=row.department_id,
        department_name=row.department_name,
        gl_code=row.gl_code,
        contract_id=row.contract_id,
        contract_number=row.contract_number,
        original=row.original,
        rate=row.rate,
        first_date=row.first_date,
        last_date=row.last_date,
        charge_ids=row.charge_ids,
        item_count=row.item_count,
    )
    return StoredLine(id=row.id, number=row.number, content=content, credited=row.credited, held=row.held)


def _charge(row: InvoiceChargeRow, day: date) -> Charge:
    return Charge(
        id=row.id,
        kind=LineKind.ALLOCATIONS,
        entity_id=row.entity_id,
        department_id=row.department_id,
        gl_code=row.gl_code,
        contract_id=None,
        supplier_id=row.supplier_id,
        original=Money(row.original_amount, row.original_currency_code),
        booked=Money(row.booked_amount, row.booked_currency_code),
        day=row.day or day,
        first_date=row.first_date,
        last_date=row.last_date,
        item_count=len(row.allocation_ids),
    )


def _fee_charge(row: InvoiceFeeRow, entity_id: UUID, day: date | None) -> Charge:
    fee = FeeDue(row.due_date, Money(row.amount, row.currency_code))
    return domain.consolidation.fee_charge(entity_id, row.contract_id, fee, day or fee.due_date)


def _elimination(row: InvoiceEliminationRow) -> EliminationDraft:
    return EliminationDraft(
        supplier=_party(row.supplier_entity_id, row.supplier_code, row.supplier_name),
        buyer=_party(row.buyer_entity_id, row.buyer_code, row.buyer_name),
        original=Money(row.original_amount, row.original_currency_code),
        supplier_amount=row.supplier_amount,
        booked=Money(row.booked_amount, row.booked_currency_code),
        buyer_amount=row.buyer_amount,
        charge_ids=row.charge_ids,
        allocation_count=row.allocation_count,
    )


def _party(entity_id: UUID, code: str, name: str) -> BilledEntity:
    return BilledEntity(id=entity_id, code=code, name=name, country_code="", tax_rate_bp=0)
