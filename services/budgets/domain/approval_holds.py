"""Approval requests as far as they concern budgets: amounts held for them, overspends and increases. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final
from uuid import UUID

from kit.money import Money
from services.budgets.domain.entries import EntryType


class HoldSettlement(StrEnum):
    """ApprovalFundsSettled.Funds."""

    COMMITTED = "COMMITTED"
    RELEASED = "RELEASED"
    RAISED = "RAISED"
    FAILED = "FAILED"


SETTLEMENTS: Final[Mapping[EntryType, HoldSettlement]] = {
    EntryType.COMMIT: HoldSettlement.COMMITTED,
    EntryType.RELEASE: HoldSettlement.RELEASED,
}
"""What becomes of the hold of an approval request, by the entry that settles it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalOutcome:
    """A round of an approval request that has ended."""

    approval_id: UUID
    round: int
    budget_id: UUID
    hold_id: UUID | None
    """The hold of the round; None for an increase or an overspend."""
    amount: Money | None
    is_increase: bool
    """True if the amount of the budget is to be increased by `amount`."""
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Overspend:
    """A charge or a hold beyond the limit of a budget, for which approval is requested."""

    budget_id: UUID
    amount: Money
    description: str
    reference: str
    key: str
    """Key of the refused request: it opens one approval request, however often it is repeated."""
