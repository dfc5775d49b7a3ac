"""Electronic invoices inside PDFs: ZUGFeRD, the same as Factur-X."""

from datetime import UTC, datetime
from io import BytesIO
from typing import Final

import pytest
from facturx import get_xml_from_pdf
from lxml import etree
from pypdf import PdfReader, PdfWriter
from pypdf.generic import ArrayObject

from services.entities.documents import einvoices
from services.entities.domain.billing_documents import BillingDocument
from services.entities.domain.einvoices import business_terms
from tests.entities.billing_documents import invoice

XMP: Final = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF
 xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about=""
 xmlns:pdfaid="http://www.aiim.org/pdfa/ns/id/">{}<pdfaid:part>3</pdfaid:part><pdfaid:conformance>A</pdfaid:conformance>
</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="r"?>"""
SCHEMAS: Final = """<e:schemas xmlns:e="http://www.aiim.org/pdfa/ns/extension/"><rdf:Bag><rdf:li>another</rdf:li></rdf:Bag></e:schemas>"""
NAMES: Final = {
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "e": "http://www.aiim.org/pdfa/ns/extension/",
    "fx": "urn:factur-x:pdfa:CrossIndustryDocument:invoice:1p0#",
    "pdfaid": "http://www.aiim.org/pdfa/ns/id/",
}


def a_pdf(xmp: str = XMP) -> bytes:
    """A PDF of an empty page with these metadata."""
    writer = PdfWriter()
    writer.add_blank_page(100, 100)
    writer.pdf_header = "%PDF-1.7"
    if xmp:
        writer.xmp_metadata = xmp.encode()
    written = BytesIO()
    writer.write(written)
    return written.getvalue()


def embed(document: BillingDocument, pdf: bytes) -> bytes:
    return einvoices.embed(business_terms(document), pdf)


class TestZugferd:
    def test_the_pdf_has_the_cii_as_alternative(self, caplog: pytest.LogCaptureFixture) -> None:
        sample = invoice()
        pdf = embed(sample, a_pdf())
        reader = PdfReader(BytesIO(pdf), strict=True)
        assert caplog.messages == []
        (file,) = reader.attachment_list
        assert (file.name, file.alternative_name, file.subtype) == ("factur-x.xml", "factur-x.xml", "/text/xml")
        assert file.content == einvoices.cii(business_terms(sample))
        assert file.size == len(file.content)
        assert file.associated_file_relationship == "/Alternative"
        assert file.modification_date == datetime(2026, 11, 2, tzinfo=UTC)
        associated = reader.root_object["/AF"]
        assert isinstance(associated, ArrayObject)
        assert [each.get_object() for each in associated] == [file.pdf_object]
        assert get_xml_from_pdf(pdf, check_xsd=True, check_schematron=False) == ("factur-x.xml", file.content)

    def test_the_rest_of_the_pdf_stays_as_it_is(self) -> None:
        plain = a_pdf()
        pdf = embed(invoice(), plain)
        assert pdf.startswith(plain.rstrip())
        assert len(PdfReader(BytesIO(pdf), strict=True).pages) == 1

    @pytest.mark.parametrize("schemas", ["", SCHEMAS])
    def test_the_metadata_declare_the_profile_and_its_schema(self, schemas: str) -> None:
        pdf = embed(invoice(), a_pdf(XMP.format(schemas)))
        reader = PdfReader(BytesIO(pdf), strict=True)
        text = reader.root_object["/Metadata"].get_data()  # type: ignore[attr-defined]
        assert text.startswith(b"<?xpacket begin=")
        metadata = etree.fromstring(text)
        assert metadata.findtext(".//fx:ConformanceLevel", None, NAMES) == "EN 16931"
        assert metadata.findtext(".//fx:DocumentFileName", None, NAMES) == "factur-x.xml"
        assert metadata.findtext(".//pdfaid:conformance", None, NAMES) == "A"
        assert len(metadata.findall(".//e:schemas", NAMES)) == 1
        assert len(metadata.findall(".//e:schemas/rdf:Bag/rdf:li", NAMES)) == (2 if schemas else 1)

    def test_the_same_document_gives_the_same_bytes(self) -> None:
        assert embed(invoice(), a_pdf()) == embed(invoice(), a_pdf())

    def test_a_pdf_without_metadata_or_with_attachments_is_refused(self) -> None:
        with pytest.raises(ValueError, match="no PDF/A"):
            embed(invoice(), a_pdf(""))
        with pytest.raises(ValueError, match="attachments already"):
            embed(invoice(), embed(invoice(), a_pdf()))
