"""Approval requests, as far as they are about the money of a budget. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final
from uuid import UUID

from kit.money import Money
from services.budgets.domain.entries import EntryType


class Settled(StrEnum):
    """ApprovalFundsSettled.Funds."""

    COMMITTED = "COMMITTED"
    RELEASED = "RELEASED"
    RAISED = "RAISED"
    FAILED = "FAILED"


SETTLEMENTS: Final[Mapping[EntryType, Settled]] = {
    EntryType.COMMIT: Settled.COMMITTED,
    EntryType.RELEASE: Settled.RELEASED,
}
"""What becomes of the hold of an approval request, by the entry that does it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A round of an approval request that ended."""

    approval_id: UUID
    round: int
    budget_id: UUID
    hold_id: UUID | None
    """What is held for it; None where nothing is, since it raises the budget or overspends it."""
    amount: Money | None
    raises: bool
    """Whether it is to raise the budget by its amount."""
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Overspend:
    """What somebody wants to spend beyond the limit of a budget, if that is approved."""

    budget_id: UUID
    amount: Money
    description: str
    reference: str
    key: str
    """Of the request that was refused: it asks for one approval, however often it is repeated."""
