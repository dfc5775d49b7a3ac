"""What approval rules look at in contracts. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from uuid import UUID

from kit.money import Money
from services.entities.domain.contracts import ContractTerms


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """Something that may have to be approved."""

    request_type: str
    entity_id: UUID
    category: str
    amount: Money
    attributes: Mapping[str, str]


def need_of_amendment(entity_id: UUID, terms: ContractTerms, amendment_type: str, effective: date) -> Need:
    """An amendment of a contract, as approval rules see it; its category and amount are those of the contract."""
    return Need(
        request_type="AMENDMENT",
        entity_id=entity_id,
        category=terms.contract_type.value,
        amount=terms.total_value,
        attributes={"amendment_type": amendment_type, "effective_date": effective.isoformat()},
    )


def need_of(entity_id: UUID, terms: ContractTerms) -> Need:
    """A contract, as approval rules see it; its category is its type."""
    return Need(
        request_type="CONTRACT",
        entity_id=entity_id,
        category=terms.contract_type.value,
        amount=terms.total_value,
        attributes={
            "license_tier": terms.license_tier,
            "auto_renew": str(terms.auto_renew).lower(),
            "billing_frequency": terms.billing_frequency.value,
            "start_date": terms.start_date.isoformat(),
            "end_date": terms.end_date.isoformat() if terms.end_date else "",
        },
    )
