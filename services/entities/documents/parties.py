"""The issuer and the recipient as documents show them."""

from collections.abc import Iterator, Sequence
from typing import Any

from rendering.locales import Formats


def address(party: Any, formats: Formats) -> Sequence[str]:
    """Return the lines of the postal address."""
    postal = party["address"]
    if not postal:
        return []
    city = " ".join(filter(None, (postal["postal_code"], postal["city"])))
    place = ", ".join(filter(None, (city, postal["region"])))
    return [*filter(None, (*postal["lines"], place, formats.country(postal["country_code"])))]


def details(issuer: Any) -> Sequence[str]:
    """Return tax ids and contact of the issuer."""
    return [*_ids(issuer), *filter(None, (issuer["contact_name"], issuer["phone"], issuer["email"]))]


def sender(issuer: Any) -> str:
    """Return the line above the recipient, which windows of envelopes show."""
    postal = issuer["address"] or {"lines": [], "postal_code": "", "city": ""}
    city = " ".join(filter(None, (postal["postal_code"], postal["city"])))
    return " · ".join(filter(None, (issuer["legal_name"], *postal["lines"][:1], city)))


def recipient(party: Any, formats: Formats) -> Sequence[str]:
    """Return the lines below the name of the recipient."""
    return [*filter(None, (party["contact_name"],)), *address(party, formats), *_ids(party)]


def footer(issuer: Any) -> Sequence[str]:
    """Return what each page shows of the issuer."""
    return [issuer["legal_name"], *_ids(issuer)]


def _ids(party: Any) -> Iterator[str]:
    labelled = (("VAT ID", party["vat_id"]), ("Reg. no.", party["registration_number"]))
    return (f"{label} {value}" for label, value in labelled if value)
