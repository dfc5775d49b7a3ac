"""Holds of disputes on lines of invoices."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from kit.money import Money
from services.entities.domain.field_violations import FieldViolation


class HoldKind(StrEnum):
    """What changed the amount that a dispute holds of a line."""

    HELD = "HELD"
    RELEASED = "RELEASED"
    CREDITED = "CREDITED"


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldRequest:
    """Net amounts of lines that a dispute is to hold or to release."""

    invoice_id: UUID
    dispute_id: UUID
    amounts: Mapping[UUID, Money]
    """By line; empty to release everything that the dispute holds."""


def currency_violations(amounts: Mapping[UUID, Money], currency: str) -> Iterator[FieldViolation]:
    """Yield the amounts of lines that are not in the currency of the invoice."""
    for number, amount in enumerate(amounts.values()):
        if amount.currency != currency:
            text = f"must be {currency}, the currency of the invoice"
            yield FieldViolation(f"lines[{number}].amount.currency_code", text, "currency.of_invoice")
