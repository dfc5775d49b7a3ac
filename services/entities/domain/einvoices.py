"""Billing documents in the terms of electronic invoices.

The keys are the ids of business terms (BT) and groups (BG) of the norm EN 16931, whatever the syntax of the file.
"""

import re
from collections.abc import Iterator, Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any, Final

from kit.money import amount_text
from services.entities import domain
from services.entities.domain.billing_documents import (
    BillingDocument,
    DocumentLine,
    DocumentType,
    LineKind,
    TaxSubtotal,
    TaxTreatment,
)
from services.entities.domain.parties import Party

Terms = dict[str, Any]
"""Values by the id of their term: texts, or terms of a group. Those that are empty are left out."""

_TYPE_CODES: Final = {
    DocumentType.INVOICE: "380",
    DocumentType.STATEMENT: "751",  # invoice information for accounting purposes, which is no invoice by VAT law
    DocumentType.CREDIT_NOTE: "381",
}
"""Codes of UNTDID 1001."""
_CATEGORIES: Final = {
    TaxTreatment.STANDARD: "S",
    TaxTreatment.REVERSE_CHARGE: "AE",
    TaxTreatment.EXEMPT: "E",
    TaxTreatment.NOT_SUBJECT: "O",
}
"""VAT categories, codes of UNTDID 5305."""
_REASONS: Final = {
    TaxTreatment.REVERSE_CHARGE: "Reverse charge",
    TaxTreatment.EXEMPT: "Exempt from VAT",
    TaxTreatment.NOT_SUBJECT: "Not subject to VAT",
}
"""Why no tax is due."""
_REASON_CODES: Final = {"AE": "VATEX-EU-AE", "O": "VATEX-EU-O"}
_NAMES: Final = {
    LineKind.ALLOCATIONS: "Allocated costs",
    LineKind.CONTRACT_FEE: "Contract fee",
    LineKind.ROUNDING: "Rounding difference",
    LineKind.EXCHANGE_DIFFERENCE: "Exchange difference",
}
"""Names of lines without a description."""
_ONE: Final = "C62"
"""The unit "one" of UN/ECE recommendation 20."""
_SEPA_TRANSFER, _TRANSFER = "58", "30"
"""Means of payment, codes of UNTDID 4461."""
_SELLER: Final = ("BT-27", "BT-30", "BT-31", "BT-34", "BT-34-1", "BT-41", "BT-42", "BT-43")
_SELLER_ADDRESS: Final = ("BT-35", "BT-36", "BT-162", "BT-37", "BT-38", "BT-39", "BT-40")
_BUYER: Final = ("BT-44", "BT-47", "BT-48", "BT-49", "BT-49-1", "BT-56", "BT-57", "BT-58")
_BUYER_ADDRESS: Final = ("BT-50", "BT-51", "BT-163", "BT-52", "BT-53", "BT-54", "BT-55")
_NOT_IN_XML: Final = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def business_terms(document: BillingDocument) -> Terms:
    """Return the terms of an issued document. Raises ValueError for a draft, or if `einvoice_problems` finds any."""
    problems = domain.einvoice_rules.einvoice_problems(document)
    if problems or document.issue_date is None:
        reasons = [problem.description for problem in problems] or ["It is a draft."]
        raise ValueError(f"The document can't be an electronic invoice. {' '.join(reasons)}")
    last_day = document.period_end - timedelta(days=1)
    outside_vat = domain.einvoice_rules.is_outside_vat(document)
    terms: Terms = _without_empty({
        "BT-1": document.number,
        "BT-2": str(document.issue_date),
        "BT-3": _TYPE_CODES[document.type],
        "BT-5": document.currency,
        "BT-9": str(document.due_date or ""),
        "BT-12": _only(document.contract_numbers),
        "BT-13": _only(document.purchase_order_numbers),
        "BT-72": str(last_day),
        "BT-73": str(document.period_start),
        "BT-74": str(last_day),
        "BG-1": [{"BT-22": note} for note in _notes(document)],
        "BG-3": _credited(document),
        "BG-23": list(_tax_subtotals(document, outside_vat=outside_vat)),
        "BG-25": [_line(document, line, outside_vat=outside_vat) for line in document.lines],
        **_party(document.issuer, _SELLER, _SELLER_ADDRESS),
        "BT-32": domain.einvoice_rules.national_tax_id(document.issuer),
        **_party(document.recipient, _BUYER, _BUYER_ADDRESS),
        **({"BT-31": "", "BT-48": ""} if outside_vat else {}),  # they may not be named then (BR-O-02)
        **_totals(document),
        **_payment(document),
    })  # fmt: skip
    return terms


def _only(references: Sequence[str]) -> str:
    """Return the reference if there is one; the norm has room for one, so several are named in a note."""
    return references[0] if len(references) == 1 else ""


def _notes(document: BillingDocument) -> Iterator[str]:
    yield document.note
    if len(document.purchase_order_numbers) > 1:
        yield f"Purchase orders: {', '.join(document.purchase_order_numbers)}"
    if len(document.contract_numbers) > 1:
        yield f"Contracts: {', '.join(document.contract_numbers)}"


def _credited(document: BillingDocument) -> Sequence[Terms]:
    return [{"BT-25": document.credited_number, "BT-26": str(document.credited_issue_date or "")}]


def _party(party: Party, terms: Sequence[str], address_terms: Sequence[str]) -> Terms:
    electronic, address = party.electronic_address, party.address
    values = (
        party.legal_name,
        party.registration_number,
        domain.einvoice_rules.vat_id(party),
        electronic.id if electronic else "",
        electronic.scheme if electronic else "",
        party.contact_name,
        party.phone,
        party.email,
    )
    if not address:
        return dict(zip(terms, values, strict=True))
    first, second, *others = *address["lines"], "", ""
    third = ", ".join(filter(None, others))
    places = (address["city"], address["postal_code"], address["region"], address["country_code"])
    return dict(zip((*terms, *address_terms), (*values, first, second, third, *places), strict=True))


def _tax_subtotals(document: BillingDocument, *, outside_vat: bool) -> Iterator[Terms]:
    """Yield a group for each category and rate."""
    groups: dict[tuple[TaxTreatment, int], list[TaxSubtotal]] = {}
    for subtotal in document.taxes:
        treatment = _treatment(subtotal.treatment, outside_vat=outside_vat)
        groups.setdefault((treatment, subtotal.tax_rate_bp), []).append(subtotal)
    for (treatment, rate_bp), group in groups.items():
        category = _CATEGORIES[treatment]
        yield {
            "BT-116": amount_text(sum((each.net for each in group), Decimal(0)), document.currency),
            "BT-117": amount_text(sum((each.tax for each in group), Decimal(0)), document.currency),
            "BT-118": category,
            "BT-119": _percent(treatment, rate_bp),
            "BT-120": "; ".join(_REASONS[each.treatment] for each in group if each.treatment in _REASONS),
            "BT-121": _REASON_CODES.get(category, ""),
        }


def _treatment(treatment: TaxTreatment, *, outside_vat: bool) -> TaxTreatment:
    """Return the treatment in the file: exchange differences beside lines within VAT are exempt there (BR-O-11)."""
    return TaxTreatment.EXEMPT if treatment is TaxTreatment.NOT_SUBJECT and not outside_vat else treatment


def _percent(treatment: TaxTreatment, rate_bp: int) -> str:
    """Return the rate of the tax; empty outside VAT, where none may be given (BR-O-05)."""
    return "" if treatment is TaxTreatment.NOT_SUBJECT else f"{Decimal(rate_bp) / 100:.2f}"


def _line(document: BillingDocument, line: DocumentLine, *, outside_vat: bool) -> Terms:
    """Return a line with quantity 1, or -1 for a credit: a price may not be below zero (BR-27)."""
    treatment = _treatment(line.treatment, outside_vat=outside_vat)
    return {
        "BT-126": str(line.number),
        "BT-129": "-1" if line.amount < 0 else "1",
        "BT-130": _ONE,
        "BT-131": amount_text(line.amount, document.currency),
        "BT-133": line.gl_code,
        "BT-146": amount_text(abs(line.amount), document.currency),
        "BT-151": _CATEGORIES[treatment],
        "BT-152": _percent(treatment, line.tax_rate_bp),
        "BT-153": _text(line.description) or _NAMES[line.kind],
        "BG-32": [{"BT-160": name, "BT-161": value} for name, value in _attributes(document, line) if _text(value)],
    }


def _attributes(document: BillingDocument, line: DocumentLine) -> Iterator[tuple[str, str]]:
    yield "Entity", f"{line.entity_code} {line.entity_name}"
    yield "Department", line.department_name
    yield "Contract", line.contract_number
    if line.original is not None and line.original.currency != document.currency:
        yield "Original amount", f"{line.original.text()} {line.original.currency}"
        if line.rate is not None:
            yield "Exchange rate", f"{line.rate.normalize():f}"


def _totals(document: BillingDocument) -> Terms:
    net, total = amount_text(document.net, document.currency), amount_text(document.total, document.currency)
    tax = document.issuer_tax
    return {
        "BT-6": tax.currency if tax else "",
        "BT-106": net,
        "BT-109": net,
        "BT-110": amount_text(document.tax, document.currency),
        "BT-111": tax.text() if tax else "",
        "BT-112": total,
        "BT-115": total,
    }


def _payment(document: BillingDocument) -> Terms:
    """Return how to pay by credit transfer, if something has to be paid."""
    account = document.issuer.bank_account
    if account is None or not domain.einvoice_rules.requests_payment(document):
        return {}
    return {
        "BT-81": _SEPA_TRANSFER if document.currency == "EUR" else _TRANSFER,
        "BT-83": document.number,
        "BT-84": account.iban.replace(" ", ""),
        "BT-85": account.holder or document.issuer.legal_name,
        "BT-86": account.bic.replace(" ", ""),
    }


def _without_empty(value: Any) -> Any:
    """Return terms or a list of them with the texts of `_text`, without empty texts, terms and lists."""
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, list):
        return [cleaned for each in value if (cleaned := _without_empty(each))]
    return {key: cleaned for key, each in value.items() if (cleaned := _without_empty(each))}


def _text(value: str) -> str:
    """Return the text without outer spaces and characters that XML can't carry."""
    return _NOT_IN_XML.sub("", value).strip()
