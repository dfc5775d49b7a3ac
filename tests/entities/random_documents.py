"""Random billing documents whose sums hold."""

import random
from dataclasses import replace
from datetime import date, timedelta
from decimal import Decimal
from typing import Final

from kit.money import Money, round_to
from services.entities.domain.billing_documents import (
    BillingDocument,
    DocumentLine,
    DocumentType,
    LineKind,
    RatePolicy,
    TaxTreatment,
)
from services.entities.domain.entities import Address
from services.entities.domain.parties import ElectronicAddress, Party
from tests.entities.billing_documents import ISSUER, RECIPIENT, billing_document, line, rate

_WITHIN_VAT: Final = (
    TaxTreatment.STANDARD,
    TaxTreatment.STANDARD,
    TaxTreatment.REVERSE_CHARGE,
    TaxTreatment.EXEMPT,
)


def random_document(seed: int) -> BillingDocument:
    """A document with random lines, parties, currency, tax treatments and type; the same for the same seed."""
    chance = random.Random(seed)  # noqa: S311 - the same documents each time
    currency = chance.choice(["EUR", "EUR", "USD", "GBP", "JPY", "CHF"])
    kind = chance.choice([DocumentType.INVOICE, *DocumentType])
    start = date(2026, chance.randint(1, 12), chance.randint(1, 28))
    issued = start + timedelta(days=chance.randint(0, 100))
    is_credit = kind is DocumentType.CREDIT_NOTE
    document = billing_document(
        [_line(chance, number, currency, kind) for number in range(1, chance.choice([1, 2, 3, 5, 9]) + 1)],
        currency,
        type=kind,
        number=f"ACME-2026-{seed:06}",
        issue_date=issued,
        due_date=None if is_credit else issued + timedelta(days=chance.randint(0, 90)),
        period_start=start,
        period_end=start + timedelta(days=chance.choice([1, 28, 31, 92])),
        rate_policy=chance.choice(list(RatePolicy)),
        issuer=_party(chance, ISSUER),
        recipient=_party(chance, RECIPIENT),
        purchase_order_numbers=[f"PO-{number}" for number in range(chance.randint(0, 3))],
        contract_numbers=[f"C-{number}" for number in range(chance.randint(0, 3))],
        note=chance.choice(["", "Thank you.", "Ä < B & C > €\n2nd line"]),
        credited_number="ACME-2025-000009" if is_credit else "",
        credited_issue_date=start if is_credit else None,
    )
    if currency == "EUR":
        return document
    issuer_tax = Money(round_to(document.tax * Decimal("0.9123"), "EUR"), "EUR")
    return replace(document, issuer_tax=issuer_tax, rates=[rate(currency, "EUR", "0.9123", issued)])


def _line(chance: random.Random, number: int, currency: str, kind: DocumentType) -> DocumentLine:
    digits = chance.choice([1, 3, 5, 9])
    amount = Decimal(chance.randint(-(10**digits), 3 * 10**digits))
    if currency != "JPY":
        amount = amount.scaleb(-2)
    line_kind = chance.choice(list(LineKind))
    treatment = TaxTreatment.NOT_SUBJECT
    if kind is not DocumentType.STATEMENT and line_kind is not LineKind.EXCHANGE_DIFFERENCE:
        treatment = chance.choice(_WITHIN_VAT)
    foreign = chance.random() < 0.3
    return line(
        number,
        str(amount),
        kind=line_kind,
        entity_name=chance.choice(["Acme Germany", "Acme & Söhne <GmbH>", "アクメ株式会社"]),
        department_name=chance.choice(["", "Engineering", "R&D"]),
        gl_code=chance.choice(["", "6800"]),
        description=chance.choice(["", "Cloud platform", "Licences \x07 & more"]),
        contract_number=chance.choice(["", "C-1"]),
        original=Money(amount * 2, "SEK") if foreign else None,
        rate=Decimal("0.5") if foreign else None,
        treatment=treatment,
        tax_rate_bp=chance.choice([2000, 1900, 700, 550]) if treatment is TaxTreatment.STANDARD else 0,
    )


def _party(chance: random.Random, party: Party) -> Party:
    address = Address(
        lines=[f"Line {number}" for number in range(chance.randint(0, 6))],
        postal_code=chance.choice(["", "10115"]),
        city=chance.choice(["", "Köln"]),
        region=chance.choice(["", "CA"]),
        country_code=chance.choice(["DE", "FR", "US", "JP", "GR"]),
    )
    return replace(
        party,
        address=address,
        vat_id=chance.choice(["DE136695976", "fr 40 303 265 045", "EL094259216", "91-1144442", "CHE-107.787.577 IVA"]),
        registration_number=party.registration_number or "HRB 777",
        electronic_address=party.electronic_address or ElectronicAddress(scheme="9930", id="DE136695976"),
        email=chance.choice(["", "billing@acme.example"]),
        phone=chance.choice(["", "+49 30 1234"]),
        contact_name=chance.choice(["", "Group billing"]),
    )
