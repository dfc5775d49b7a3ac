"""Verification of invoices: the stored content compared with what its facts result in."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from decimal import Decimal
from enum import StrEnum
from typing import TypeAlias
from uuid import UUID

from kit.money import Money
from services.entities import domain
from services.entities.domain.billing_documents import LineKind, TaxSubtotal, TaxTreatment
from services.entities.domain.consolidation import (
    BilledEntity,
    Charge,
    Consolidation,
    EliminationDraft,
    LineDraft,
    Names,
    Rates,
    TaxKey,
)
from services.entities.domain.rates import Conversion

Value: TypeAlias = str | int | UUID | Decimal | date | Money | None
"""A value of a field; None if there is none."""
Fields: TypeAlias = Mapping[str, Value]


class Subject(StrEnum):
    """InvoiceDifference.Subject."""

    LINE = "LINE"
    CHARGE = "CHARGE"
    ELIMINATION = "ELIMINATION"
    TAX = "TAX"
    RATE = "RATE"
    TOTAL = "TOTAL"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredLine:
    """A line as it is stored."""

    id: UUID
    number: int
    content: LineDraft
    credited: Decimal
    held: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Totals of an invoice."""

    net: Decimal
    tax: Decimal
    total: Decimal
    issuer_tax: Decimal | None
    line_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """What was paid, credited and held of an invoice."""

    paid: Decimal
    exchange_difference: Decimal
    offset: Decimal
    credited_balance: Decimal
    refunded: Decimal
    held: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What an invoice was made of, and what happened to it."""

    charges: Sequence[Charge]
    """The sums of allocations by stored charge, and the fees."""
    settlement: Settlement
    """The sums of its payments, credit notes, refunds and holds."""
    credited: Mapping[UUID, Decimal]
    """By line; without those of zero."""
    held: Mapping[UUID, Decimal]
    """By line; without those of zero."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredInvoice:
    """An invoice as it is stored."""

    currency: str
    issuer_currency: str
    entity_ids: Sequence[UUID]
    """Parents before their children."""
    lines: Sequence[StoredLine]
    charges: Sequence[Charge]
    eliminations: Sequence[EliminationDraft]
    taxes: Sequence[TaxSubtotal]
    totals: Totals
    settlement: Settlement
    rates: Rates


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A stored value that is not the one that the facts result in."""

    subject: Subject
    line: StoredLine | None = None
    label: str = ""
    """What the value belongs to, if not to a line."""
    field: str = ""
    """Empty if all of it is missing, or should not exist."""
    expected: Value = None
    actual: Value = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InvoiceVerification:
    """What was compared, and the differences."""

    invoice_id: UUID
    line_count: int
    allocation_count: int
    fee_count: int
    elimination_count: int
    tax_count: int
    differences: Sequence[Difference]


def verify(invoice_id: UUID, invoice: StoredInvoice, facts: Facts) -> InvoiceVerification:
    """Compare an invoice with its facts."""
    fee_count = sum(charge.fee is not None for charge in facts.charges)
    return InvoiceVerification(
        invoice_id=invoice_id,
        line_count=len(invoice.lines),
        allocation_count=sum(charge.item_count for charge in facts.charges) - fee_count,
        fee_count=fee_count,
        elimination_count=len(invoice.eliminations),
        tax_count=len(invoice.taxes),
        differences=[*_content_differences(invoice, facts.charges), *_settlement_differences(invoice, facts)],
    )


def _content_differences(invoice: StoredInvoice, charges: Sequence[Charge]) -> Iterator[Difference]:
    convertible = list[Charge]()
    for charge in charges:
        missing = domain.consolidation.conversions(charge, invoice.currency) - invoice.rates.keys()
        for each in sorted(missing, key=lambda each: (each.source, each.day)):
            yield Difference(subject=Subject.RATE, label=_rate_label(each), expected="a rate")
        if not missing:
            convertible.append(charge)
    content = domain.consolidation.consolidate_taxed(
        convertible, invoice.rates, invoice.currency, _names(invoice, charges), _tax_keys(invoice, charges)
    )
    yield from _charge_differences(invoice, charges)
    yield from _line_differences(invoice.lines, content.lines)
    yield from _elimination_differences(invoice.eliminations, content.eliminations)
    yield from _untaxed_lines(invoice)
    yield from _tax_differences(invoice.taxes, content.taxes)
    yield from _total_differences(invoice, content)


def _settlement_differences(invoice: StoredInvoice, facts: Facts) -> Iterator[Difference]:
    for line in invoice.lines:
        expected: Fields = {
            "credited": facts.credited.get(line.id, Decimal(0)), "held": facts.held.get(line.id, Decimal(0)),
        }  # fmt: skip
        for field, value, stored in _compare(expected, {"credited": line.credited, "held": line.held}):
            yield Difference(subject=Subject.LINE, line=line, field=field, expected=value, actual=stored)
    for field, value, stored in _compare(asdict(facts.settlement), asdict(invoice.settlement)):
        yield Difference(subject=Subject.TOTAL, field=field, expected=value, actual=stored)


def _rate_label(conversion: Conversion) -> str:
    return f"{conversion.source}/{conversion.target} on {conversion.day}"


def _names(invoice: StoredInvoice, facts: Iterable[Charge]) -> Names:
    """Return the names that are stored on the invoice; what has none is empty."""
    entities = {line.content.entity.id: line.content.entity for line in invoice.lines if line.content.entity}
    for each in invoice.eliminations:
        entities |= {each.supplier.id: each.supplier, each.buyer.id: each.buyer}
    lines = [line.content for line in invoice.lines]
    departments = {line.department_id: line.department_name for line in lines if line.department_id}
    contracts = {line.contract_id: (line.contract_number, "") for line in lines if line.contract_id}
    charges = list(facts)
    charged = (each for charge in charges for each in (charge.entity_id, charge.supplier_id) if each)
    return Names(
        entities={id: entities.get(id) or _nameless(id) for id in (*invoice.entity_ids, *charged)},
        departments={charge.department_id: "" for charge in charges if charge.department_id} | departments,
        contracts={charge.contract_id: ("", "") for charge in charges if charge.contract_id} | contracts,
    )


def _nameless(entity_id: UUID) -> BilledEntity:
    return BilledEntity(id=entity_id, code="", name="", country_code="", tax_rate_bp=0)


def _tax_keys(invoice: StoredInvoice, facts: Iterable[Charge]) -> Mapping[UUID, TaxKey]:
    """Return treatment and rate of each entity: those of most of its lines."""
    counts = defaultdict[UUID, Counter[TaxKey]](Counter)
    for line in invoice.lines:
        if line.content.entity:
            counts[line.content.entity.id][line.content.tax] += 1
    keys = {charge.entity_id: TaxKey(TaxTreatment.EXEMPT, 0) for charge in facts}
    return keys | {id: of_lines.most_common(1)[0][0] for id, of_lines in counts.items()}


def _compare(expected: Fields, actual: Fields) -> Iterator[tuple[str, Value, Value]]:
    for field, value in expected.items():
        if value != actual[field]:
            yield field, value, actual[field]


def _charge_differences(invoice: StoredInvoice, facts: Iterable[Charge]) -> Iterator[Difference]:
    """Yield the differences of stored charges to the sums of their allocations."""
    lines = {id: line for line in invoice.lines for id in line.content.charge_ids}
    sums = defaultdict[UUID, list[Charge]](list)
    for charge in facts:
        if charge.id:
            sums[charge.id].append(charge)
    for stored in invoice.charges:
        line = lines.get(stored.id) if stored.id else None
        of_allocations = sums[stored.id] if stored.id else []
        label = "" if line else f"charge of {stored.original.currency}"
        if not of_allocations:
            yield Difference(subject=Subject.CHARGE, line=line, label=label, actual=stored.original)
        for each in of_allocations:
            for field, expected, actual in _compare(_charge_fields(each), _charge_fields(stored)):
                yield Difference(
                    subject=Subject.CHARGE, line=line, label=label, field=field, expected=expected, actual=actual
                )


def _charge_fields(charge: Charge) -> Fields:
    return {
        "entity_id": charge.entity_id,
        "department_id": charge.department_id,
        "gl_code": charge.gl_code,
        "supplier_entity_id": charge.supplier_id,
        "original": charge.original,
        "booked": charge.booked,
        "first_date": charge.first_date,
        "last_date": charge.last_date,
        "allocation_count": charge.item_count,
    }


def _line_differences(stored: Sequence[StoredLine], expected: Sequence[LineDraft]) -> Iterator[Difference]:
    by_key = {_line_key(line): line for line in expected}
    unmatched = list[StoredLine]()
    for line in stored:
        content = by_key.pop(_line_key(line.content), None)
        if content is None:
            unmatched.append(line)
        else:
            yield from _differences_of_line(line, content)
    missing = list(by_key.values())
    for line, content in zip(unmatched, missing, strict=False):
        yield from _differences_of_line(line, content)
    for line in unmatched[len(missing) :]:
        yield Difference(subject=Subject.LINE, line=line, actual=line.content.amount)
    for content in missing[len(unmatched) :]:
        entity = f"{content.entity.code} " if content.entity else ""
        yield Difference(subject=Subject.LINE, label=f"{entity}{content.description}", expected=content.amount)


def _line_key(line: LineDraft) -> tuple[object, ...]:
    if line.kind in {LineKind.ROUNDING, LineKind.EXCHANGE_DIFFERENCE}:
        return line.kind, line.tax
    currency = line.original.currency if line.original else ""
    entity_id = line.entity.id if line.entity else None
    return line.kind, entity_id, line.department_id, line.gl_code, line.contract_id, currency


def _differences_of_line(line: StoredLine, content: LineDraft) -> Iterator[Difference]:
    for field, expected, actual in _compare(_line_fields(content), _line_fields(line.content)):
        yield Difference(subject=Subject.LINE, line=line, field=field, expected=expected, actual=actual)


def _line_fields(line: LineDraft) -> Fields:
    return {
        "kind": line.kind,
        "entity_id": line.entity.id if line.entity else None,
        "department_id": line.department_id,
        "gl_code": line.gl_code,
        "contract_id": line.contract_id,
        "original": line.original,
        "rate": line.rate,
        "amount": line.amount,
        "tax_treatment": line.tax.treatment,
        "tax_rate_bp": line.tax.rate_bp,
        "first_date": line.first_date,
        "last_date": line.last_date,
        "item_count": line.item_count,
    }


def _elimination_differences(
    stored: Sequence[EliminationDraft], expected: Sequence[EliminationDraft]
) -> Iterator[Difference]:
    actual, computed = ({_elimination_key(each): each for each in side} for side in (stored, expected))
    for key in {**computed, **actual}:
        fields, known = computed.get(key), actual.get(key)
        named = known or fields
        label = f"{named.supplier.code} to {named.buyer.code}, {named.original.currency}" if named else ""
        if fields is None or known is None:
            yield Difference(
                subject=Subject.ELIMINATION,
                label=label,
                expected=fields.original if fields else None,
                actual=known.original if known else None,
            )
            continue
        for field, value, stored_value in _compare(_elimination_fields(fields), _elimination_fields(known)):
            yield Difference(subject=Subject.ELIMINATION, label=label, field=field, expected=value, actual=stored_value)


def _elimination_key(each: EliminationDraft) -> tuple[object, ...]:
    return each.supplier.id, each.buyer.id, each.original.currency, each.booked.currency


def _elimination_fields(each: EliminationDraft) -> Fields:
    return {
        "original": each.original,
        "supplier_amount": each.supplier_amount,
        "booked": each.booked,
        "buyer_amount": each.buyer_amount,
        "allocation_count": each.allocation_count,
    }


def _untaxed_lines(invoice: StoredInvoice) -> Iterator[Difference]:
    """Yield the lines whose treatment and rate no tax of the invoice has."""
    keys = {TaxKey(each.treatment, each.tax_rate_bp) for each in invoice.taxes}
    expected = next(iter(keys)).rate_bp if len(keys) == 1 else None
    for line in invoice.lines:
        if line.content.tax not in keys:
            yield Difference(
                subject=Subject.LINE, line=line, field="tax_rate_bp", expected=expected, actual=line.content.tax.rate_bp
            )


def _tax_differences(stored: Sequence[TaxSubtotal], expected: Sequence[TaxSubtotal]) -> Iterator[Difference]:
    actual, computed = ({(each.treatment, each.tax_rate_bp): each for each in side} for side in (stored, expected))
    for key in {**computed, **actual}:
        label, zero = f"{key[0]} {key[1]} bp", None
        left, right = computed.get(key), actual.get(key)
        fields: Fields = {"net": left.net, "tax": left.tax} if left else {"net": zero, "tax": zero}
        known: Fields = {"net": right.net, "tax": right.tax} if right else {"net": zero, "tax": zero}
        for field, value, stored_value in _compare(fields, known):
            yield Difference(subject=Subject.TAX, label=label, field=field, expected=value, actual=stored_value)


def _total_differences(invoice: StoredInvoice, content: Consolidation) -> Iterator[Difference]:
    issuer_tax = None
    if invoice.issuer_currency != invoice.currency:
        to_issuer = [
            (conversion, rate.rate)
            for conversion, rate in invoice.rates.items()
            if (conversion.source, conversion.target) == (invoice.currency, invoice.issuer_currency)
        ]
        if to_issuer:
            issuer_tax = domain.consolidation.convert_tax(content.tax, to_issuer[0][1], invoice.issuer_currency)
        else:
            label = f"{invoice.currency}/{invoice.issuer_currency}"
            yield Difference(subject=Subject.RATE, label=label, expected="a rate")
    expected, actual = (
        {
            "net": each.net,
            "tax": each.tax,
            "total": each.total,
            "issuer_tax": each.issuer_tax,
            "line_count": each.line_count,
        }
        for each in (
            Totals(
                net=content.net, tax=content.tax, total=content.total, issuer_tax=issuer_tax,
                line_count=len(content.lines),
            ),
            invoice.totals,
        )
    )  # fmt: skip
    for field, value, stored_value in _compare(expected, actual):
        yield Difference(subject=Subject.TOTAL, field=field, expected=value, actual=stored_value)
