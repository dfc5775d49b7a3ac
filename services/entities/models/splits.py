"""Table of costs that were split."""

from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from typing import NamedTuple, NotRequired, TypedDict
from uuid import UUID

from sqlalchemy import CHAR, Date, Integer, String, Uuid
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import Mapped, mapped_column

from kit import ids
from kit.db import AMOUNT, TenantRow, text_enum
from kit.money import Money
from services.entities.domain.allocation_rules import RuleBasis, RuleType


class ShareRecord(TypedDict):
    """The share of a department as it is stored, with exact numbers as text."""

    department_id: str
    entity_id: str
    weight: str
    fraction: str
    amount: str
    entity_amount: NotRequired[str]
    """Missing in splits of earlier versions, like its currency."""
    entity_currency_code: NotRequired[str]
    allocation_id: str
    """Empty if the amount is zero."""


class CostSplitRow(TenantRow):
    """A cost that was split, with everything needed to explain each share; never changed."""

    __tablename__ = "cost_splits"

    source_ref: Mapped[str] = mapped_column(String)
    source_ref_sequence: Mapped[int] = mapped_column(Integer)
    """1 for the first split of the cost, one more for each that follows the reversal of the one before."""
    rule_id: Mapped[UUID | None] = mapped_column(Uuid)
    """None: the terms were part of the request."""
    rule_version: Mapped[int | None] = mapped_column(Integer)
    rule_type: Mapped[RuleType] = mapped_column(text_enum(RuleType))
    basis: Mapped[RuleBasis | None] = mapped_column(text_enum(RuleBasis))
    amount: Mapped[Decimal] = mapped_column(AMOUNT)
    currency_code: Mapped[str] = mapped_column(CHAR(3))
    allocation_date: Mapped[date] = mapped_column(Date)
    category: Mapped[str] = mapped_column(String)
    gl_code: Mapped[str] = mapped_column(String)
    description: Mapped[str] = mapped_column(String)
    source_department_id: Mapped[UUID | None] = mapped_column(Uuid)
    split_allocation_id: Mapped[UUID | None] = mapped_column(Uuid)
    """The allocation that was split and reversed; None: an amount was split."""
    usage_start: Mapped[date | None] = mapped_column(Date)
    usage_end: Mapped[date | None] = mapped_column(Date)
    shares: Mapped[list[ShareRecord]] = mapped_column(JSONB)
    department_ids: Mapped[Sequence[UUID]] = mapped_column(ARRAY(Uuid))
    """The source and all targets: a confined caller sees the split if their scope covers all of these."""

    @property
    def allocation_ids(self) -> Sequence[UUID]:
        """The allocations of the shares."""
        return [ids.ALLOCATION.parse(share["allocation_id"]) for share in self.shares if share["allocation_id"]]

    @property
    def money(self) -> Money:
        """The whole amount."""
        return Money(self.amount, self.currency_code)


class CostSplitReversalRow(TenantRow):
    """The reversal of a split as a whole; never changed."""

    __tablename__ = "cost_split_reversals"
    audited_as = "cost_split_reversal"

    split_id: Mapped[UUID] = mapped_column(Uuid)
    reason: Mapped[str] = mapped_column(String)
    allocation_date: Mapped[date] = mapped_column(Date)
    """Date of the reversals of the shares, and of the restored allocation."""
    restored_allocation_id: Mapped[UUID | None] = mapped_column(Uuid)
    """The allocation that has the cost again; None if no allocation was split, or if nothing was left of the shares."""
    actor: Mapped[str] = mapped_column(String)


class ReversibleSplit(NamedTuple):
    """A split, and its reversal if there is one."""

    split: CostSplitRow
    reversal: CostSplitReversalRow | None
