"""XLSX: totals, lines, eliminated charges and rates. Sums are formulas with our values as their results."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from decimal import ROUND_HALF_UP, Decimal
from itertools import count
from typing import Any, Final

from kit.money import round_to, unit
from rendering.locales import Formats
from rendering.spreadsheets import Amount, Book, Cell, Formula, Heading, Percentage, Sheet, cell_name
from services.entities.documents import parties, wording

_LINES: Final = (
    ("No.", 6), ("Kind", 24), ("Company code", 14), ("Company", 28), ("Department", 18), ("GL code", 10),
    ("Description", 40), ("Contract", 16), ("Original amount", 16), ("Currency", 10), ("Rate", 12),
    ("Net", 14), ("Tax", 22),
)  # fmt: skip
_FORMATS: Final = Formats()
_NET: Final = 11
_TAX: Final = 12
_FIRST_LINE: Final = 2
"""Row of the first line; above are the sum and the titles."""


def render(document: Any) -> bytes:
    """Return the document as a workbook."""
    day = date.fromisoformat(document["issue_date"] or document["period_end"])
    book = Book(wording.heading(document), document["issuer"]["legal_name"], day)
    _write_document(book.sheet("Document", 34, 22, 18, 18), document)
    _write_lines(book.sheet("Lines", *(width for _, width in _LINES)), document)
    if document["eliminations"]:
        _write_eliminations(book.sheet("Eliminated charges", 34, 34, 16, 10, 18, 18, 14), document)
    if document["rates"]:
        _write_rates(book.sheet("Exchange rates", 12, 16, 12, 14, 14), document)
    return book.content()


def _write_document(sheet: Sheet, document: Any) -> None:
    sheet.write(Heading(wording.heading(document)))
    if not document["number"]:
        sheet.write(wording.DRAFT_SUBJECT)
    sheet.skip()
    for label, party in (("Issuer", document["issuer"]), ("Recipient", document["recipient"])):
        sheet.write(Heading(label), party["legal_name"])
        for text in parties.recipient(party, _FORMATS):
            sheet.write(None, text)
    sheet.skip()
    for name, value in _facts(document).items():
        if value:
            sheet.write(Heading(name), value)
    sheet.skip()
    _write_totals(sheet, document)
    sheet.skip()
    for text in wording.statements(tax["tax_treatment"] for tax in document["taxes"]):
        sheet.write(text)
    if document["note"]:
        sheet.write(document["note"])


def _facts(document: Any) -> Mapping[str, Cell]:
    return {
        wording.number(document["type"]): document["number"],
        "Date": _day(document["issue_date"]),
        "Due date": _day(document["due_date"]),
        "First day of the period": _day(document["period_start"]),
        "First day after the period": _day(document["period_end"]),
        "Credited invoice": document["credited_number"],
        "Date of the credited invoice": _day(document["credited_issue_date"]),
        "Purchase order": ", ".join(document["purchase_order_numbers"]),
        "Contract": ", ".join(document["contract_numbers"]),
        "Currency": document["currency_code"],
    }


def _write_totals(sheet: Sheet, document: Any) -> None:
    currency = document["currency_code"]
    sheet.header("Tax treatment", "Rate", f"Net ({currency})", f"Tax ({currency})", numbers=(1, 2, 3))
    first = sheet.row
    for tax in document["taxes"]:
        sheet.write(*_tax_row(tax, document, sheet.row))
    net, tax, total = (Decimal(document[name]) for name in ("net", "tax", "total"))
    taxes = f"SUM({cell_name(first, 3)}:{cell_name(max(first, sheet.row - 1), 3)})"
    sheet.skip()
    row = sheet.row
    sheet.write(Heading("Net"), None, _checked(_sum_of_lines(document), net, _net_of_lines(document), currency))
    sheet.write(
        Heading("Tax"), None, _checked(taxes, tax, sum(_decimals(document["taxes"], "tax"), Decimal(0)), currency)
    )
    formula = f"{cell_name(row, 2)}+{cell_name(row + 1, 2)}"
    sheet.write(Heading(wording.total(document["type"])), None, _checked(formula, total, net + tax, currency))
    if document["issuer_tax"]:
        issuer_tax = document["issuer_tax"]
        label = f"Total tax in {issuer_tax['currency_code']}"
        sheet.write(Heading(label), None, Amount(Decimal(issuer_tax["amount"]), issuer_tax["currency_code"]))


def _tax_row(tax: Any, document: Any, row: int) -> Iterator[Cell]:
    """Yield the cells of a tax subtotal: its net is a sum over lines, its tax follows from that."""
    currency = document["currency_code"]
    net, amount = Decimal(tax["net"]), Decimal(tax["tax"])
    label = _tax_label(tax)
    lines = [Decimal(line["amount"]) for line in document["lines"] if _tax_label(line) == label]
    yield label
    yield Percentage(tax["tax_rate_bp"])
    criteria = f'SUMIFS({_column(_NET, document)},{_column(_TAX, document)},"{label}")'
    yield _checked(criteria if lines else "0", net, sum(lines, Decimal(0)), currency)
    expected = round_to(net * tax["tax_rate_bp"] / 10_000, currency, ROUND_HALF_UP)
    yield _checked(f"{cell_name(row, 2)}*{cell_name(row, 1)}", amount, expected, currency)


def _checked(formula: str, value: Decimal, computed: Decimal, currency: str) -> Cell:
    """Return a formula, rounded to the currency, whose result is `computed`; the plain value if that is another one.

    The tax of a credit note is such a value: it is what is left of the invoice's tax, not a rate of its net.
    """
    if value != computed:
        return Amount(value, currency)
    decimals = -int(unit(currency).adjusted())
    return Formula(f"=ROUND({formula},{decimals})", Amount(value, currency))


def _column(column: int, document: Any) -> str:
    """Return the cells of a column of the lines."""
    last = _FIRST_LINE + max(len(document["lines"]), 1) - 1
    first = cell_name(_FIRST_LINE, column)
    return f"Lines!{first}:{cell_name(last, column)}"


def _sum_of_lines(document: Any) -> str:
    return f"SUM({_column(_NET, document)})"


def _net_of_lines(document: Any) -> Decimal:
    return sum(_decimals(document["lines"], "amount"), Decimal(0))


def _decimals(rows: Sequence[Any], field: str) -> Iterator[Decimal]:
    return (Decimal(row[field]) for row in rows)


def _tax_label(taxed: Any) -> str:
    """Return the tax of a line or subtotal: treatment and rate."""
    name = wording.treatment(taxed["tax_treatment"])
    return f"{name} {_FORMATS.percent(taxed['tax_rate_bp'])}" if taxed["tax_treatment"] == "STANDARD" else name


def _write_lines(sheet: Sheet, document: Any) -> None:
    currency = document["currency_code"]
    visible = _checked(
        f"SUBTOTAL(109,{_column(_NET, document)})", _net_of_lines(document), _net_of_lines(document), currency
    )
    sheet.write(*[None] * (_NET - 1), Heading("Visible lines"), visible, currency)
    sheet.header(*(title for title, _ in _LINES), numbers=(0, 8, 10, _NET))
    sheet.set_landscape()
    sheet.freeze(len(_LINES))
    for line in document["lines"]:
        original = line["original"]
        sheet.write(
            line["number"],
            wording.line_kind(line["kind"]),
            line["entity_code"],
            line["entity_name"],
            line["department_name"],
            line["gl_code"],
            line["description"],
            line["contract_number"],
            Amount(Decimal(original["amount"]), original["currency_code"]) if original else None,
            original["currency_code"] if original else None,
            Decimal(line["rate"]) if line["rate"] else None,
            Amount(Decimal(line["amount"]), currency),
            _tax_label(line),
        )
    sheet.filter()


def _write_eliminations(sheet: Sheet, document: Any) -> None:
    currency = document["currency_code"]
    titles = (f"Supplier ({currency})", f"Recipient ({currency})", "Difference")
    sheet.header("Supplier", "Recipient", "Original amount", "Currency", *titles, numbers=(2, 4, 5, 6))
    sheet.set_landscape()
    sheet.freeze(7)
    first = sheet.row
    for each in document["eliminations"]:
        row, original = sheet.row, each["original"]
        supplier, buyer = Decimal(each["supplier_amount"]), Decimal(each["buyer_amount"])
        difference = _checked(f"{cell_name(row, 5)}-{cell_name(row, 4)}", buyer - supplier, buyer - supplier, currency)
        sheet.write(
            f"{each['supplier_name']} ({each['supplier_code']})",
            f"{each['buyer_name']} ({each['buyer_code']})",
            Amount(Decimal(original["amount"]), original["currency_code"]),
            original["currency_code"],
            Amount(supplier, currency),
            Amount(buyer, currency),
            difference,
        )
    sheet.filter()
    sums = [sum(_decimals(document["eliminations"], side), Decimal(0)) for side in ("supplier_amount", "buyer_amount")]
    columns = zip(count(4), [*sums, sums[1] - sums[0]], strict=False)
    last = sheet.row - 1
    totals = [
        _checked(f"SUM({cell_name(first, column)}:{cell_name(last, column)})", value, value, currency)
        for column, value in columns
    ]
    sheet.write(Heading("Total"), None, None, None, *totals)
    sheet.skip()
    sheet.write(wording.ELIMINATIONS)


def _write_rates(sheet: Sheet, document: Any) -> None:
    sheet.header("Currency", "Rate", "In", "Used for", "Effective from", numbers=(1,))
    for rate in document["rates"]:
        sheet.write(
            f"1 {rate['source_currency']}",
            Decimal(rate["rate"]),
            rate["target_currency"],
            _day(rate["date"]),
            _day(rate["effective_date"]),
        )
    sheet.skip()
    sheet.write(wording.rate_policy(document["rate_policy"]))


def _day(day: str | None) -> date | None:
    return date.fromisoformat(day) if day else None
