"""Transfers between budgets: the request. Pure."""

from dataclasses import dataclass
from decimal import Decimal
from uuid import UUID

from kit.money import Money


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferRequest:
    """A transfer as it is asked for."""

    source_id: UUID
    target_id: UUID
    amount: Money
    rate: Decimal | None
    reason: str
