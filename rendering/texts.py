"""Texts of users in files that spreadsheet programs open."""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Final

_FORMULA_STARTS: Final = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")
"""A cell that begins with one of these is a formula for some program; the last four are full-width forms."""
_BOM: Final = "\ufeff"
"""Without it Excel does not read UTF-8."""


class Number(str):
    """A plain decimal number, which is written as it is; it may begin with a minus."""

    __slots__ = ()


def neutral(text: str) -> str:
    """Return the text so that no spreadsheet program takes it for a formula."""
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text


def csv_file(header: Sequence[str], rows: Iterable[Sequence[str]]) -> bytes:
    """Return a CSV file (RFC 4180, UTF-8 with byte order mark) with one header line.

    Cells other than a Number are neutralised.
    """
    file = io.StringIO(newline="")
    file.write(_BOM)
    writer = csv.writer(file, lineterminator="\r\n")
    writer.writerow(header)
    writer.writerows([cell if isinstance(cell, Number) else neutral(cell) for cell in row] for row in rows)
    return file.getvalue().encode()
