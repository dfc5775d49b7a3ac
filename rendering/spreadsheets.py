"""Writes XLSX files row by row: typed cells, texts that are never formulas, the same bytes for the same cells."""

import io
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import cache
from typing import Any, Final

import xlsxwriter
from xlsxwriter.utility import xl_rowcol_to_cell

from kit.money import exponent
from rendering.texts import neutral

ROWS_MAX: Final = 1_048_576
_TEXT_MAX: Final = 32_767
_NUMBER: Final = "#,##0"


@dataclass(frozen=True, slots=True)
class Amount:
    """An amount, shown with the decimal places of its currency."""

    amount: Decimal
    currency: str


@dataclass(frozen=True, slots=True)
class Formula:
    """A formula that computes an amount, with the value that it has in our document."""

    formula: str
    value: Amount


@dataclass(frozen=True, slots=True)
class Percentage:
    """A rate in basis points."""

    bp: int


@dataclass(frozen=True, slots=True)
class Heading:
    """A text in bold."""

    text: str


Cell = str | int | date | Decimal | Amount | Formula | Percentage | Heading | None
"""What a cell may have. A Decimal is shown with all its digits, None is an empty cell."""


class Sheet:
    """A sheet that is written from the top to the bottom."""

    def __init__(self, workbook: Any, name: str, widths: Sequence[int], style: Callable[..., Any]) -> None:
        self._sheet = workbook.add_worksheet(name)
        self._style = style
        self.row = 0
        """The next row, counted from 0."""
        for column, width in enumerate(widths):
            self._sheet.set_column(column, column, width)
        self._sheet.set_paper(9)  # A4
        self._sheet.fit_to_pages(1, 0)
        self._sheet.set_footer("&L&A&RPage &P of &N")

    def write(self, *cells: Cell) -> None:
        """Write a row."""
        if self.row >= ROWS_MAX:
            raise ValueError("too many rows")
        for column, cell in enumerate(cells):
            if cell is not None:
                self._write(column, cell)
        self.row += 1

    def skip(self) -> None:
        """Leave a row empty."""
        self.row += 1

    def header(self, *titles: str, numbers: Collection[int] = ()) -> None:
        """Write the titles of columns; those of `numbers` are aligned like their numbers."""
        for column, title in enumerate(titles):
            align = "right" if column in numbers else "left"
            indent = int(align == "left")
            style = self._style(bold=True, bg_color="#EEF2F6", bottom=1, align=align, indent=indent, text_wrap=True)
            self._sheet.write_string(self.row, column, title, style)
        self.row += 1

    def set_landscape(self) -> None:
        """Print in landscape format."""
        self._sheet.set_landscape()

    def freeze(self, columns: int) -> None:
        """Keep the rows written so far in view and on each printed page; each column can be filtered by its title."""
        self._sheet.freeze_panes(self.row, 0)
        self._sheet.repeat_rows(0, self.row - 1)
        self._first_filtered = self.row - 1, columns - 1

    def filter(self) -> None:
        """Add the filter to the rows written since `freeze`."""
        row, column = self._first_filtered
        self._sheet.autofilter(row, 0, max(self.row - 1, row), column)

    def _write(self, column: int, cell: Cell) -> None:
        sheet, row = self._sheet, self.row
        match cell:
            case Heading(text):
                sheet.write_string(row, column, text[:_TEXT_MAX], self._style(bold=True, quote_prefix=True))
            case str():
                quoted = neutral(cell) != cell  # the program keeps it as a text, also when it is edited
                sheet.write_string(row, column, cell[:_TEXT_MAX], self._style(indent=1, quote_prefix=quoted))
            case Amount(amount, currency):
                sheet.write_number(row, column, amount, self._style(num_format=_amount_format(currency)))
            case Formula(formula, Amount(amount, currency)):
                style = self._style(num_format=_amount_format(currency), bold=True)
                sheet.write_formula(row, column, formula, style, amount)
            case Percentage(bp):
                sheet.write_number(row, column, Decimal(bp) / 10_000, self._style(num_format="0.##%"))
            case date():
                sheet.write_datetime(row, column, cell, self._style(num_format="yyyy-mm-dd", align="left", indent=1))
            case Decimal():
                sheet.write_number(row, column, cell)
            case int():
                sheet.write_number(row, column, cell, self._style(num_format="0"))


@cache
def _amount_format(currency: str) -> str:
    places = exponent(currency) or 0
    return f"{_NUMBER}.{'0' * places}" if places else _NUMBER


class Book:
    """An XLSX file in the making."""

    def __init__(self, title: str, author: str, day: date) -> None:
        """`day` is the day of creation in the properties of the file."""
        self._file = io.BytesIO()
        self._workbook = xlsxwriter.Workbook(self._file, {"constant_memory": True})
        created = datetime(day.year, day.month, day.day, tzinfo=UTC)
        self._workbook.set_properties({"title": title, "author": author, "created": created})
        self._styles: dict[tuple[tuple[str, object], ...], Any] = {}

    def sheet(self, name: str, *widths: int) -> Sheet:
        """Add a sheet with columns of these widths in characters; it must be finished before the next one."""
        return Sheet(self._workbook, name, widths, self._style)

    def _style(self, **properties: object) -> Any:
        key = tuple(sorted(properties.items()))
        if key not in self._styles:
            self._styles[key] = self._workbook.add_format(properties)
        return self._styles[key]

    def content(self) -> bytes:
        """Return the finished file."""
        self._workbook.close()
        return self._file.getvalue()


def cell_name(row: int, column: int) -> str:
    """Return the name of a cell with rows and columns that count from 0: "A1"."""
    name: str = xl_rowcol_to_cell(row, column)
    return name
