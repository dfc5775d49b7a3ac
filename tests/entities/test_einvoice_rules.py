"""What a document lacks to be a valid electronic invoice."""

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from kit.money import Money
from services.entities.domain.billing_documents import BillingDocument, DocumentType, LineKind, TaxTreatment
from services.entities.domain.einvoice_rules import EinvoiceProblem, einvoice_problems, national_tax_id, vat_id
from services.entities.domain.entities import Address
from services.entities.domain.parties import BankAccount, ElectronicAddress
from tests.entities.billing_documents import ISSUER, RECIPIENT, amount_line, billing_document, invoice, untaxed

NO_COUNTRY = Address(lines=["Ring 1"], postal_code="", city="Berlin", region="", country_code="")


def rules(problems: list[EinvoiceProblem]) -> dict[str, str]:
    """The violated rules with their fields."""
    return {problem.rule: problem.field for problem in problems}


def of(**fields: Any) -> dict[str, str]:
    """The violated rules of an invoice with these fields."""
    return rules(einvoice_problems(invoice(**fields)))


def not_subject(**fields: Any) -> BillingDocument:
    return invoice(untaxed("1.00", TaxTreatment.NOT_SUBJECT), **fields)


def reverse_charge(**fields: Any) -> BillingDocument:
    return invoice(untaxed("1.00", TaxTreatment.REVERSE_CHARGE), **fields)


class TestProblems:
    def test_a_complete_invoice_has_none(self) -> None:
        assert einvoice_problems(invoice()) == []

    def test_a_draft_of_a_complete_invoice_has_none(self) -> None:
        assert of(number="", issue_date=None, due_date=None) == {}

    @pytest.mark.parametrize(
        ("changes", "rule", "field"),
        [
            ({"legal_name": " "}, "BR-06", "issuer.legal_name"),
            ({"address": None}, "BR-08", "issuer.address"),
            ({"address": NO_COUNTRY}, "BR-09", "issuer.address.country_code"),
            ({"electronic_address": None}, "PEPPOL-EN16931-R020", "issuer.electronic_address"),
            (
                {"electronic_address": ElectronicAddress(scheme="0219", id="1")},
                "BR-CL-25",
                "issuer.electronic_address.scheme",
            ),
            ({"vat_id": ""}, "BR-S-02", "issuer.vat_id"),
            ({"vat_id": "91-1144442", "registration_number": ""}, "BR-CO-26", "issuer.registration_number"),
            ({"bank_account": None}, "BR-61", "issuer.bank_account.iban"),
            ({"bank_account": BankAccount(holder="", iban="", bic="")}, "BR-61", "issuer.bank_account.iban"),
        ],
    )
    def test_what_an_issuer_lacks(self, changes: dict[str, Any], rule: str, field: str) -> None:
        assert of(issuer=replace(ISSUER, **changes)) == {rule: field}

    @pytest.mark.parametrize(
        ("changes", "rule", "field"),
        [
            ({"legal_name": ""}, "BR-07", "recipient.legal_name"),
            ({"address": None}, "BR-11", "recipient.address.country_code"),
            ({"address": NO_COUNTRY}, "BR-11", "recipient.address.country_code"),
            (
                {"electronic_address": ElectronicAddress(scheme="MAIL", id="a@b.example")},
                "BR-CL-25",
                "recipient.electronic_address.scheme",
            ),
        ],
    )
    def test_what_a_recipient_lacks(self, changes: dict[str, Any], rule: str, field: str) -> None:
        assert of(recipient=replace(RECIPIENT, **changes)) == {rule: field}

    def test_a_recipient_needs_no_electronic_address_and_no_vat_id(self) -> None:
        assert of(recipient=replace(RECIPIENT, vat_id="")) == {}

    def test_a_national_tax_id_together_with_a_registration_number_suffices(self) -> None:
        assert of(issuer=replace(ISSUER, vat_id="91-1144442")) == {}

    @pytest.mark.parametrize("vat", ["", "91-1144442"])
    def test_reverse_charge_needs_a_vat_id_or_registration_number_of_the_recipient(self, vat: str) -> None:
        recipient = replace(RECIPIENT, vat_id=vat, registration_number="")
        assert rules(einvoice_problems(reverse_charge(recipient=recipient))) == {"BR-AE-02": "recipient.vat_id"}
        assert einvoice_problems(reverse_charge(recipient=replace(recipient, registration_number="HRB 1"))) == []

    def test_without_vat_id_the_rule_of_the_treatment_is_named(self) -> None:
        assert rules(einvoice_problems(reverse_charge(issuer=replace(ISSUER, vat_id="")))) == {
            "BR-AE-02": "issuer.vat_id"
        }

    def test_lines_not_subject_to_vat_need_the_registration_number_instead(self) -> None:
        assert einvoice_problems(not_subject(issuer=replace(ISSUER, vat_id=""))) == []
        issuer = replace(ISSUER, registration_number="")
        assert rules(einvoice_problems(not_subject(issuer=issuer))) == {"BR-CO-26": "issuer.registration_number"}

    def test_lines_not_subject_to_vat_can_not_be_mixed_with_others(self) -> None:
        mixed = invoice(amount_line("1.00"), untaxed("1.00", TaxTreatment.NOT_SUBJECT))
        problems = einvoice_problems(mixed)
        assert rules(problems) == {"BR-O-11": "lines.tax_treatment"}
        assert "(STANDARD)" in problems[0].description

    def test_an_exchange_difference_goes_with_taxed_lines(self) -> None:
        difference = untaxed("-0.02", TaxTreatment.NOT_SUBJECT, kind=LineKind.EXCHANGE_DIFFERENCE)
        assert einvoice_problems(invoice(amount_line("1.00"), difference)) == []
        assert einvoice_problems(invoice(difference)) == []

    def test_three_decimal_places_can_not_be_expressed(self) -> None:
        issuer = replace(ISSUER, currency_code="BHD")
        problems = einvoice_problems(invoice(currency="BHD", issuer=issuer))
        assert rules(problems) == {"BR-DEC-14": "currency_code"}
        assert "Amounts in BHD have 3 decimal places" in problems[0].description
        assert of(issuer=issuer, issuer_tax=Money(Decimal("1.234"), "BHD")) == {"BR-DEC-15": "issuer_tax"}

    def test_no_decimal_places_are_fine(self) -> None:
        assert of(currency="JPY", issuer=replace(ISSUER, currency_code="JPY")) == {}

    def test_the_tax_is_stated_in_the_currency_of_the_issuer(self) -> None:
        issuer = replace(ISSUER, currency_code="CHF")
        assert of(issuer=issuer) == {"BR-53": "issuer_tax"}
        assert of(issuer=issuer, issuer_tax=Money(Decimal("12.50"), "CHF")) == {}
        assert einvoice_problems(reverse_charge(issuer=issuer)) == []

    def test_nothing_to_pay_needs_no_bank_account(self) -> None:
        issuer = replace(ISSUER, bank_account=None)
        assert einvoice_problems(invoice(amount_line("-5.00"), issuer=issuer)) == []
        note = invoice(amount_line("5.00"), issuer=issuer, type=DocumentType.CREDIT_NOTE, credited_number="A-1")
        assert einvoice_problems(note) == []

    def test_a_credit_note_names_the_invoice(self) -> None:
        assert of(type=DocumentType.CREDIT_NOTE) == {"BR-55": "credited_number"}

    def test_an_invoice_has_lines(self) -> None:
        assert rules(einvoice_problems(billing_document([]))) == {"BR-16": "lines"}

    def test_all_problems_are_listed_at_once(self) -> None:
        issuer = replace(ISSUER, address=None, vat_id="", electronic_address=None, bank_account=None)
        assert of(issuer=issuer, recipient=replace(RECIPIENT, address=None)).keys() == {
            "BR-08",
            "BR-S-02",
            "PEPPOL-EN16931-R020",
            "BR-61",
            "BR-11",
        }


class TestTaxIds:
    @pytest.mark.parametrize(
        ("stored", "vat", "national"),
        [
            ("DE136695976", "DE136695976", ""),
            ("fr 40 303 265 045", "FR40303265045", ""),
            ("CHE-107.787.577 IVA", "CHE107787577IVA", ""),
            ("EL094259216", "EL094259216", ""),
            ("91-1144442", "", "91-1144442"),
            ("181/815/08155", "", "181/815/08155"),
            ("", "", ""),
        ],
    )
    def test_a_vat_id_begins_with_a_country(self, stored: str, vat: str, national: str) -> None:
        party = replace(ISSUER, vat_id=stored)
        assert (vat_id(party), national_tax_id(party)) == (vat, national)
