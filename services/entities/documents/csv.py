"""CSV: one row for each line of a document. The sum of `net` is the net of the document."""

from collections.abc import Sequence
from typing import Any, Final

from rendering.texts import Number, csv_file
from services.entities.documents import taxes

HEADER: Final = (
    "document_type", "document_number", "issue_date", "period_start", "period_end", "line", "kind", "entity_code",
    "entity_name", "department", "gl_code", "description", "contract_number", "original_amount", "original_currency",
    "rate", "net", "currency", "tax_treatment", "tax_rate_percent",
)  # fmt: skip


def render(document: Any) -> bytes:
    """Return the lines of the document as CSV. `period_end` is the first day after the period."""
    return csv_file(HEADER, (_row(document, line) for line in document["lines"]))


def _row(document: Any, line: Any) -> Sequence[str]:
    original = line["original"] or {"amount": "", "currency_code": ""}
    return (
        document["type"],
        document["number"],
        document["issue_date"] or "",
        document["period_start"],
        document["period_end"],
        Number(line["number"]),
        line["kind"],
        line["entity_code"],
        line["entity_name"],
        line["department_name"],
        line["gl_code"],
        line["description"],
        line["contract_number"],
        Number(original["amount"]),
        original["currency_code"],
        Number(line["rate"] or ""),
        Number(line["amount"]),
        document["currency_code"],
        line["tax_treatment"],
        Number(taxes.percent(line["tax_rate_bp"])),
    )
