"""Approval needs: the facts about a contract or an amendment that approval rules are checked against."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from uuid import UUID

from kit.money import Money
from services.entities.domain.contracts import ContractTerms


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalNeed:
    """The facts about a contract or an amendment that approval rules match on."""

    request_type: str
    """Name of an Approval.Type."""
    entity_id: UUID
    category: str
    """The contract type."""
    amount: Money
    attributes: Mapping[str, str]


def of_contract(entity_id: UUID, terms: ContractTerms) -> ApprovalNeed:
    """Return the approval need of a contract."""
    return ApprovalNeed(
        request_type="CONTRACT",
        entity_id=entity_id,
        category=terms.contract_type.value,
        amount=terms.total_value,
        attributes={
            "license_tier": terms.license_tier,
            "auto_renew": str(terms.auto_renew).lower(),
            "billing_frequency": terms.billing_frequency.value,
            "start_date": terms.start_date.isoformat(),
            "end_date": str(terms.end_date or ""),
        },
    )


@dataclass(frozen=True, slots=True)
class ApprovalCheck:
    """An approval need, and whether a rule applies to it."""

    need: ApprovalNeed | None
    """None: the amendment was invalid when it was checked."""
    needed: bool


def of_amendment(
    entity_id: UUID, terms: ContractTerms, amended: ContractTerms, amendment_type: str, effective_date: date
) -> ApprovalNeed:
    """Return the approval need of an amendment that changes `terms` to `amended`.

    Its amount is the larger of the total values before and after.
    """
    old, new = terms.total_value, amended.total_value
    return ApprovalNeed(
        request_type="AMENDMENT",
        entity_id=entity_id,
        category=terms.contract_type.value,
        amount=max(old, new, key=lambda total: total.amount),
        attributes={
            "amendment_type": amendment_type,
            "effective_date": effective_date.isoformat(),
            "old_total_value": old.text(),
            "new_total_value": new.text(),
            "difference": (new - old).text(),
        },
    )
