"""Rules of electronic invoices: what a document lacks to be valid by EN 16931 (CII, UBL, ZUGFeRD).

Ids of rules are those of the norm, such as BR-09; PEPPOL-EN16931-… are rules of the Peppol network. Sums and code lists
need no check here: documents are built so that they hold.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from kit import money
from services.entities.domain.billing_documents import BillingDocument, DocumentType, LineKind, TaxTreatment
from services.entities.domain.parties import Party


def _codes(text: str) -> frozenset[str]:
    return frozenset(text.split())


DECIMALS_MAX: Final = 2
"""Decimal places of all amounts (BR-DEC)."""
ADDRESS_SCHEMES: Final = _codes(
    """
    0002 0007 0009 0037 0060 0088 0096 0097 0106 0130 0135 0142 0147 0151 0154 0158 0170 0177 0183 0184 0188
    0190 0191 0192 0193 0194 0195 0196 0198 0199 0200 0201 0202 0203 0204 0205 0208 0209 0210 0211 0212 0213
    0215 0216 0217 0218 0221 0225 0230 0235 0240 0242 0244 0245 0246 0248 9910 9913 9914 9915 9918 9919 9920
    9922 9923 9924 9925 9926 9927 9928 9929 9930 9931 9932 9933 9934 9935 9936 9937 9938 9939 9940 9941 9942
    9943 9944 9945 9946 9947 9948 9949 9950 9951 9952 9953 9957 9959 AN AQ AS AU EM
    """
)
"""Codes of the EAS list: the schemes of electronic addresses (BR-CL-25)."""
VAT_ID_PREFIXES: Final = _codes(
    """
    AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS BT BV BW BY
    BZ CA CC CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ EC EE EG EH EL ER ES ET FI FJ
    FK FM FO FR GA GB GD GE GF GG GH GI GL GM GN GP GQ GR GS GT GU GW GY HK HM HN HR HT HU ID IE IL IM IN IO IQ
    IR IS IT JE JM JO JP KE KG KH KI KM KN KP KR KW KY KZ LA LB LC LI LK LR LS LT LU LV LY MA MC MD ME MF MG MH
    MK ML MM MN MO MP MQ MR MS MT MU MV MW MX MY MZ NA NC NE NF NG NI NL NO NP NR NU NZ OM PA PE PF PG PH PK PL
    PM PN PR PS PT PW PY QA RE RO RS RU RW SA SB SC SD SE SG SH SI SJ SK SL SM SN SO SR ST SV SX SY SZ TC TD TF
    TG TH TJ TK TL TM TN TO TR TT TV TW TZ UA UG UM US UY UZ VA VC VE VG VI VN VU WF WS XI YE YT ZA ZM ZW
    """
)
"""Prefixes of VAT ids (BR-CO-09): the codes of ISO 3166-1, EL for Greece, XI for Northern Ireland."""
_SELLER_RULES: Final = {
    TaxTreatment.STANDARD: "BR-S-02",
    TaxTreatment.REVERSE_CHARGE: "BR-AE-02",
    TaxTreatment.EXEMPT: "BR-E-02",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class EinvoiceProblem:
    """Something that keeps a document from being a valid electronic invoice."""

    rule: str
    """Id of the violated rule; empty if none has an id."""
    field: str
    """The field to correct, "issuer.vat_id"."""
    description: str


def einvoice_problems(document: BillingDocument) -> list[EinvoiceProblem]:
    """Return what keeps the document, once it is issued, from being a valid electronic invoice; empty if nothing."""
    found = (*_party_problems(document), *_tax_problems(document), *_content_problems(document))
    return [EinvoiceProblem(rule=rule, field=field, description=text) for rule, field, text in found]


def vat_id(party: Party) -> str:
    """Return the VAT id without spaces and punctuation; empty if it has no country prefix, as national tax ids."""
    compact = "".join(filter(str.isalnum, party.vat_id)).upper()
    return compact if compact[:2] in VAT_ID_PREFIXES else ""


def national_tax_id(party: Party) -> str:
    """Return the tax id of a party whose id is no VAT id, as in countries without VAT."""
    return "" if vat_id(party) else party.vat_id.strip()


def is_outside_vat(document: BillingDocument) -> bool:
    """True if the document has charges that are not subject to VAT: then it may not name VAT ids (BR-O-02)."""
    return TaxTreatment.NOT_SUBJECT in _treatments(document)


def requests_payment(document: BillingDocument) -> bool:
    """True if the recipient has to pay."""
    return document.type is not DocumentType.CREDIT_NOTE and document.total > 0


def _treatments(document: BillingDocument) -> frozenset[TaxTreatment]:
    """Return the treatments of the lines. Exchange differences, which carry no tax, go with any other line."""
    all_lines = frozenset(line.treatment for line in document.lines)
    charges = frozenset(line.treatment for line in document.lines if line.kind is not LineKind.EXCHANGE_DIFFERENCE)
    return charges or all_lines


_Found = Iterator[tuple[str, str, str]]
"""Rule, field and description."""


def _party_problems(document: BillingDocument) -> _Found:
    issuer, recipient = document.issuer, document.recipient
    if not issuer.legal_name.strip():
        yield "BR-06", "issuer.legal_name", "The issuer has no legal name."
    if not recipient.legal_name.strip():
        yield "BR-07", "recipient.legal_name", "The recipient has no legal name."
    if not issuer.address:
        yield "BR-08", "issuer.address", "The issuer has no postal address."
    elif not issuer.country_code:
        yield "BR-09", "issuer.address.country_code", "The address of the issuer has no country."
    if not recipient.country_code:
        yield "BR-11", "recipient.address.country_code", "The recipient has no postal address with a country."
    yield from _electronic_address_problems(issuer, "issuer")
    yield from _electronic_address_problems(recipient, "recipient")


def _electronic_address_problems(party: Party, role: str) -> _Found:
    address = party.electronic_address
    if address is None or not address.id.strip():
        if role == "issuer":
            text = "The issuer has no electronic address; networks for electronic invoices require one."
            yield "PEPPOL-EN16931-R020", "issuer.electronic_address", text
    elif address.scheme not in ADDRESS_SCHEMES:
        text = (
            f"{address.scheme!r} is no code of the EAS list, such as EM for an e-mail address, 0088 for a GLN or 9930 "
            "for a German VAT id."
        )
        yield "BR-CL-25", f"{role}.electronic_address.scheme", text


def _tax_problems(document: BillingDocument) -> _Found:
    issuer, treatments = document.issuer, _treatments(document)
    registered = bool(issuer.registration_number.strip())
    if is_outside_vat(document):
        if len(treatments) > 1:
            others = ", ".join(sorted(treatments - {TaxTreatment.NOT_SUBJECT}))
            text = f"A document can't have lines that are NOT_SUBJECT to VAT together with others ({others})."
            yield "BR-O-11", "lines.tax_treatment", text
        if not registered:
            text = (
                "The issuer has no registration number. It is required because a document with lines that are "
                "NOT_SUBJECT to VAT may not name VAT ids (BR-O-02)."
            )
            yield "BR-CO-26", "issuer.registration_number", text
    elif not issuer.vat_id.strip():
        rule = next((_SELLER_RULES[each] for each in TaxTreatment if each in treatments), "BR-CO-26")
        yield rule, "issuer.vat_id", "The issuer has no VAT id."
    elif not vat_id(issuer) and not registered:
        text = (
            f"{issuer.vat_id!r} is no VAT id, which begins with a country code such as DE; so the issuer needs a "
            "registration number."
        )
        yield "BR-CO-26", "issuer.registration_number", text
    recipient = document.recipient
    if TaxTreatment.REVERSE_CHARGE in treatments and not vat_id(recipient) and not recipient.registration_number:
        text = (
            "The recipient owes the tax of lines with REVERSE_CHARGE, so it needs a VAT id with its country code, or a "
            "registration number."
        )
        yield "BR-AE-02", "recipient.vat_id", text
    if document.issuer_tax is None and document.tax and issuer.currency_code not in {"", document.currency}:
        text = f"The tax is not stated in {issuer.currency_code}, the currency that the issuer accounts its taxes in."
        yield "BR-53", "issuer_tax", text


def _content_problems(document: BillingDocument) -> _Found:
    if not document.lines:
        yield "BR-16", "lines", "The document has no lines."
    if (money.exponent(document.currency) or 0) > DECIMALS_MAX:
        text = (
            f"Amounts in {document.currency} have {money.exponent(document.currency)} decimal places; electronic "
            "invoices allow two. Invoice in another currency."
        )
        yield "BR-DEC-14", "currency_code", text
    tax = document.issuer_tax
    if tax is not None and (money.exponent(tax.currency) or 0) > DECIMALS_MAX:
        text = (
            f"The tax in {tax.currency} has {money.exponent(tax.currency)} decimal places; electronic invoices allow "
            "two. Only an invoice in the currency of its issuer does without."
        )
        yield "BR-DEC-15", "issuer_tax", text
    account = document.issuer.bank_account
    if requests_payment(document) and (account is None or not account.iban.strip()):
        yield "BR-61", "issuer.bank_account.iban", "The issuer has no bank account (IBAN) that could be paid to."
    if document.type is DocumentType.CREDIT_NOTE and not document.credited_number:
        yield "BR-55", "credited_number", "The credit note does not name the invoice that it credits."
