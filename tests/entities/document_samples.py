"""Billing documents for tests of rendering: one with fixed values, and random ones whose sums hold."""

import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import date, timedelta
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, Final

from kit.money import Money, round_to
from services.entities.domain.billing_documents import (
    AppliedDocumentRate,
    BillingDocument,
    DocumentLine,
    DocumentType,
    LineKind,
    RatePolicy,
    TaxSubtotal,
    TaxTreatment,
)
from services.entities.domain.entities import Address
from services.entities.domain.parties import BankAccount, ElectronicAddress, Party

BERLIN: Final = Address(lines=["Hauptstr. 1"], postal_code="10115", city="Berlin", region="", country_code="DE")
HAMBURG: Final = Address(lines=["Ring 2", "Haus B"], postal_code="20095", city="Hamburg", region="", country_code="DE")
ISSUER: Final = Party(
    legal_name="Acme Services GmbH",
    vat_id="DE136695976",
    registration_number="HRB 12345",
    address=BERLIN,
    electronic_address=ElectronicAddress(scheme="EM", id="billing@acme.example"),
    email="billing@acme.example",
    phone="+49 30 1234",
    contact_name="Group billing",
    bank_account=BankAccount(holder="", iban="DE02120300000000202051", bic="BYLADEM1001"),
    currency_code="EUR",
)
RECIPIENT: Final = Party(
    legal_name="Acme Holding SE",
    vat_id="DE811569869",
    registration_number="HRB 777",
    address=HAMBURG,
    electronic_address=ElectronicAddress(scheme="EM", id="finance@holding.example"),
)


def line(amount: str, **fields: Any) -> DocumentLine:
    """A line with this net amount; costs of the Engineering department at 20 % unless said otherwise."""
    values: dict[str, Any] = {
        "number": 1,
        "kind": LineKind.ALLOCATIONS,
        "entity_code": "DE01",
        "entity_name": "Acme Germany",
        "department_name": "Engineering",
        "gl_code": "6800",
        "description": "Cloud platform",
        "contract_number": "",
        "original": Money(Decimal(amount), "EUR"),
        "rate": None,
        "amount": Decimal(amount),
        "treatment": TaxTreatment.STANDARD,
        "tax_rate_bp": 2000,
    }
    return DocumentLine(**{**values, **fields})


def document(*lines: DocumentLine, **fields: Any) -> BillingDocument:
    """An invoice of these lines, numbered from 1, with the taxes and sums that follow from them."""
    values: dict[str, Any] = {
        "type": DocumentType.INVOICE,
        "number": "ACME-2026-000001",
        "issue_date": date(2026, 11, 1),
        "due_date": date(2026, 12, 1),
        "period_start": date(2026, 10, 1),
        "period_end": date(2026, 11, 1),
        "currency": "EUR",
        "rate_policy": RatePolicy.PERIOD_END,
        "issuer": ISSUER,
        "recipient": RECIPIENT,
        "purchase_order_numbers": ["PO-4711"],
        "contract_numbers": ["C-2026-1"],
        "lines": [replace(each, number=number) for number, each in enumerate(lines or [line("68.33")], 1)],
        "eliminations": [],
        "issuer_tax": None,
        "rates": [],
    } | fields
    taxes = fields.get("taxes") or subtotals(values["lines"], values["currency"])
    net, tax = sum((each.net for each in taxes), Decimal(0)), sum((each.tax for each in taxes), Decimal(0))
    return BillingDocument(**{"taxes": taxes, "net": net, "tax": tax, "total": net + tax, **values})


def subtotals(lines: Sequence[DocumentLine], currency: str) -> list[TaxSubtotal]:
    """Taxes of the lines: per treatment and rate on the sum of the lines, rounded half away from zero."""
    groups = dict.fromkeys((each.treatment, each.tax_rate_bp) for each in lines)
    nets = {key: sum(each.amount for each in lines if (each.treatment, each.tax_rate_bp) == key) for key in groups}
    return [
        TaxSubtotal(
            treatment=treatment,
            tax_rate_bp=rate,
            net=Decimal(net),
            tax=round_to(Decimal(net) * rate / 10000, currency, ROUND_HALF_UP),
        )
        for (treatment, rate), net in nets.items()
    ]


def random_document(seed: int) -> BillingDocument:
    """A document with random lines, parties, currency, tax treatments and type; the same for the same seed."""
    rng = random.Random(seed)  # noqa: S311 - reproducible data for tests
    currency = rng.choice(["EUR", "EUR", "USD", "GBP", "JPY", "CHF"])
    kind = rng.choice([DocumentType.INVOICE, DocumentType.INVOICE, DocumentType.CREDIT_NOTE, DocumentType.STATEMENT])
    lines = [_random_line(rng, currency, kind) for _ in range(rng.choice([1, 2, 3, 8, 30]))]
    start = date(2026, rng.randint(1, 12), rng.randint(1, 28))
    issued = start + timedelta(days=rng.randint(0, 100))
    made = document(
        *lines,
        type=kind,
        number=f"ACME-2026-{seed:06}",
        issue_date=issued,
        due_date=None if kind is DocumentType.CREDIT_NOTE else issued + timedelta(days=rng.randint(0, 90)),
        period_start=start,
        period_end=start + timedelta(days=rng.choice([1, 28, 31, 92])),
        currency=currency,
        rate_policy=rng.choice(list(RatePolicy)),
        issuer=_random_party(rng, ISSUER),
        recipient=_random_party(rng, RECIPIENT),
        purchase_order_numbers=[f"PO-{number}" for number in range(rng.randint(0, 3))],
        contract_numbers=[f"C-{number}" for number in range(rng.randint(0, 3))],
        note=rng.choice(["", "Thank you.", "Ä < B & C > \u20ac\n2nd line"]),
        credited_number="ACME-2025-000009" if kind is DocumentType.CREDIT_NOTE else "",
        credited_issue_date=start if kind is DocumentType.CREDIT_NOTE else None,
    )
    if currency == "EUR":
        return made
    rate = AppliedDocumentRate(
        source=currency, target="EUR", rate=Decimal("0.9123"), day=issued, effective_date=issued - timedelta(days=1)
    )
    return replace(made, issuer_tax=Money(round_to(made.tax * rate.rate, "EUR"), "EUR"), rates=[rate])


def _random_line(rng: random.Random, currency: str, kind: DocumentType) -> DocumentLine:
    digits = rng.choice([1, 3, 5, 9])
    amount = Decimal(rng.randint(-(10**digits) if kind is not DocumentType.CREDIT_NOTE else 0, 10**digits * 3))
    if currency != "JPY":
        amount = amount.scaleb(-2)
    treatment = TaxTreatment.NOT_SUBJECT
    if kind is not DocumentType.STATEMENT:
        treatment = rng.choice([TaxTreatment.STANDARD, TaxTreatment.STANDARD, *_WITH_OTHERS])
    foreign = rng.random() < 0.3
    return line(
        str(amount),
        kind=rng.choice(list(LineKind)),
        entity_name=rng.choice(["Acme Germany", "Acme & Söhne <GmbH>", "アクメ株式会社"]),
        department_name=rng.choice(["", "Engineering", "R&D"]),
        gl_code=rng.choice(["", "6800"]),
        description=rng.choice(["", "Cloud platform", "Licences \x07 & more"]),
        contract_number=rng.choice(["", "C-1"]),
        original=Money(amount * 2, "SEK") if foreign else Money(amount, currency),
        rate=Decimal("0.5") if foreign else None,
        treatment=treatment,
        tax_rate_bp=rng.choice([2000, 1900, 700, 550]) if treatment is TaxTreatment.STANDARD else 0,
    )


_WITH_OTHERS: Final = (TaxTreatment.REVERSE_CHARGE, TaxTreatment.EXEMPT)


def _random_party(rng: random.Random, party: Party) -> Party:
    address = Address(
        lines=[f"Line {number}" for number in range(rng.randint(0, 6))],
        postal_code=rng.choice(["", "10115"]),
        city=rng.choice(["", "Köln"]),
        region=rng.choice(["", "CA"]),
        country_code=rng.choice(["DE", "FR", "US", "JP", "GR"]),
    )
    vat_id = rng.choice(["DE136695976", "fr 40 303 265 045", "EL094259216", "91-1144442", "CHE-107.787.577 IVA"])
    return replace(
        party,
        address=address,
        vat_id=vat_id,
        email=rng.choice(["", party.email]),
        phone=rng.choice(["", party.phone]),
        contact_name=rng.choice(["", party.contact_name]),
    )
