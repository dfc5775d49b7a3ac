"""Validation of tax ids, for the countries that python-stdnum supports."""

from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from typing import Any, Final

from kit.errors import InvalidFields, Violation

TAX_IDS: Final[Mapping[str, Sequence[tuple[str, str]]]] = {
    "AT": [("at.uid", "ATU13585627"), ("at.tin", "59-119/9013")],
    "AU": [("au.abn", "83 914 571 673"), ("au.acn", "004 085 616")],
    "BE": [("be.vat", "BE0428759497")],
    "BG": [("bg.vat", "BG175074752")],
    "BR": [("br.cnpj", "16.727.230/0001-97")],
    "CA": [("ca.bn", "123026635")],
    "CH": [("ch.uid", "CHE-100.155.212"), ("ch.vat", "CHE-107.787.577 IVA")],
    "CY": [("cy.vat", "CY10259033P")],
    "CZ": [("cz.dic", "CZ25123891")],
    "DE": [("de.vat", "DE136695976"), ("de.stnr", "181/815/08155")],
    "DK": [("dk.cvr", "DK13585628")],
    "EE": [("ee.kmkr", "EE100931558"), ("ee.registrikood", "12345678")],
    "ES": [("es.nif", "ESA58818501")],
    "FI": [("fi.alv", "FI20774740"), ("fi.ytunnus", "2077474-0")],
    "FR": [("fr.tva", "FR40303265045"), ("fr.siren", "552008443"), ("fr.siret", "73282932000074")],
    "GB": [("gb.vat", "GB980780684"), ("gb.utr", "1955839661")],
    "GR": [("gr.vat", "EL094259216")],
    "HR": [("hr.oib", "HR33392005961")],
    "HU": [("hu.anum", "HU12892312")],
    "IE": [("ie.vat", "IE6433435F")],
    "IN": [("in_.gstin", "27AAPFU0939F1ZV"), ("in_.pan", "AAPFU0939F")],
    "IT": [("it.iva", "IT00743110157"), ("it.codicefiscale", "RCCMNL83S18D969H")],
    "JP": [("jp.cn", "5-8356-7825-6246")],
    "LI": [("ch.uid", "CHE-100.155.212"), ("ch.vat", "CHE-107.787.577 IVA")],
    "LT": [("lt.pvm", "LT119511515")],
    "LU": [("lu.tva", "LU15027442")],
    "LV": [("lv.pvn", "LV40003521600")],
    "MT": [("mt.vat", "MT11679112")],
    "NL": [("nl.btw", "NL004495445B01")],
    "NO": [("no.mva", "NO995525828MVA"), ("no.orgnr", "988077917")],
    "NZ": [("nz.ird", "49-091-850")],
    "PL": [("pl.nip", "PL8567346215")],
    "PT": [("pt.nif", "PT501964843")],
    "RO": [("ro.cf", "RO18547290")],
    "SE": [("se.vat", "SE123456789701"), ("se.orgnr", "123456-7897")],
    "SG": [("sg.uen", "00192200M")],
    "SI": [("si.ddv", "SI50223054")],
    "SK": [("sk.dph", "SK2022749619")],
    "US": [("us.ein", "91-1144442")],
    "ZA": [("za.tin", "0001339050")],
}
"""The kinds of tax ids of companies by country, each with an example. Spaces, dots and dashes are ignored."""


def check(country_code: str, tax_id: str, *, field: str = "tax_id") -> None:
    """Raise InvalidFields for `field` if the tax id is invalid in the country.

    Empty ids and unsupported countries are accepted.
    """
    kinds = TAX_IDS.get(country_code, ())
    if tax_id and kinds and not any(_module(kind).is_valid(tax_id) for kind, _ in kinds):
        examples = " or ".join(example for _, example in kinds)
        text = f"must be a tax number of {country_code} with the right check digits, such as {examples}; not {tax_id!r}"
        raise InvalidFields([Violation(field, text, "known.tax_id")])


@cache
def _module(kind: str) -> Any:
    """Return the stdnum module of a kind of number; imported at its first use, since there are many."""
    return import_module(f"stdnum.{kind}")
