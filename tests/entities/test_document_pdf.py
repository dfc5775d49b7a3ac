"""Billing documents as PDF: the text of each page has the numbers of the document."""

import io
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from decimal import Decimal
from itertools import chain
from typing import Any, Final
from uuid import uuid4

import pypdf
import pytest

from kit.money import Money
from rendering.errors import DocumentTooLarge
from rendering.renderer import Renderer
from services.entities import service
from services.entities.documents import payments, pdf
from services.entities.domain.billing_documents import BillingDocument, DocumentType, TaxTreatment
from services.entities.domain.documents import DocumentFormat, to_record
from services.entities.domain.parties import BankAccount
from tests.entities.billing_documents import ISSUER, RECIPIENT, billing_document, draft, full_document, line
from tests.entities.random_documents import random_document
from tests.harness.services import Entities, Served

HOSTILE: Final = (
    '#read("/etc/passwd")',
    '#eval("1+1") #{panic()} [#1]',
    "*bold* _emph_ $x^2$ = heading",
    "@ref <label> `raw` ``` ~ -- \\ / // comment /* */",
    '"quotes" \' \\"',
    "x" * 10_000,
    "word " * 2_000,
    "שלום עולם",
    "مرحبا بالعالم",
    "\U0001f600\U0001f468\u200d\U0001f469 emoji",
    "日本語 한국어 ไทย",
    "\u202etxt.exe\u202c",
    "\x00\x07\x1b[31m",
    "{{ template }} ${x} %s",
    "\ufffe\uffff\ue000",
)


def record(document: BillingDocument) -> Any:
    return json.loads(json.dumps(to_record(document)))


def pages(document: BillingDocument) -> Sequence[str]:
    return [page.extract_text() for page in read(pdf.render(record(document))).pages]


def read(content: bytes) -> pypdf.PdfReader:
    return pypdf.PdfReader(io.BytesIO(content))


def number(text: str) -> Decimal:
    return Decimal(text.replace(",", ""))


def many_lines(count: int, entities: int) -> BillingDocument:
    """Lines of 0.01, 0.02, … so that a wrong sum is noticed, each eleventh of them a credit."""
    return billing_document(
        [
            line(
                index,
                str(Decimal(index * 1_237 * (-1 if index % 11 == 0 else 1)) / 100),
                entity_code=f"C-{index * entities // (count + 1)}",
                entity_name=f"Company {index * entities // (count + 1)}",
            )
            for index in range(1, count + 1)
        ]
    )


class TestContent:
    def test_every_field_is_shown(self) -> None:
        document = full_document()
        text = "\n".join(pages(document))
        shown = [
            "Invoice ACME-2026-000042", "Acme Services GmbH", "Hauptstraße 1", "10115 Berlin", "VAT ID DE123456788",
            "Reg. no. HRB 12345 B", "Acme Holding SE", "20095 Hamburg", "VAT ID DE987654324",
            "Nov 2, 2026", "Dec 2, 2026", "Oct 1\u2009–\u200931, 2026", "PO-77120, PO-77121",
            "CON-2026-0007", "1,096.10", "5,480.50", "-120.57",
            "1,000.00\xa0EUR", "377,000\xa0JPY", "241.280\xa0BHD", "0.00666926", "2.65252", "9,607.15", "1,226.65",
            "10,833.80\xa0USD", "1,119.15\xa0EUR", "Reverse charge: the recipient is liable",
            "DE02 1203 0000 0000 2020 51", "BYLADEM1001", "Acme Deutschland GmbH (ACME-DE)",
            "Acme Japan K.K. (ACME-JP)", "2,192.20", "2,189.00",
            "0.91232552 EUR", "Oct 31, 2026", "Oct 30, 2026", "rate of the last day of the period", document.note,
        ]  # fmt: skip
        plain = "".join(text.split())
        assert [each for each in shown if "".join(each.split()) not in plain] == []

    def test_each_page_has_its_number(self) -> None:
        texts = pages(full_document())
        assert [f"Page {page} of {len(texts)}" in text for page, text in enumerate(texts, 1)] == [True] * len(texts)

    def test_drafts_are_marked_on_each_page(self) -> None:
        texts = pages(draft(full_document()))
        assert len(texts) > 1
        assert all("DRAFT" in text for text in texts)
        assert not any("IBAN" in text for text in texts)
        assert not any("DRAFT" in text for text in pages(full_document()))

    @pytest.mark.parametrize(
        ("document_type", "title", "total"),
        [
            (DocumentType.INVOICE, "Invoice", "Total due"),
            (DocumentType.STATEMENT, "Statement of internal charges", "Total"),
            (DocumentType.CREDIT_NOTE, "Credit note", "Total credit"),
        ],
    )
    def test_titles_of_the_types(self, document_type: DocumentType, title: str, total: str) -> None:
        document = billing_document([line(1, "10.00")], type=document_type)
        (text,) = pages(document)
        assert f"{title} ACME-2026-000042" in text
        assert f"{total} 11.90\xa0EUR" in text

    def test_a_credit_note_names_the_invoice_and_no_account(self) -> None:
        document = billing_document(
            [line(1, "10.00")],
            type=DocumentType.CREDIT_NOTE,
            credited_number="ACME-2026-000007",
            credited_issue_date=date(2026, 9, 1),
        )
        (text,) = pages(document)
        assert "Credited invoice ACME-2026-000007\nDate of that invoice Sep 1, 2026" in text
        assert "IBAN" not in text

    @pytest.mark.parametrize(
        ("currency", "net", "tax", "total"),
        [
            ("JPY", "1,234,567", "234,568", "1,469,135"),
            ("EUR", "1,234,567.00", "234,567.73", "1,469,134.73"),
            ("BHD", "1,234,567.000", "234,567.730", "1,469,134.730"),
        ],
    )
    def test_amounts_have_the_decimals_of_the_currency(self, currency: str, net: str, tax: str, total: str) -> None:
        (text,) = pages(billing_document([line(1, "1234567")], currency))
        assert re.search(
            rf"Net {re.escape(net)}\nTax 19% {re.escape(tax)}\nTotal due {re.escape(total)}\xa0{currency}", text
        )

    def test_a_document_without_lines(self) -> None:
        (text,) = pages(billing_document([]))
        assert "no charges in this period" in text
        assert "Total due 0.00" in text

    def test_a_document_with_credits_only_asks_for_no_payment(self) -> None:
        (text,) = pages(billing_document([line(1, "-10.00")]))
        assert "Total due -11.90" in text
        assert "IBAN" not in text

    def test_parties_without_data(self) -> None:
        bare = replace(RECIPIENT, address=None, vat_id="")
        issuer = replace(ISSUER, address=None, vat_id="", registration_number="", email="", phone="", bank_account=None)
        (text,) = pages(billing_document([line(1, "10.00")], issuer=issuer, recipient=bare))
        assert "Acme Holding SE" in text

    def test_treatments_without_a_rate_are_marked(self) -> None:
        lines = [
            line(index, "10.00", treatment=treatment, tax_rate_bp=0)
            for index, treatment in enumerate(TaxTreatment, 1)
            if treatment is not TaxTreatment.STANDARD
        ]
        (text,) = pages(billing_document(lines))
        for statement in ("Reverse charge: the recipient", "Exempt: no tax", "Not subject to tax: charges"):
            assert statement in text


class TestPages:
    @pytest.mark.parametrize(("count", "entities"), [(70, 3), (1_000, 40)])
    def test_sums_are_carried_forward(self, count: int, entities: int) -> None:
        document = many_lines(count, entities)
        texts = pages(document)
        assert len(texts) >= 3
        amounts = {str(each.number): each.amount for each in document.lines}
        total = Decimal(0)
        shown: list[str] = []
        for page, text in enumerate(texts):
            brought = re.search(r"Brought forward (\S+)", text)
            assert (number(brought[1]) if brought else 0) == (total if len(shown) < count else 0), f"page {page + 1}"
            rows = re.findall(r"(?m)^(\d+) Cloud platform\nEngineering · GL 6815\n19% (\S+)$", text)
            for row, amount in rows:
                assert number(amount) == amounts[row]
                total += number(amount)
            shown += [row for row, _ in rows]
            carried = re.search(r"Carried forward (\S+)", text)
            assert (number(carried[1]) if carried else None) == (total if len(shown) < count else None)
            if rows:
                assert "No. Description Tax Net (EUR)" in text
        assert shown == list(amounts)
        assert total == document.net

    def test_subtotals_of_companies_add_up(self) -> None:
        document = many_lines(70, 3)
        subtotals = re.findall(r"Subtotal Company \d (\S+)", "\n".join(pages(document)))
        assert len(subtotals) == 3
        assert sum(map(number, subtotals)) == document.net

    def test_a_company_is_named_again_on_the_next_page(self) -> None:
        for text in pages(many_lines(70, 1))[:2]:
            assert "Company 0 C-0" in text


class TestTexts:
    @pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
    def test_texts_are_shown_and_not_evaluated(self, text: str) -> None:
        issuer = replace(ISSUER, legal_name=f"I {text[:500]}", contact_name=text[:500])
        document = full_document(
            issuer=issuer,
            recipient=replace(RECIPIENT, legal_name=f"R {text[:500]}"),
            lines=[line(1, "1.00", description=text, entity_name=text[:500], department_name=text[:500])],
            note=text,
            number=f"N {text[:50]}",
            purchase_order_numbers=[text[:500]],
        )
        shown = "".join("".join(pages(document)).split()).replace("\u200b", "")
        assert "root:" not in shown
        if text.isascii() and text.isprintable() and len(text) < 100:
            assert "".join(text.split()) in shown

    def test_a_row_higher_than_a_page_goes_on_on_the_next_one(self) -> None:
        text = " ".join(f"w{index}" for index in range(4_000))
        document = billing_document([line(1, "1.00", description=text), line(2, "2.00")])
        shown = [re.findall(r"w\d+", page) for page in pages(document)]
        assert list(chain(*shown)) == text.split()
        assert max(map(len, shown)) < 1_000

    @pytest.mark.parametrize("length", [400, 600, 10_000])
    def test_no_text_reaches_the_foot_of_the_page(self, length: int) -> None:
        foot = 85  # in points: the rule above the foot
        amounts: dict[str, Any] = {
            "amount": "-9999999999999.99",
            "original": Money(Decimal("-9999999999999.999"), "BHD"),
        }
        lines = [line(number, **amounts, description="x " * (length // 2)) for number in (1, 2)]
        heights: list[Decimal] = []

        def visit(text: str, matrix: Sequence[Any], *_: object) -> None:
            if "x x" in text:
                heights.append(matrix[5])

        for page in read(pdf.render(record(billing_document(lines)))).pages:
            page.extract_text(visitor_text=visit)
        assert len(heights) >= length // 40
        assert min(heights) >= foot


class TestFile:
    def test_the_file_is_declared_as_pdf_a_3b(self) -> None:
        reader = read(pdf.render(record(full_document())))
        assert reader.xmp_metadata
        xmp = reader.xmp_metadata.rdf_root.toxml()
        assert "<pdfaid:part>3</pdfaid:part>" in xmp
        assert "<pdfaid:conformance>B</pdfaid:conformance>" in xmp
        assert reader.metadata
        assert (reader.metadata.title, reader.metadata.author) == ("Invoice ACME-2026-000042", "Acme Services GmbH")

    def test_the_creation_date_is_the_issue_date(self) -> None:
        metadata = read(pdf.render(record(full_document()))).metadata
        assert metadata
        assert metadata.creation_date_raw == "D:20261102000000Z"
        metadata = read(pdf.render(record(draft(full_document())))).metadata
        assert metadata
        assert metadata.creation_date_raw == "D:20261101000000Z"

    async def test_the_worker_makes_the_same_bytes(self, entities_served: Served[Entities]) -> None:
        document = many_lines(70, 3)
        renderer = Renderer(entities_served.settings)
        content = await service.documents.render(renderer, uuid4(), document, DocumentFormat.PDF)
        assert content == pdf.render(record(document))

    async def test_a_document_that_needs_too_much_memory_is_refused(self, entities_served: Served[Entities]) -> None:
        settings = entities_served.settings.model_copy(update={"rendering_memory_bytes_max": 160 << 20})
        render = service.documents.render
        assert await render(Renderer(settings), uuid4(), many_lines(3, 1), DocumentFormat.PDF)
        with pytest.raises(DocumentTooLarge):
            await render(Renderer(settings), uuid4(), many_lines(1_000, 1), DocumentFormat.PDF)

    @pytest.mark.parametrize("seed", range(20))
    def test_the_amounts_of_random_documents_are_shown(self, seed: int) -> None:
        document = random_document(seed)
        shown = re.findall(r"-?[\d,]*\d(?:\.\d+)?", "\n".join(pages(document)))
        amounts = [document.net, document.total, *(each.amount for each in document.lines)]
        amounts += [amount for tax in document.taxes for amount in (tax.net, tax.tax)]
        assert set(amounts) - set(map(number, shown)) == set()


class TestPaymentCode:
    def code(self, currency: str = "EUR", **account: str) -> str | None:
        fields = {"holder": "", "iban": "DE02120300000000202051", "bic": "BYLADEM1001"}
        issuer = replace(ISSUER, bank_account=BankAccount(**{**fields, **account}))
        payment = payments.payment(record(billing_document([line(1, "100.00")], currency, issuer=issuer)))
        assert payment
        return payments.code(payment, currency, Decimal("119.00"))

    def test_a_valid_account_in_euro_has_a_code(self) -> None:
        code = self.code()
        assert code
        assert code.startswith("<svg")
        assert code == self.code(holder="Acme Services GmbH")
        assert code != self.code(bic="")

    @pytest.mark.parametrize(
        ("currency", "account"),
        [("USD", {}), ("EUR", {"iban": "DE03120300000000202051"}), ("EUR", {"bic": "TOO LONG FOR A BIC"})],
    )
    def test_other_accounts_have_none(self, currency: str, account: dict[str, str]) -> None:
        assert self.code(currency, **account) is None

    def test_lines_in_a_name_do_not_become_fields(self) -> None:
        payment = payments.Payment(
            holder="Evil\nDE89370400440532013000", iban="DE02120300000000202051", bic="", reference="1"
        )
        assert payments.code(payment, "EUR", Decimal(1)) == payments.code(
            replace(payment, holder="Evil DE89370400440532013000"), "EUR", Decimal(1)
        )

    def test_amounts_outside_of_the_standard_have_none(self) -> None:
        payment = payments.Payment(holder="A", iban="DE02120300000000202051", bic="", reference="1")
        assert payments.code(payment, "EUR", Decimal("999999999.99"))
        assert payments.code(payment, "EUR", Decimal("1000000000.00")) is None
        assert payments.code(payment, "EUR", Decimal("0.00")) is None


def test_money_of_other_currencies_needs_columns() -> None:
    same = billing_document([line(1, "1.00", original=Money(Decimal("1.00"), "EUR"))])
    assert "Original amount" not in pages(same)[0]
    other = billing_document([line(1, "1.00", original=Money(Decimal("1.00"), "USD"), rate=Decimal(1))])
    assert "Original amount" in pages(other)[0]
