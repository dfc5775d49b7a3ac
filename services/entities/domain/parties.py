"""Parties of billing documents: the issuer and the recipient, as they are copied onto each document."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from services.entities.domain.entities import Address


@dataclass(frozen=True, slots=True, kw_only=True)
class ElectronicAddress:
    """Address for electronic invoices (EN 16931, BT-34 and BT-49)."""

    scheme: str
    """Code of the EAS list: "EM" for an e-mail address, "0088" for a GLN, "9930" for a German VAT id."""
    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BankAccount:
    """The account to pay to."""

    holder: str
    """Empty: the legal name of the issuer."""
    iban: str
    bic: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Party:
    """A party of a billing document, with its data as of the day on which they were copied."""

    legal_name: str
    vat_id: str
    """Empty if there is none."""
    registration_number: str
    address: Address | None
    electronic_address: ElectronicAddress | None
    email: str = ""
    phone: str = ""
    contact_name: str = ""
    bank_account: BankAccount | None = None
    """Of the issuer only."""
    currency_code: str = ""
    """Of the issuer: the currency that its taxes are accounted in."""

    @property
    def country_code(self) -> str:
        """Country of the address; empty if it is not known."""
        return self.address["country_code"] if self.address else ""

    def to_record(self) -> dict[str, Any]:
        """Return the party as it is stored in JSON."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "Party":
        """Return the party from its record."""
        address, account = record["electronic_address"], record["bank_account"]
        nested = {
            "electronic_address": ElectronicAddress(**address) if address else None,
            "bank_account": BankAccount(**account) if account else None,
        }
        return cls(**{**record, **nested})
