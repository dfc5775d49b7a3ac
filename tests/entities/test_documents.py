"""Billing documents as files: CSV and JSON, and how issued documents are stored."""

import csv
import hashlib
import io
import json
import time
from dataclasses import replace
from decimal import Decimal
from uuid import UUID, uuid4

import asyncpg
import pytest
from pypdf import PdfReader

from kit.money import Money
from kit.origin import Origin
from kit.telemetry import Trace
from rendering.renderer import Renderer
from services.entities import service, store
from services.entities.domain.documents import DocumentFormat, file_name, to_record
from services.entities.service.documents import LAYOUTS
from tests.entities.billing_documents import billing_document, draft, full_document, line
from tests.harness.services import Entities, Served


@pytest.fixture
def renderer(entities_served: Served[Entities]) -> Renderer:
    return Renderer(entities_served.settings)


@pytest.fixture
def origin(tenant: UUID) -> Origin:
    return Origin(tenant_id=tenant, actor="alice", trace=Trace.from_header(None), deadline=time.monotonic() + 10)


def csv_rows(content: bytes) -> list[dict[str, str]]:
    assert content.startswith(b"\xef\xbb\xbf")
    return list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline="")))


class TestFormats:
    @pytest.mark.parametrize("file_format", [*LAYOUTS, DocumentFormat.JSON])
    async def test_equal_documents_have_equal_bytes(self, renderer: Renderer, file_format: DocumentFormat) -> None:
        first, second = [
            await service.documents.render(renderer, uuid4(), full_document(), file_format) for _ in range(2)
        ]
        assert first == second
        other = full_document(number="ACME-2026-000043")
        assert await service.documents.render(renderer, uuid4(), other, file_format) != first

    @pytest.mark.parametrize("file_format", DocumentFormat)
    def test_files_are_named_after_the_number(self, file_format: DocumentFormat) -> None:
        document = full_document(number="ACME/2026/42")
        assert file_name(document, file_format) == f"ACME-2026-42.{file_format.extension}"
        assert file_name(draft(document), file_format) == f"draft-invoice-2026-10-01.{file_format.extension}"
        assert "/" in file_format.media_type


class TestJson:
    async def test_json_has_exact_decimal_texts(self, renderer: Renderer) -> None:
        document = full_document()
        content = await service.documents.render(renderer, uuid4(), document, DocumentFormat.JSON)
        record = json.loads(content, parse_float=pytest.fail)
        assert record == to_record(document)
        assert (record["net"], record["tax"], record["total"]) == ("9607.15", "1226.65", "10833.80")
        assert record["issuer_tax"] == {"amount": "1119.15", "currency_code": "EUR"}
        assert record["lines"][3]["original"] == {"amount": "377000", "currency_code": "JPY"}
        assert record["lines"][4]["original"] == {"amount": "241.280", "currency_code": "BHD"}
        assert record["lines"][3]["rate"] == "0.00666926"
        assert record["issuer"]["bank_account"]["iban"] == "DE02120300000000202051"

    async def test_dates_that_are_not_set_are_null(self, renderer: Renderer) -> None:
        record = json.loads(
            await service.documents.render(renderer, uuid4(), draft(full_document()), DocumentFormat.JSON)
        )
        assert (record["number"], record["issue_date"], record["due_date"]) == ("", None, None)


class TestCsv:
    async def test_the_net_amounts_sum_to_the_net_of_the_document(self, renderer: Renderer) -> None:
        document = full_document()
        rows = csv_rows(await service.documents.render(renderer, uuid4(), document, DocumentFormat.CSV))
        assert sum(Decimal(row["net"]) for row in rows) == document.net
        assert [row["net"] for row in rows][2] == "-120.57"
        assert [row["tax_rate_percent"] for row in rows] == ["19", "19", "19", "0", "0", "19", "0"]
        assert (rows[4]["original_amount"], rows[4]["original_currency"]) == ("241.280", "BHD")

    async def test_a_document_without_lines_has_a_header(self, renderer: Renderer) -> None:
        content = await service.documents.render(renderer, uuid4(), billing_document([]), DocumentFormat.CSV)
        assert content.count(b"\r\n") == 1

    @pytest.mark.parametrize(
        "text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "\uff1d1", "\uff0b1", "\uff0d1", "\uff201"]
    )
    async def test_texts_are_no_formulas(self, renderer: Renderer, text: str) -> None:
        document = billing_document([line(1, "-1.00", description=text, entity_name=text)])
        (row,) = csv_rows(await service.documents.render(renderer, uuid4(), document, DocumentFormat.CSV))
        assert (row["description"], row["entity_name"], row["net"]) == (f"'{text}", f"'{text}", "-1.00")

    async def test_texts_are_quoted(self, renderer: Renderer) -> None:
        text = 'a "quoted", text;\r\non two lines \U0001f600 ✓'
        document = billing_document([line(1, "1.00", description=text)])
        content = await service.documents.render(renderer, uuid4(), document, DocumentFormat.CSV)
        assert csv_rows(content)[0]["description"] == text
        assert b'"a ""quoted"", text;\r\non two lines' in content

    async def test_amounts_have_the_decimals_of_their_currency(self, renderer: Renderer) -> None:
        amounts = []
        for currency, amount in (("JPY", "1500"), ("EUR", "1500.5"), ("BHD", "1500.5")):
            lines = [line(1, amount, original=Money(Decimal(-3), currency))]
            document = billing_document(lines, currency)
            (row,) = csv_rows(await service.documents.render(renderer, uuid4(), document, DocumentFormat.CSV))
            amounts.append((row["net"], row["original_amount"]))
        assert amounts == [("1500", "-3"), ("1500.50", "-3.00"), ("1500.500", "-3.000")]


class TestStoredDocuments:
    async def test_the_first_content_stays(self, entities_served: Served[Entities], origin: Origin) -> None:
        invoice_id = uuid4()
        async with entities_served.service.db.write(origin) as tx:
            assert await store.documents.find(tx, invoice_id, DocumentFormat.PDF) is None
            assert await store.documents.insert(tx, invoice_id, DocumentFormat.PDF, b"first")
            assert not await store.documents.insert(tx, invoice_id, DocumentFormat.PDF, b"second")
            assert await store.documents.insert(tx, invoice_id, DocumentFormat.CSV, b"another format")
        async with entities_served.service.db.read(origin) as tx:
            stored = await store.documents.find(tx, invoice_id, DocumentFormat.PDF)
            assert stored
            assert (stored.size, stored.sha256) == (5, hashlib.sha256(b"first").digest())
            parts = [await store.documents.read(tx, stored.id, start, 2) for start in (0, 2, 4, 6)]
        assert parts == [b"fi", b"rs", b"t", b""]

    async def test_another_tenant_does_not_find_it(self, entities_served: Served[Entities], origin: Origin) -> None:
        invoice_id = uuid4()
        async with entities_served.service.db.write(origin) as tx:
            await store.documents.insert(tx, invoice_id, DocumentFormat.PDF, b"first")
        async with entities_served.service.db.read(replace(origin, tenant_id=uuid4())) as tx:
            assert await store.documents.find(tx, invoice_id, DocumentFormat.PDF) is None

    async def test_the_database_refuses_a_wrong_digest(self, admin: "asyncpg.Pool[asyncpg.Record]") -> None:
        insert = (
            "insert into entities.invoice_documents (tenant_id, id, resource_id, format, sha256, size, content,"
            " create_time) values (gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), 'PDF', $1, $2, 'x', now())"
        )
        with pytest.raises(asyncpg.CheckViolationError, match="invoice_documents_digest_check"):
            await admin.execute(insert, hashlib.sha256(b"y").digest(), 1)
        with pytest.raises(asyncpg.CheckViolationError, match="invoice_documents_size_check"):
            await admin.execute(insert, hashlib.sha256(b"x").digest(), 2)


class TestElectronicInvoices:
    @pytest.mark.parametrize("file_format", [DocumentFormat.CII, DocumentFormat.UBL])
    async def test_they_are_rendered_by_the_worker(self, renderer: Renderer, file_format: DocumentFormat) -> None:
        content = await service.documents.render(renderer, uuid4(), full_document(), file_format)
        assert content.startswith(b"<?xml")
        assert b"ACME-2026-000042" in content

    async def test_zugferd_is_the_pdf_with_the_cii_inside(self, renderer: Renderer) -> None:
        document, tenant_id = full_document(), uuid4()
        pdf, xml, both = [
            await service.documents.render(renderer, tenant_id, document, file_format)
            for file_format in (DocumentFormat.PDF, DocumentFormat.CII, DocumentFormat.ZUGFERD)
        ]
        assert both.startswith(pdf.rstrip())
        reader = PdfReader(io.BytesIO(both), strict=True)
        assert [(file.name, file.content) for file in reader.attachment_list] == [("factur-x.xml", xml)]
        assert reader.xmp_metadata is not None
        assert b"<pdfaid:part>3</pdfaid:part>" in reader.xmp_metadata.stream.get_data()
        assert len(reader.pages) == len(PdfReader(io.BytesIO(pdf)).pages)

    async def test_a_draft_has_none(self, renderer: Renderer) -> None:
        with pytest.raises(ValueError, match="It is a draft"):
            await service.documents.render(renderer, uuid4(), draft(full_document()), DocumentFormat.UBL)
