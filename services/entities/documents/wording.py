"""The words of documents, in English."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from rendering.locales import Formats

ADJUSTMENTS: Final = "Rounding and exchange differences"
DRAFT_SUBJECT: Final = "Draft: amounts may change until the document is issued. Do not pay it."
ELIMINATIONS: Final = (
    "These charges cancel inside the group and are not part of the total. Where the two sides were converted at"
    " different rates, the difference is a line of this document."
)

_HEADINGS: Final[Mapping[str, str]] = {
    "INVOICE": "Invoice",
    "STATEMENT": "Statement of internal charges",
    "CREDIT_NOTE": "Credit note",
}
_NUMBERS: Final[Mapping[str, str]] = {
    "INVOICE": "Invoice number",
    "STATEMENT": "Statement number",
    "CREDIT_NOTE": "Credit note number",
}
_TOTALS: Final[Mapping[str, str]] = {"INVOICE": "Total due", "STATEMENT": "Total", "CREDIT_NOTE": "Total credit"}
_TREATMENTS: Final[Mapping[str, str]] = {
    "STANDARD": "Standard",
    "REVERSE_CHARGE": "Reverse charge",
    "EXEMPT": "Exempt",
    "NOT_SUBJECT": "Not subject to tax",
}
_SHORT_TREATMENTS: Final[Mapping[str, str]] = {
    "REVERSE_CHARGE": "reverse charge",
    "EXEMPT": "exempt",
    "NOT_SUBJECT": "\N{EM DASH}",
}
_STATEMENTS: Final[Mapping[str, str]] = {
    "REVERSE_CHARGE": "Reverse charge: the recipient is liable for the tax.",
    "EXEMPT": "Exempt: no tax is due on these amounts.",
    "NOT_SUBJECT": "Not subject to tax: charges inside a VAT group, and exchange differences.",
}
_KINDS: Final[Mapping[str, str]] = {
    "ALLOCATIONS": "Allocated costs",
    "CONTRACT_FEE": "Contract fee",
    "ROUNDING": "Rounding",
    "EXCHANGE_DIFFERENCE": "Exchange difference of eliminated charges",
}
_POLICIES: Final[Mapping[str, str]] = {
    "PERIOD_END": "Amounts are converted at the rate of the last day of the period.",
    "TRANSACTION_DATE": "Amounts are converted at the rate of the day of each cost or fee.",
    "PERIOD_AVERAGE": "Amounts are converted at the mean of the rates in force on each day of the period.",
}


def words(currency: str) -> Mapping[str, str]:
    """Return the words of the page template."""
    return {
        "page": "Page",
        "of": "of",
        "draft": "DRAFT",
        "number": "No.",
        "description": "Description",
        "original": "Original amount",
        "rate": "Rate",
        "tax": "Tax",
        "net": f"Net ({currency})",
        "brought_forward": "Brought forward",
        "carried_forward": "Carried forward",
        "subtotal": "Subtotal",
        "no_lines": "There are no charges in this period.",
        "code": "Scan to pay",
        "note": "Note",
    }


def heading(document: Any) -> str:
    """Return the title with the number of the document, if it has one."""
    return f"{_HEADINGS[document['type']]} {document['number']}".strip()


def number(document_type: str) -> str:
    """Return the label of the number."""
    return _NUMBERS[document_type]


def total(document_type: str) -> str:
    """Return the label of the total."""
    return _TOTALS[document_type]


def treatment(name: str) -> str:
    """Return the name of a tax treatment."""
    return _TREATMENTS[name]


def tax_label(name: str, rate_bp: int, formats: Formats) -> str:
    """Return the tax of a line: its rate, or the treatment without one."""
    return _SHORT_TREATMENTS.get(name) or formats.percent(rate_bp)


def statements(treatments: Iterable[str]) -> Sequence[str]:
    """Return what must be stated of the treatments."""
    present = set(treatments)
    return [text for name, text in _STATEMENTS.items() if name in present]


def line_kind(kind: str) -> str:
    """Return the description of a line that has none."""
    return _KINDS[kind]


def rate_policy(policy: str) -> str:
    """Return which rates amounts are converted at."""
    return _POLICIES[policy]
