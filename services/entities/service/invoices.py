"""Use cases of consolidated invoices: drafts, issue and withdrawal."""

from collections.abc import Iterator, Sequence
from datetime import timedelta
from decimal import Decimal
from uuid import UUID

from eventing import outbox
from kit import clock, dates, ids
from kit.db import ReadSession, WriteSession
from services.entities import domain, events, service, store
from services.entities.domain.billing_documents import BillingDocument, DocumentType, TaxTreatment
from services.entities.domain.consolidation import TaxRules
from services.entities.domain.entities import EntityAction
from services.entities.domain.invoices import (
    AMOUNT_LIMIT,
    EINVOICE_PROBLEM,
    LINES_MAX,
    LINES_SHOWN,
    InvoiceAction,
    InvoiceProblem,
    InvoiceState,
    InvoiceTerms,
    InvoiceType,
    Severity,
)
from services.entities.domain.parties import Party
from services.entities.errors.invoices import (
    EinvoiceIncomplete,
    InvoiceAmountTooLarge,
    InvoiceEmpty,
    InvoicePeriodTaken,
    InvoiceSettled,
    InvoiceTooLarge,
)
from services.entities.models.billing_profiles import BillingProfileRow
from services.entities.models.entities import EntityRow
from services.entities.models.invoices import (
    InvoiceDetails,
    InvoiceEliminationRow,
    InvoiceFeeRow,
    InvoiceLineRow,
    InvoiceRow,
)
from services.entities.service.consolidation import ConsolidationRequest, ConsolidationResult


async def create(tx: WriteSession, entity_id: UUID, terms: InvoiceTerms, *, dry_run: bool = False) -> InvoiceDetails:
    """Create a draft of everything that is to be billed to the entity and to those below it.

    Missing rates of a dry run are problems of the draft. Raises InvalidFields, EntityNotFound, EntityStateForbids,
    BillingProfileNotFound, BillingProfileMissing, BillingProfileInactive, InvoicePeriodTaken, InvoiceEmpty,
    InvoiceTooLarge, InvoiceAmountTooLarge, RateMissing.
    """
    service.field_violations.raise_any(domain.invoices.violations(terms))
    entity = await store.entities.lock_shared(tx, entity_id)
    profile = await service.billing_profiles.find_issuer(tx, terms.billing_profile_id)
    await store.invoices.lock_unbilled(tx)
    taken = await store.invoices.find_overlapping(tx, entity.id, terms.period)
    if taken:
        raise InvoicePeriodTaken(entity.id, taken.id, taken.state, taken.period_start, taken.period_end)
    invoice = InvoiceRow(
        id=ids.new(),
        entity_id=entity.id,
        billing_profile_id=profile.id,
        state=InvoiceState.DRAFT,
        period_start=terms.period.start,
        period_end=terms.period.end,
        currency_code=terms.currency or entity.currency_code,
        rate_policy=terms.rate_policy,
        note=terms.note or profile.default_note,
        require_einvoice=terms.require_einvoice,
    )
    details = await _build(tx, invoice, entity, profile, lenient=dry_run)
    outbox.append(tx, events.published.invoice_drafted(invoice))
    return details


async def refresh(tx: WriteSession, invoice_id: UUID, *, etag: str) -> InvoiceDetails:
    """Build a draft again from everything that is unbilled now.

    Raises InvoiceNotFound, EtagMismatch, InvoiceStateForbids, and the errors of `create`.
    """
    await store.invoices.lock_unbilled(tx)
    invoice = await store.invoices.lock(tx, invoice_id)
    invoice.check_etag(etag)
    invoice.state = domain.invoices.advance(invoice.id, invoice.state, InvoiceAction.REFRESH)
    entity = await store.entities.lock_shared(tx, invoice.entity_id)
    profile = await service.billing_profiles.find_issuer(tx, invoice.billing_profile_id)
    invoice.update_time = clock.now()  # changes the etag even if only the lines have changed
    await store.unbilled.put_back(tx, invoice.id)
    await store.invoices.delete_content(tx, invoice.id)
    return await _build(tx, invoice, entity, profile, lenient=False)


async def _build(
    tx: WriteSession, invoice: InvoiceRow, entity: EntityRow, profile: BillingProfileRow, *, lenient: bool
) -> InvoiceDetails:
    """Store the content of a draft."""
    domain.entities.advance(entity.id, entity.state, EntityAction.ADD_INVOICE)
    request = ConsolidationRequest(
        invoice_id=invoice.id,
        entity_id=entity.id,
        period=invoice.period,
        currency=invoice.currency_code,
        issuer_currency=profile.currency_code,
        policy=invoice.rate_policy,
        tax_rules=TaxRules(
            country_code=profile.address["country_code"],
            vat_group=frozenset(profile.vat_group_entity_ids),
            cross_border=TaxTreatment(profile.cross_border_treatment),
        ),
        today=dates.date_in(profile.time_zone, clock.now()),
        lenient=lenient,
    )
    result = await service.consolidation.build(tx, request)
    has_errors = any(problem.severity is Severity.ERROR for problem in result.problems)
    if not result.content.lines and not has_errors:
        raise InvoiceEmpty(entity.id, invoice.period_start, invoice.period_end)
    size = max(len(result.content.lines), len(result.content.eliminations))
    if size > LINES_MAX:
        raise InvoiceTooLarge(size, LINES_MAX)
    issuer_tax = service.consolidation.issuer_tax(result, request)
    if any(abs(amount) >= AMOUNT_LIMIT for amount in (*result.content.amounts(), issuer_tax or Decimal(0))):
        raise InvoiceAmountTooLarge
    _set_content(invoice, entity, profile, result)
    invoice.issuer_tax = issuer_tax
    lines, fees = _line_rows(invoice, result)
    eliminations = _elimination_rows(invoice, result)
    invoice.set_problems([*result.problems, *_einvoice_problems(invoice, lines, eliminations)])
    await store.invoices.save(tx, invoice)
    await store.invoices.insert_content(tx, lines, eliminations, fees)
    return InvoiceDetails(invoice, lines[:LINES_SHOWN], eliminations)


def _einvoice_problems(
    invoice: InvoiceRow, lines: Sequence[InvoiceLineRow], eliminations: Sequence[InvoiceEliminationRow]
) -> Iterator[InvoiceProblem]:
    """Yield what the draft lacks to be valid as an e-invoice: errors if it requires one, and otherwise warnings."""
    severity = Severity.ERROR if invoice.require_einvoice else Severity.WARNING
    document = service.billing_documents.of_invoice(invoice, lines, eliminations)
    for problem in domain.einvoice_rules.einvoice_problems(document):
        rule = f" ({problem.rule})" if problem.rule else ""
        yield InvoiceProblem(
            severity, EINVOICE_PROBLEM, f"{problem.field}: {problem.description}{rule}", ids.INVOICE.format(invoice.id)
        )


def _set_content(
    invoice: InvoiceRow,
    entity: EntityRow,
    profile: BillingProfileRow,
    result: ConsolidationResult,
) -> None:
    content = result.content
    internal = all(line.tax.treatment is TaxTreatment.NOT_SUBJECT for line in content.lines)
    invoice.type = InvoiceType.STATEMENT if internal and content.lines else InvoiceType.INVOICE
    invoice.entity_ids = result.entity_ids
    invoice.issuer_record = profile.party.to_record()
    invoice.recipient_record = _recipient(entity).to_record()
    invoice.recipient_name = entity.legal_name
    invoice.purchase_order_numbers = sorted({row.purchase_order_number for row in result.contracts} - {""})
    invoice.contract_numbers = sorted(row.contract_number for row in result.contracts)
    invoice.payment_terms_days = entity.payment_terms_days
    invoice.set_taxes(content.taxes)
    invoice.set_rates(result.rates)
    invoice.net, invoice.tax, invoice.total = content.net, content.tax, content.total
    invoice.issuer_currency_code = profile.currency_code
    invoice.line_count = len(content.lines)


def _recipient(entity: EntityRow) -> Party:
    address = entity.address or {"lines": [], "postal_code": "", "city": "", "region": "", "country_code": ""}
    return Party(
        legal_name=entity.legal_name,
        vat_id=entity.tax_id,
        registration_number=entity.registration_number,
        address={**address, "country_code": address["country_code"] or entity.country_code},
        electronic_address=None,
    )


def _line_rows(
    invoice: InvoiceRow, result: ConsolidationResult
) -> tuple[Sequence[InvoiceLineRow], Sequence[InvoiceFeeRow]]:
    lines, fees = [], []
    for number, line in enumerate(result.content.lines, start=1):
        row = InvoiceLineRow(
            id=ids.new(),
            invoice_id=invoice.id,
            number=number,
            kind=line.kind,
            entity_id=line.entity.id if line.entity else None,
            entity_code=line.entity.code if line.entity else "",
            entity_name=line.entity.name if line.entity else "",
            department_id=line.department_id,
            department_name=line.department_name,
            gl_code=line.gl_code,
            contract_id=line.contract_id,
            contract_number=line.contract_number,
            description=line.description,
            original_amount=line.original.amount if line.original else None,
            original_currency_code=line.original.currency if line.original else None,
            rate=line.rate,
            amount=line.amount,
            tax_treatment=line.tax.treatment,
            tax_rate_bp=line.tax.rate_bp,
            first_date=line.first_date,
            last_date=line.last_date,
            charge_ids=line.charge_ids,
            item_count=line.item_count,
            credited=Decimal(0),
            held=Decimal(0),
        )
        lines.append(row)
        fees += [
            InvoiceFeeRow(
                id=ids.new(),
                invoice_id=invoice.id,
                line_id=row.id,
                contract_id=line.contract_id,
                due_date=fee.due_date,
                amount=fee.amount.amount,
                currency_code=fee.amount.currency,
            )
            for fee in line.fees
        ]
    return lines, fees


def _elimination_rows(invoice: InvoiceRow, result: ConsolidationResult) -> Sequence[InvoiceEliminationRow]:
    return [
        InvoiceEliminationRow(
            id=ids.new(),
            invoice_id=invoice.id,
            number=number,
            supplier_entity_id=each.supplier.id,
            supplier_code=each.supplier.code,
            supplier_name=each.supplier.name,
            buyer_entity_id=each.buyer.id,
            buyer_code=each.buyer.code,
            buyer_name=each.buyer.name,
            original_amount=each.original.amount,
            original_currency_code=each.original.currency,
            supplier_amount=each.supplier_amount,
            booked_amount=each.booked.amount,
            booked_currency_code=each.booked.currency,
            buyer_amount=each.buyer_amount,
            charge_ids=each.charge_ids,
            allocation_count=each.allocation_count,
        )
        for number, each in enumerate(result.content.eliminations, start=1)
    ]


async def issue(tx: WriteSession, invoice_id: UUID, *, etag: str) -> InvoiceDetails:
    """Issue a draft: it gets the next number of the issuer's series, and never changes again.

    Raises InvoiceNotFound, EtagMismatch, InvoiceStateForbids, EinvoiceIncomplete, BillingProfileInactive.
    """
    invoice = await store.invoices.lock(tx, invoice_id)
    invoice.check_etag(etag)
    state = domain.invoices.advance(invoice.id, invoice.state, InvoiceAction.ISSUE)
    details = await get_details(tx, invoice)
    missing = [each.message for each in invoice.problems if each.severity is Severity.ERROR]
    if missing:
        raise EinvoiceIncomplete(ids.INVOICE, invoice.id, missing)
    profile = await service.billing_profiles.find_issuer(tx, invoice.billing_profile_id)
    now = clock.now()
    issue_date = dates.date_in(profile.time_zone, now)
    # Last, because other issues of the series wait from here to the commit.
    invoice.number = await store.number_series.take_next(tx, profile, DocumentType(invoice.type), issue_date.year)
    invoice.state, invoice.issue_time, invoice.issue_date = state, now, issue_date
    invoice.due_date = issue_date + timedelta(days=invoice.payment_terms_days)
    outbox.append(tx, events.published.invoice_issued(invoice))
    await service.invoice_payments.settle(tx, invoice)
    return details


async def void(tx: WriteSession, invoice_id: UUID, *, reason: str, etag: str) -> InvoiceDetails:
    """Withdraw an invoice; everything that it billed is unbilled again.

    Raises InvoiceNotFound, EtagMismatch, InvoiceStateForbids, InvoiceSettled.
    """
    await store.invoices.lock_unbilled(tx)
    invoice = await store.invoices.lock(tx, invoice_id)
    invoice.check_etag(etag)
    was_draft = invoice.state is InvoiceState.DRAFT
    invoice.state = domain.invoices.advance(invoice.id, invoice.state, InvoiceAction.VOID)
    if not was_draft and any((invoice.paid, invoice.offset, invoice.credited_balance, invoice.refunded, invoice.held)):
        raise InvoiceSettled(invoice.id)
    invoice.void_time, invoice.void_reason = clock.now(), reason
    await store.unbilled.put_back(tx, invoice.id)
    await store.invoices.save(tx, invoice)
    outbox.append(tx, events.published.invoice_voided(invoice))
    return await get_details(tx, invoice)


async def get_details(tx: ReadSession, invoice: InvoiceRow) -> InvoiceDetails:
    """Return the invoice with its eliminated charges and its first lines."""
    lines = await store.invoices.list_first_lines(tx, invoice.id, LINES_SHOWN)
    return InvoiceDetails(invoice, lines, await store.invoices.list_eliminations(tx, invoice.id))


async def build_document(tx: ReadSession, invoice_id: UUID) -> BillingDocument:
    """Return everything that the document of an invoice shows. Raises InvoiceNotFound."""
    invoice = await store.invoices.get(tx, invoice_id)
    lines = await store.invoices.list_first_lines(tx, invoice.id, invoice.line_count)
    return service.billing_documents.of_invoice(invoice, lines, await store.invoices.list_eliminations(tx, invoice.id))
