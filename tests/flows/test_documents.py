"""The sample invoice as a file, through the gateway of the running stack."""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.flows.conftest import Stack

FORMATS = {
    "PDF": ("application/pdf", "pdf", b"%PDF-1.7"),
    "XLSX": ("application/vnd.openxmlformats-officedocument.spreadsheetml.sheet", "xlsx", b"PK"),
    "CSV": ("text/csv; charset=utf-8; header=present", "csv", b"\xef\xbb\xbf"),
    "JSON": ("application/json", "json", b"{"),
    "CII": ("application/xml", "xml", b"<?xml"),
    "UBL": ("application/xml", "xml", b"<?xml"),
    "ZUGFERD": ("application/pdf", "pdf", b"%PDF-1.7"),
}


@pytest.fixture(scope="module")
def finance(stack: Stack) -> Iterator[httpx.Client]:
    with stack.client(ROLE="finance") as client:
        yield client


@pytest.fixture(scope="module")
def invoice(finance: httpx.Client) -> dict[str, Any]:
    (invoice,) = finance.get("/invoices", params={"state": "ISSUED"}).json()["invoices"]
    return dict(invoice)


@pytest.mark.parametrize("file_format", FORMATS)
def test_the_sample_invoice_has_a_file_of_each_format(
    finance: httpx.Client, invoice: dict[str, Any], file_format: str
) -> None:
    media_type, extension, start = FORMATS[file_format]
    first, second = [
        finance.get(f"/invoices/{invoice['id']}/document", params={"format": file_format}) for _ in range(2)
    ]
    assert first.status_code == 200, first.text
    assert first.headers["content-type"] == media_type
    assert first.headers["content-disposition"] == f'attachment; filename="{invoice["number"]}.{extension}"'
    assert first.headers["etag"] == f'"{hashlib.sha256(first.content).hexdigest()}"'
    assert first.content.startswith(start)
    assert second.content == first.content


def test_the_amounts_of_the_file_are_those_of_the_invoice(finance: httpx.Client, invoice: dict[str, Any]) -> None:
    response = finance.get(f"/invoices/{invoice['id']}/document", params={"format": "JSON"})
    record = json.loads(response.content)
    assert {name: record[name] for name in ("net", "tax", "total")} == {
        name: invoice[name]["amount"] for name in ("net", "tax", "total")
    }


def test_an_unknown_format_is_named(finance: httpx.Client, invoice: dict[str, Any]) -> None:
    response = finance.get(f"/invoices/{invoice['id']}/document", params={"format": "pdf"})
    assert response.status_code == 400
    assert "PDF" in response.json()["errors"][0]["detail"]
