"""Billing documents as XLSX: typed cells, formulas with our values, and the same totals where they are recalculated."""

import csv
import io
import json
import re
import shutil
import subprocess
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
from lxml import etree

from kit.money import Money
from services.entities.documents import xlsx
from services.entities.domain.billing_documents import BillingDocument, DocumentType, TaxTreatment
from services.entities.domain.documents import to_record
from tests.entities.billing_documents import billing_document, draft, full_document, line

_MAIN: Final = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
_VALUE: Final = re.compile(rb"(<f>[^<]*</f>)<v>[^<]*</v>")
_SOFFICE: Final = shutil.which("soffice")


class Cell(NamedTuple):
    """A cell as it is in the file."""

    value: str
    formula: str = ""
    is_text: bool = False


def render(document: BillingDocument) -> bytes:
    return xlsx.render(json.loads(json.dumps(to_record(document))))


def sheets(content: bytes) -> Mapping[str, Mapping[str, Cell]]:
    """The cells of each sheet by their names."""
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        workbook = etree.fromstring(file.read("xl/workbook.xml"))
        names = [sheet.attrib["name"] for sheet in workbook.iter(f"{_MAIN}sheet")]
        parts = [etree.fromstring(file.read(f"xl/worksheets/sheet{n}.xml")) for n in range(1, len(names) + 1)]
    return {
        name: {c.attrib["r"]: cell(c) for c in part.iter(f"{_MAIN}c")} for name, part in zip(names, parts, strict=True)
    }


def cell(element: Any) -> Cell:
    is_text = element.attrib.get("t") == "inlineStr"
    formula, value = element.findtext(f"{_MAIN}f") or "", element.findtext(f"{_MAIN}v") or ""
    return Cell("".join(element.itertext()) if is_text else value, formula, is_text)


def row_of(cells: Mapping[str, Cell], label: str) -> Mapping[str, Cell]:
    """The cells in the row of a label by their columns."""
    (row,) = [name[1:] for name, each in cells.items() if each.value == label and name[0] == "A"]
    return {name[:1]: each for name, each in cells.items() if name[1:] == row}


def column(cells: Mapping[str, Cell], letter: str) -> Sequence[Cell]:
    return [each for name, each in cells.items() if re.fullmatch(rf"{letter}\d+", name)]


class TestCells:
    def test_lines_have_typed_cells(self) -> None:
        document = full_document()
        lines = sheets(render(document))["Lines"]
        nets = [each for each in column(lines, "L") if not each.formula and not each.is_text]
        assert [Decimal(each.value) for each in nets] == [each.amount for each in document.lines]
        assert lines["I6"] == Cell("377000")
        assert lines["K6"] == Cell("0.00666926")
        assert lines["G3"] == Cell("Cloud platform, October", is_text=True)

    def test_sums_are_formulas_with_our_values(self) -> None:
        document = full_document()
        cells = sheets(render(document))
        sheet = cells["Document"]
        net, tax, total = (row_of(sheet, label)["C"] for label in ("Net", "Tax", "Total due"))
        assert (net.formula, Decimal(net.value)) == ("ROUND(SUM(Lines!L3:L9),2)", document.net)
        assert (Decimal(tax.value), Decimal(total.value)) == (document.tax, document.total)
        assert tax.formula.startswith("ROUND(SUM(D")
        standard = row_of(sheet, "Standard 19%")
        assert standard["C"] == Cell("6456.04", 'ROUND(SUMIFS(Lines!L3:L9,Lines!M3:M9,"Standard 19%"),2)')
        assert re.fullmatch(r"ROUND\(C\d+\*B\d+,2\)", standard["D"].formula)
        assert (standard["B"].value, standard["D"].value) == ("0.19", "1226.65")
        assert cells["Lines"]["L1"] == Cell("9607.15", "ROUND(SUBTOTAL(109,Lines!L3:L9),2)")
        assert cells["Eliminated charges"]["G3"] == Cell("-3.20", "ROUND(SUM(G2:G2),2)")

    def test_tax_that_is_no_rate_of_its_net_is_a_value(self) -> None:
        document = billing_document([line(1, "68.33", tax_rate_bp=2000)], type=DocumentType.CREDIT_NOTE)
        (subtotal,) = document.taxes
        assert subtotal.tax == Decimal("13.67")
        last = replace(
            document, taxes=[replace(subtotal, tax=Decimal("13.66"))], tax=Decimal("13.66"), total=Decimal("81.99")
        )
        sheet = sheets(render(last))["Document"]
        assert row_of(sheet, "Standard 20%")["D"] == Cell("13.66")
        assert row_of(sheet, "Total credit")["C"].value == "81.99"

    @pytest.mark.parametrize(
        ("currency", "places", "number_format"), [("JPY", 0, "#,##0"), ("EUR", 2, "#,##0.00"), ("BHD", 3, "#,##0.000")]
    )
    def test_amounts_have_the_decimals_of_the_currency(self, currency: str, places: int, number_format: str) -> None:
        content = render(billing_document([line(1, "1234567"), line(2, "-7")], currency))
        assert f",{places})" in sheets(content)["Lines"]["L1"].formula
        with zipfile.ZipFile(io.BytesIO(content)) as file:
            styles = file.read("xl/styles.xml").decode()
        assert f'formatCode="{number_format}"' in styles

    def test_lines_can_be_filtered_below_a_frozen_head(self) -> None:
        with zipfile.ZipFile(io.BytesIO(render(full_document()))) as file:
            lines = file.read("xl/worksheets/sheet2.xml").decode()
        assert 'topLeftCell="A3" activePane="bottomLeft" state="frozen"' in lines
        assert '<autoFilter ref="A2:M9"' in lines

    def test_a_document_without_lines(self) -> None:
        sheet = sheets(render(billing_document([])))["Document"]
        assert row_of(sheet, "Total due")["C"].value in {"0", "0.00"}

    def test_a_draft_says_so(self) -> None:
        sheet = sheets(render(draft(full_document())))["Document"]
        assert sheet["A1"].value == "Invoice"
        assert sheet["A2"].value.startswith("Draft: ")

    @pytest.mark.parametrize(
        "text",
        ['=HYPERLINK("http://x","y")', "+1", "-1", "@SUM(A1)", "\t=1", "http://x", "\x00\x07", "x" * 40_000, "1e5"],
    )
    def test_texts_stay_texts(self, text: str) -> None:
        content = render(billing_document([line(1, "1.00", description=text, entity_name=text)], note=text))
        lines = sheets(content)["Lines"]
        assert (lines["G3"].is_text, lines["G3"].formula) == (True, "")
        assert len(lines["G3"].value) <= 32_767
        with zipfile.ZipFile(io.BytesIO(content)) as file:
            assert b"hyperlink" not in file.read("xl/worksheets/sheet2.xml")
            assert b"quotePrefix" in file.read("xl/styles.xml")


class TestFile:
    def test_the_time_of_creation_is_the_issue_date(self) -> None:
        with zipfile.ZipFile(io.BytesIO(render(full_document()))) as file:
            properties = file.read("docProps/core.xml").decode()
            assert {entry.date_time for entry in file.infolist()} == {(1980, 1, 31, 0, 0, 0)}
        assert set(re.findall(r"\d{4}-\d\d-\d\dT[\d:]+Z", properties)) == {"2026-11-02T00:00:00Z"}
        assert "<dc:creator>Acme Services GmbH</dc:creator>" in properties


def without_values(content: bytes) -> bytes:
    """The file without the stored results of its formulas."""
    output = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(output, "w") as target:
        for entry in source.infolist():
            target.writestr(entry, _VALUE.sub(rb"\1", source.read(entry)))
    return output.getvalue()


def recalculated(content: bytes, folder: Path) -> Mapping[str, Sequence[Sequence[str]]]:
    """The rows of each sheet as LibreOffice computes and displays them."""
    (folder / "document.xlsx").write_bytes(without_values(content))
    every_sheet = "csv:Text - txt - csv (StarCalc):44,34,76,1,,0,false,false,false,false,false,-1"
    command: list[str | Path] = ["soffice", f"-env:UserInstallation={(folder / 'profile').as_uri()}", "--headless"]
    command += ["--convert-to", every_sheet, "--outdir", folder, folder / "document.xlsx"]
    subprocess.run(command, check=True, capture_output=True, timeout=180)
    return {
        file.stem.removeprefix("document-"): list(csv.reader(file.read_text().splitlines()))
        for file in folder.glob("document-*.csv")
    }


@pytest.mark.skipif(not _SOFFICE, reason="LibreOffice is not installed")
@pytest.mark.parametrize("currency", ["EUR", "JPY", "BHD"])
def test_libreoffice_computes_the_same_values(tmp_path: Path, currency: str) -> None:
    treatments: Any = [
        {"treatment": TaxTreatment.STANDARD, "tax_rate_bp": 1_900},
        {"treatment": TaxTreatment.STANDARD, "tax_rate_bp": 770},
        {"treatment": TaxTreatment.REVERSE_CHARGE, "tax_rate_bp": 0},
    ]
    lines = [
        line(number, str(Decimal(number * (-137 if number % 7 == 0 else 1_115)) / (1 if currency == "JPY" else 100)),
             **treatments[number % 3], original=Money(Decimal(number), "USD"))
        for number in range(1, 200)
    ]  # fmt: skip
    eliminated = replace(full_document().eliminations[0], supplier_amount=Decimal(2_192), buyer_amount=Decimal(2_189))
    document = billing_document(lines, currency, eliminations=[eliminated])
    content = render(document)
    computed = recalculated(content, tmp_path)
    for name, cells in sheets(content).items():
        for place, each in cells.items():
            if each.formula:
                row, col = int(place[1:]) - 1, ord(place[0]) - ord("A")
                assert Decimal(computed[name][row][col]) == Decimal(each.value), (name, place, each.formula)
    totals = {row[0]: row[2] for row in computed["Document"] if len(row) > 2 and row[2]}
    assert Decimal(totals["Total due"]) == document.total
