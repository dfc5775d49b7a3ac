"""Billing documents for tests of their formats."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from kit.money import Money, round_to
from services.entities.domain.billing_documents import (
    AppliedDocumentRate,
    BillingDocument,
    DocumentLine,
    DocumentType,
    Elimination,
    LineKind,
    RatePolicy,
    TaxSubtotal,
    TaxTreatment,
)
from services.entities.domain.entities import Address
from services.entities.domain.parties import BankAccount, ElectronicAddress, Party

ISSUER = Party(
    legal_name="Acme Services GmbH",
    vat_id="DE123456788",
    registration_number="HRB 12345 B",
    address=Address(
        lines=["Hauptstraße 1", "Building C"], city="Berlin", region="", postal_code="10115", country_code="DE"
    ),
    electronic_address=ElectronicAddress(scheme="EM", id="billing@acme.example"),
    email="billing@acme.example",
    phone="+49 30 1234567",
    contact_name="Group billing",
    bank_account=BankAccount(holder="", iban="DE02120300000000202051", bic="BYLADEM1001"),
    currency_code="EUR",
)
RECIPIENT = Party(
    legal_name="Acme Holding SE",
    vat_id="DE987654324",
    registration_number="",
    address=Address(lines=["Ring 2"], city="Hamburg", region="", postal_code="20095", country_code="DE"),
    electronic_address=None,
)


def line(number: int, amount: str, **changed: Any) -> DocumentLine:
    fields: dict[str, Any] = {
        "number": number,
        "kind": LineKind.ALLOCATIONS,
        "entity_code": "ACME-DE",
        "entity_name": "Acme Deutschland GmbH",
        "department_name": "Engineering",
        "gl_code": "6815",
        "description": "Cloud platform",
        "contract_number": "",
        "original": None,
        "rate": None,
        "amount": Decimal(amount),
        "treatment": TaxTreatment.STANDARD,
        "tax_rate_bp": 1900,
    }
    return DocumentLine(**{**fields, **changed})


def billing_document(lines: Sequence[DocumentLine], currency: str = "EUR", **changed: Any) -> BillingDocument:
    """An issued invoice with these lines; its taxes and totals follow from them."""
    taxes = taxes_of(lines, currency)
    net, tax = sum((line.amount for line in lines), Decimal(0)), sum((each.tax for each in taxes), Decimal(0))
    fields: dict[str, Any] = {
        "type": DocumentType.INVOICE,
        "number": "ACME-2026-000042",
        "issue_date": date(2026, 11, 2),
        "due_date": date(2026, 12, 2),
        "period_start": date(2026, 10, 1),
        "period_end": date(2026, 11, 1),
        "currency": currency,
        "rate_policy": RatePolicy.PERIOD_END,
        "issuer": ISSUER,
        "recipient": RECIPIENT,
        "purchase_order_numbers": [],
        "contract_numbers": [],
        "lines": lines,
        "eliminations": [],
        "taxes": taxes,
        "net": net,
        "tax": tax,
        "total": net + tax,
        "issuer_tax": None,
        "rates": [],
    }
    return BillingDocument(**{**fields, **changed})


def invoice(*lines: DocumentLine, currency: str = "EUR", **changed: Any) -> BillingDocument:
    """An issued invoice with these lines, numbered from 1; with one at 20 % if there are none."""
    numbered = [replace(each, number=number) for number, each in enumerate(lines or [amount_line("68.33")], 1)]
    return billing_document(numbered, currency, **changed)


def amount_line(amount: str, **changed: Any) -> DocumentLine:
    """A line at 20 %."""
    return line(1, amount, **{"tax_rate_bp": 2000, **changed})


def untaxed(amount: str, treatment: TaxTreatment, **changed: Any) -> DocumentLine:
    return line(1, amount, treatment=treatment, tax_rate_bp=0, **changed)


def taxes_of(lines: Sequence[DocumentLine], currency: str) -> Sequence[TaxSubtotal]:
    groups: dict[tuple[TaxTreatment, int], Decimal] = {}
    for each in lines:
        group = each.treatment, each.tax_rate_bp
        groups[group] = groups.get(group, Decimal(0)) + each.amount
    return [
        TaxSubtotal(
            treatment=treatment,
            tax_rate_bp=rate,
            net=net,
            tax=round_to(net * rate / 10_000, currency, ROUND_HALF_UP),
        )
        for (treatment, rate), net in groups.items()
    ]


def draft(document: BillingDocument) -> BillingDocument:
    return replace(document, number="", issue_date=None, due_date=None)


def full_document(**changed: Any) -> BillingDocument:
    """An invoice in USD of a group with three currencies: every field has a value, and every section its rows."""
    lines = [
        line(
            1,
            "1096.10",
            original=Money(Decimal("1000.00"), "EUR"),
            rate=Decimal("1.0961"),
            description="Cloud platform, October",
        ),
        line(2, "5480.50", kind=LineKind.CONTRACT_FEE, department_name="", contract_number="CON-2026-0007",
             description="Platform fee, 1–31 October 2026", gl_code="6810",
             original=Money(Decimal("5000.00"), "EUR"), rate=Decimal("1.0961")),
        line(3, "-120.57", original=Money(Decimal("-110.00"), "EUR"), rate=Decimal("1.0961"),
             description="Credit of 14 September 2026 for the outage of 2 September", department_name="Support"),
        line(4, "2514.31", entity_code="ACME-JP", entity_name="Acme Japan K.K.", department_name="Sales",
             description="Data centre Tokyo", original=Money(Decimal(377_000), "JPY"),
             rate=Decimal("0.00666926"), treatment=TaxTreatment.REVERSE_CHARGE, tax_rate_bp=0),
        line(5, "640.00", entity_code="ACME-BH", entity_name="Acme Bahrain W.L.L.", department_name="Finance",
             description="Insurance", original=Money(Decimal("241.280"), "BHD"), rate=Decimal("2.65252"),
             treatment=TaxTreatment.EXEMPT, tax_rate_bp=0),
        line(6, "0.01", kind=LineKind.ROUNDING, entity_code="", entity_name="", department_name="", gl_code="",
             description="Rounding"),
        line(7, "-3.20", kind=LineKind.EXCHANGE_DIFFERENCE, entity_code="", entity_name="", department_name="",
             gl_code="", description="Exchange difference of eliminated charges",
             treatment=TaxTreatment.NOT_SUBJECT, tax_rate_bp=0),
    ]  # fmt: skip
    fields: dict[str, Any] = {
        "purchase_order_numbers": ["PO-77120", "PO-77121"],
        "contract_numbers": ["CON-2026-0007"],
        "issuer_tax": Money(Decimal("1119.15"), "EUR"),
        "eliminations": [
            Elimination(
                supplier_code="ACME-DE",
                supplier_name="Acme Deutschland GmbH",
                buyer_code="ACME-JP",
                buyer_name="Acme Japan K.K.",
                original=Money(Decimal("2000.00"), "EUR"),
                supplier_amount=Decimal("2192.20"),
                buyer_amount=Decimal("2189.00"),
            )
        ],
        "rates": [
            rate("EUR", "USD", "1.0961"),
            rate("JPY", "USD", "0.00666926"),
            rate("BHD", "USD", "2.65252"),
            rate("USD", "EUR", "0.91232552", day=date(2026, 11, 2)),
        ],
        "note": "Thank you. Please quote the number of this invoice with your payment.",
    }
    return billing_document(**{"lines": lines, "currency": "USD", **fields, **changed})


def rate(source: str, target: str, price: str, day: date = date(2026, 10, 31)) -> AppliedDocumentRate:
    return AppliedDocumentRate(
        source=source, target=target, rate=Decimal(price), day=day, effective_date=day.replace(day=min(day.day, 30))
    )
