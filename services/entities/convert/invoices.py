"""Conversion of invoices, their lines and the items of lines."""

from billing.entities.v1 import invoice_service_pb2 as pb
from billing.entities.v1.billing_profile_pb2 import BankAccount, ElectronicAddress
from billing.entities.v1.entity_pb2 import Address
from billing.entities.v1.invoice_pb2 import (
    Invoice,
    InvoiceElimination,
    InvoiceLine,
    InvoiceLineItem,
    InvoiceParty,
    InvoiceRate,
    InvoiceTax,
)
from billing.entities.v1.invoice_pb2 import InvoiceProblem as InvoiceProblemMessage

from contract.values import (
    date_from_text,
    date_text,
    decimal_text,
    enum_or_none,
    money_to_proto,
    required_date,
    time_to_proto,
)
from kit import ids
from kit.money import Money
from services.entities.domain.billing_documents import AppliedDocumentRate, RatePolicy, TaxSubtotal
from services.entities.domain.invoices import InvoiceFilter, InvoiceProblem, InvoiceState, InvoiceTerms
from services.entities.domain.parties import Party
from services.entities.domain.proration import DateRange
from services.entities.models.allocations import AllocationRow
from services.entities.models.invoices import (
    InvoiceDetails,
    InvoiceEliminationRow,
    InvoiceFeeRow,
    InvoiceLineRow,
    InvoiceRow,
)


def details_to_proto(details: InvoiceDetails, *, dry_run: bool = False) -> Invoice:
    """Convert an invoice with its first lines: without ids and etag for a dry run."""
    row = details.invoice
    message = to_proto(row)
    message.MergeFrom(
        Invoice(
            lines=[line_to_proto(line, row.currency_code, dry_run=dry_run) for line in details.lines],
            rates=map(_rate_to_proto, row.rates),
            eliminations=[_elimination_to_proto(each, row.currency_code) for each in details.eliminations],
            problems=map(_problem_to_proto, row.problems if row.state == InvoiceState.DRAFT else ()),
        )
    )
    if dry_run:
        message.id = message.etag = ""
    return message


def to_proto(row: InvoiceRow) -> Invoice:
    """Convert an invoice without its lines."""
    return Invoice(
        id=ids.INVOICE.format(row.id),
        type=Invoice.Type.Value(row.type),
        number=row.number,
        entity_id=ids.ENTITY.format(row.entity_id),
        billing_profile_id=ids.BILLING_PROFILE.format(row.billing_profile_id),
        state=Invoice.State.Value(row.state),
        period_start_date=row.period_start.isoformat(),
        period_end_date=row.period_end.isoformat(),
        currency_code=row.currency_code,
        rate_policy=Invoice.RatePolicy.Value(row.rate_policy),
        issuer=party_to_proto(row.issuer),
        recipient=party_to_proto(row.recipient),
        purchase_order_numbers=row.purchase_order_numbers,
        contract_numbers=row.contract_numbers,
        net=money_to_proto(row.money(row.net)),
        tax=money_to_proto(row.money(row.tax)),
        total=money_to_proto(row.money(row.total)),
        issuer_tax=(
            None if row.issuer_tax is None else money_to_proto(Money(row.issuer_tax, row.issuer_currency_code))
        ),
        taxes=[tax_to_proto(each, row.currency_code) for each in row.taxes],
        line_count=row.line_count,
        paid=money_to_proto(row.money(row.paid)),
        offset=money_to_proto(row.money(row.offset)),
        refunded=money_to_proto(row.money(row.refunded)),
        open=money_to_proto(row.money(row.open)),
        overpaid=money_to_proto(row.money(row.overpaid)),
        held=money_to_proto(row.money(row.held)),
        collectable=money_to_proto(row.money(max(row.open - row.held, row.open * 0))),
        issue_date=date_text(row.issue_date),
        due_date=date_text(row.due_date),
        issue_time=time_to_proto(row.issue_time) if row.issue_time else None,
        void_time=time_to_proto(row.void_time) if row.void_time else None,
        void_reason=row.void_reason,
        note=row.note,
        require_einvoice=row.require_einvoice,
        etag=row.etag,
        create_time=time_to_proto(row.create_time),
        update_time=time_to_proto(row.update_time),
        credited_balance=money_to_proto(row.money(row.credited_balance)),
        refundable=money_to_proto(row.money(row.refundable)),
        exchange_difference=money_to_proto(row.money(row.exchange_difference)),
        unrecorded_payment_ids=row.unrecorded_payment_ids,
    )


def party_to_proto(party: Party) -> InvoiceParty:
    """Convert the issuer or the recipient of a document."""
    electronic, account = party.electronic_address, party.bank_account
    return InvoiceParty(
        legal_name=party.legal_name,
        vat_id=party.vat_id,
        registration_number=party.registration_number,
        address=Address(**party.address) if party.address else None,
        electronic_address=(ElectronicAddress(scheme=electronic.scheme, id=electronic.id) if electronic else None),
        email=party.email,
        phone=party.phone,
        contact_name=party.contact_name,
        bank_account=BankAccount(holder=account.holder, iban=account.iban, bic=account.bic) if account else None,
    )


def tax_to_proto(tax: TaxSubtotal, currency: str) -> InvoiceTax:
    """Convert net and tax of a tax rate."""
    return InvoiceTax(
        tax_treatment=InvoiceLine.TaxTreatment.Value(tax.treatment),
        tax_rate_bp=tax.tax_rate_bp,
        net=money_to_proto(Money(tax.net, currency)),
        tax=money_to_proto(Money(tax.tax, currency)),
    )


def _rate_to_proto(rate: AppliedDocumentRate) -> InvoiceRate:
    return InvoiceRate(
        from_currency=rate.source,
        to_currency=rate.target,
        rate=decimal_text(rate.rate),
        conversion_date=rate.day.isoformat(),
        effective_date=rate.effective_date.isoformat(),
    )


def _problem_to_proto(problem: InvoiceProblem) -> InvoiceProblemMessage:
    return InvoiceProblemMessage(
        severity=InvoiceProblemMessage.Severity.Value(problem.severity),
        code=problem.code,
        message=problem.message,
        resource_id=problem.resource_id,
    )


def _elimination_to_proto(row: InvoiceEliminationRow, currency: str) -> InvoiceElimination:
    return InvoiceElimination(
        supplier_entity_id=ids.ENTITY.format(row.supplier_entity_id),
        supplier_code=row.supplier_code,
        supplier_name=row.supplier_name,
        buyer_entity_id=ids.ENTITY.format(row.buyer_entity_id),
        buyer_code=row.buyer_code,
        buyer_name=row.buyer_name,
        original=money_to_proto(Money(row.original_amount, row.original_currency_code)),
        supplier_amount=money_to_proto(Money(row.supplier_amount, currency)),
        booked=money_to_proto(Money(row.booked_amount, row.booked_currency_code)),
        buyer_amount=money_to_proto(Money(row.buyer_amount, currency)),
        allocation_count=row.allocation_count,
    )


def line_to_proto(row: InvoiceLineRow, currency: str, *, dry_run: bool = False) -> InvoiceLine:
    """Convert a line of an invoice in `currency`: without id for a dry run."""
    return InvoiceLine(
        id="" if dry_run else ids.INVOICE_LINE.format(row.id),
        number=row.number,
        kind=InvoiceLine.Kind.Value(row.kind),
        entity_id=ids.ENTITY.format_optional(row.entity_id),
        entity_code=row.entity_code,
        entity_name=row.entity_name,
        department_id=ids.DEPARTMENT.format_optional(row.department_id),
        department_name=row.department_name,
        gl_code=row.gl_code,
        contract_id=ids.CONTRACT.format_optional(row.contract_id),
        contract_number=row.contract_number,
        description=row.description,
        original=money_to_proto(row.original) if row.original else None,
        rate=decimal_text(row.rate),
        amount=money_to_proto(Money(row.amount, currency)),
        tax_treatment=InvoiceLine.TaxTreatment.Value(row.tax_treatment),
        tax_rate_bp=row.tax_rate_bp,
        first_date=date_text(row.first_date),
        last_date=date_text(row.last_date),
        item_count=row.item_count,
        credited=money_to_proto(Money(row.credited, currency)),
        held=money_to_proto(Money(row.held, currency)),
    )


def allocation_to_item(row: AllocationRow) -> InvoiceLineItem:
    """Convert an allocation of a line."""
    return InvoiceLineItem(
        allocation_id=ids.ALLOCATION.format(row.id),
        date=row.allocation_date.isoformat(),
        amount=money_to_proto(row.money),
        category=row.category,
        description=row.description,
        source_ref=row.source_ref,
    )


def fee_to_item(row: InvoiceFeeRow) -> InvoiceLineItem:
    """Convert a fee of a line."""
    return InvoiceLineItem(
        contract_id=ids.CONTRACT.format(row.contract_id),
        date=row.due_date.isoformat(),
        amount=money_to_proto(Money(row.amount, row.currency_code)),
    )


def terms_from_proto(request: pb.CreateConsolidatedInvoiceRequest) -> InvoiceTerms:
    """Convert the terms of a draft, with the defaults of fields that are not set. Raises InvalidFields."""
    policy = enum_or_none(RatePolicy, Invoice.RatePolicy, request.rate_policy)
    return InvoiceTerms(
        period=DateRange(
            required_date(request.period_start_date),
            required_date(request.period_end_date),
        ),
        currency=request.currency_code,
        rate_policy=policy or RatePolicy.PERIOD_END,
        billing_profile_id=ids.BILLING_PROFILE.parse_optional(request.billing_profile_id, "billing_profile_id"),
        note=request.note,
        require_einvoice=request.require_einvoice,
    )


def filter_from_proto(request: pb.ListInvoicesRequest) -> InvoiceFilter:
    """Convert the filters of ListInvoices. Raises InvalidFields for an id of another kind."""
    return InvoiceFilter(
        entity_id=ids.ENTITY.parse_optional(request.entity_id, "entity_id"),
        state=enum_or_none(InvoiceState, Invoice.State, request.state),
        start=date_from_text(request.start_date),
        end=date_from_text(request.end_date),
        overdue=request.overdue,
        text=request.q,
    )
