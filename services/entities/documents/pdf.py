"""PDF/A-3: the page layout is billing_document.typ; here its texts are made of the record of a document."""

from collections.abc import Iterator, Sequence
from decimal import Decimal
from itertools import accumulate, groupby
from pathlib import Path
from typing import Any, Final

from rendering.locales import Formats
from rendering.typesetting import Raw, pdf
from services.entities.documents import parties, payments, wording

_TEMPLATE: Final = Path(__file__).parent / "billing_document.typ"
_LONG: Final = 500
"""Longer texts may go on on the next page; other rows are kept together."""
_DIGIT: Final = 5
"""Width of a digit in tenths of an em, a little more than that of the font."""


def render(document: Any) -> bytes:
    """Return the document as PDF/A-3b."""
    return pdf(_TEMPLATE, layout(document))


def layout(document: Any) -> Any:
    """Return the texts of the template."""
    formats = Formats()
    heading = wording.heading(document)
    groups = [*_groups(document, formats)]
    return {
        "language": formats.language,
        "draft": not document["number"],
        "date": _date(document),
        "heading": heading,
        "subject": _subject(document),
        "words": wording.words(document["currency_code"]),
        "issuer": {
            "name": document["issuer"]["legal_name"],
            "address": parties.address(document["issuer"], formats),
            "details": parties.details(document["issuer"]),
        },
        "sender": parties.sender(document["issuer"]),
        "recipient": {
            "name": document["recipient"]["legal_name"],
            "lines": parties.recipient(document["recipient"], formats),
        },
        "footer": parties.footer(document["issuer"]),
        "facts": [*_facts(document, formats)],
        "converted": _is_converted(document),
        "groups": groups,
        "widths": _widths(document, groups),
        "sums": [*_sums(document, formats)],
        **_totals(document, formats),
        "taxes": _taxes(document, formats),
        "statements": wording.statements(tax["tax_treatment"] for tax in document["taxes"]),
        "payment": _payment(document, formats),
        "note": document["note"].splitlines(),
        "eliminations": _eliminations(document, formats),
        "rates": _rates(document, formats),
    }


def _date(document: Any) -> Any:
    """Return the creation date: no clock is read, so that equal documents have equal bytes."""
    year, month, day = map(int, (document["issue_date"] or document["period_end"]).split("-"))
    return {"year": year, "month": month, "day": day}


def _subject(document: Any) -> str:
    return wording.DRAFT_SUBJECT if not document["number"] else ""


def _facts(document: Any, formats: Formats) -> Iterator[tuple[str, str]]:
    if document["number"]:
        yield wording.number(document["type"]), document["number"]
    if document["issue_date"]:
        yield "Date", formats.day(document["issue_date"])
    if document["due_date"]:
        yield "Due date", formats.day(document["due_date"])
    yield "Period", formats.period(document["period_start"], document["period_end"])
    if document["credited_number"]:
        yield "Credited invoice", document["credited_number"]
    if document["credited_issue_date"]:
        yield "Date of that invoice", formats.day(document["credited_issue_date"])
    if document["purchase_order_numbers"]:
        yield "Purchase order", ", ".join(document["purchase_order_numbers"])
    if document["contract_numbers"]:
        yield "Contract", ", ".join(document["contract_numbers"])
    yield "Currency", document["currency_code"]


def _groups(document: Any, formats: Formats) -> Iterator[Any]:
    """Yield the lines by entity."""
    currency = document["currency_code"]
    by_entity = groupby(document["lines"], key=lambda line: (line["entity_name"], line["entity_code"]))
    for (name, code), grouped in by_entity:
        lines = list(grouped)
        yield {
            "name": name or wording.ADJUSTMENTS,
            "code": code,
            "subtotal": formats.amount(str(sum(Decimal(line["amount"]) for line in lines)), currency),
            "lines": [_line(line, currency, formats) for line in lines],
        }


def _sums(document: Any, formats: Formats) -> Iterator[str]:
    """Yield the sum of all lines up to each line."""
    amounts = (Decimal(line["amount"]) for line in document["lines"])
    return (formats.amount(str(total), document["currency_code"]) for total in accumulate(amounts))


def _is_converted(document: Any) -> bool:
    """True if the original amounts need columns."""
    currency = document["currency_code"]
    return any(line["original"] and line["original"]["currency_code"] != currency for line in document["lines"])


def _widths(document: Any, groups: Sequence[Any]) -> Sequence[int | None]:
    """Return the widths of the columns of lines in tenths of an em; None for what is left.

    They follow from the longest texts, since a column that fits its cells takes Typst half as long again.
    """
    lines = [line for group in groups for line in group["lines"]]

    def width(field: str, at_least: int) -> int:
        return max([at_least, *(_DIGIT * len(line[field]) for line in lines)])

    converted = [width("original", 65) + 8, width("rate", 25)] if _is_converted(document) else []
    return [width("number", 16), None, *converted, 42, width("net", 52)]


def _line(line: Any, currency: str, formats: Formats) -> Any:
    details = " · ".join(_details(line))
    title = line["description"] or wording.line_kind(line["kind"])
    return {
        "number": str(line["number"]),
        "title": title,
        "details": details,
        "original": _money(line["original"], formats),
        "rate": formats.rate(line["rate"]) if line["rate"] else "",
        "tax": wording.tax_label(line["tax_treatment"], line["tax_rate_bp"], formats),
        "net": formats.amount(line["amount"], currency),
        "long": len(title) + len(details) > _LONG,
    }


def _details(line: Any) -> Iterator[str]:
    if line["department_name"]:
        yield line["department_name"]
    if line["gl_code"]:
        yield f"GL {line['gl_code']}"
    if line["contract_number"]:
        yield f"Contract {line['contract_number']}"


def _money(money: Any, formats: Formats) -> str:
    return formats.money(money["amount"], money["currency_code"]) if money else ""


def _totals(document: Any, formats: Formats) -> Any:
    currency = document["currency_code"]
    taxes = [
        (f"Tax {formats.percent(tax['tax_rate_bp'])}", formats.amount(tax["tax"], currency))
        for tax in document["taxes"]
        if tax["tax_rate_bp"]
    ]
    return {
        "net": formats.amount(document["net"], currency),
        "totals": [("Net", formats.amount(document["net"], currency)), *taxes],
        "total": (wording.total(document["type"]), formats.money(document["total"], currency)),
    }


def _taxes(document: Any, formats: Formats) -> Any:
    currency = document["currency_code"]
    issuer_tax = document["issuer_tax"]
    rows = [
        (
            wording.treatment(tax["tax_treatment"]),
            formats.percent(tax["tax_rate_bp"]) if tax["tax_treatment"] == "STANDARD" else "",
            formats.amount(tax["net"], currency),
            formats.amount(tax["tax"], currency),
        )
        for tax in document["taxes"]
    ]
    footer = ("Total", "", formats.amount(document["net"], currency), formats.amount(document["tax"], currency))
    return {
        "title": "Tax",
        "header": ("Treatment", "Rate", f"Net ({currency})", f"Tax ({currency})"),
        "rows": rows,
        "footer": footer,
        "issuer": f"Total tax in {issuer_tax['currency_code']}: {_money(issuer_tax, formats)}" if issuer_tax else "",
    }


def _payment(document: Any, formats: Formats) -> Any:
    payment = payments.payment(document)
    if not payment:
        return None
    rows = [
        ("Amount", formats.money(document["total"], document["currency_code"])),
        *([("Due date", formats.day(document["due_date"]))] if document["due_date"] else []),
        ("Account holder", payment.holder),
        ("IBAN", payment.iban_groups),
        *([("BIC", payment.bic)] if payment.bic else []),
        *([("Reference", payment.reference)] if payment.reference else []),
    ]
    code = payments.code(payment, document["currency_code"], Decimal(document["total"]))
    return {"title": "Payment", "rows": rows, "code": Raw(code) if code else None}


def _eliminations(document: Any, formats: Formats) -> Any:
    currency = document["currency_code"]
    rows = [
        (
            _company(each["supplier_name"], each["supplier_code"]),
            _company(each["buyer_name"], each["buyer_code"]),
            _money(each["original"], formats),
            formats.amount(each["supplier_amount"], currency),
            formats.amount(each["buyer_amount"], currency),
        )
        for each in document["eliminations"]
    ]
    sums = [
        formats.amount(str(sum((Decimal(each[side]) for each in document["eliminations"]), Decimal(0))), currency)
        for side in ("supplier_amount", "buyer_amount")
    ]
    return {
        "title": "Eliminated charges between companies of the group",
        "header": ("Supplier", "Recipient", "Original", f"Supplier ({currency})", f"Recipient ({currency})"),
        "rows": rows,
        "footer": ("Total", "", "", *sums),
        "text": wording.ELIMINATIONS,
    }


def _company(name: str, code: str) -> str:
    return f"{name} ({code})" if code else name


def _rates(document: Any, formats: Formats) -> Any:
    rows: Sequence[tuple[str, str, str, str]] = [
        (
            f"1 {rate['source_currency']}",
            f"{formats.rate(rate['rate'])} {rate['target_currency']}",
            formats.day(rate["date"]),
            formats.day(rate["effective_date"]),
        )
        for rate in document["rates"]
    ]
    return {
        "title": "Exchange rates",
        "header": ("Currency", "Rate", "Used for", "Effective from"),
        "rows": rows,
        "text": wording.rate_policy(document["rate_policy"]),
    }
