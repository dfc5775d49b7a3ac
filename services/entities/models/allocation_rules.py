"""Allocation rules, their targets, and what was split."""

from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from typing import TypedDict
from uuid import UUID

from sqlalchemy import CHAR, Date, Integer, Numeric, String, Uuid
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import Mapped, mapped_column

from kit import ids
from kit.db import TenantRow, VersionedRow, text_enum
from kit.money import Money
from services.entities.domain.allocation_rules import Reach, RuleBasis, RuleState, RuleType, Target, Terms


class AllocationRuleRow(VersionedRow):
    """A rule by which costs are split."""

    __tablename__ = "allocation_rules"
    audited_as = ids.ALLOCATION_RULE

    name: Mapped[str] = mapped_column(String)
    rule_type: Mapped[RuleType] = mapped_column(text_enum(RuleType))
    basis: Mapped[RuleBasis | None] = mapped_column(text_enum(RuleBasis))
    usage_unit: Mapped[str] = mapped_column(String)
    usage_category: Mapped[str] = mapped_column(String)
    source_department_id: Mapped[UUID | None] = mapped_column(Uuid)
    """None: it splits costs of any department."""
    category: Mapped[str] = mapped_column(String)
    """Empty: it splits costs of any category."""
    effective_from: Mapped[date] = mapped_column(Date)
    effective_to: Mapped[date | None] = mapped_column(Date)
    """The day after the last one; None: until further notice."""
    state: Mapped[RuleState] = mapped_column(text_enum(RuleState))

    @property
    def reach(self) -> Reach:
        """Which costs it splits."""
        return Reach(
            source_department_id=self.source_department_id,
            category=self.category,
            effective_from=self.effective_from,
            effective_to=self.effective_to,
        )

    def terms(self, targets: Sequence["AllocationTargetRow"]) -> Terms:
        """Over whom it splits them."""
        return Terms(
            rule_type=self.rule_type,
            basis=self.basis,
            usage_unit=self.usage_unit,
            usage_category=self.usage_category,
            targets=tuple(Target(row.department_id, row.percent_bp, row.weight) for row in targets),
        )


class AllocationTargetRow(TenantRow):
    """A department that bears a part of what a rule splits."""

    __tablename__ = "allocation_rule_targets"
    audited_as = "allocation_rule_target"

    rule_id: Mapped[UUID] = mapped_column(Uuid)
    position: Mapped[int] = mapped_column(Integer)
    department_id: Mapped[UUID] = mapped_column(Uuid)
    percent_bp: Mapped[int] = mapped_column(Integer)
    weight: Mapped[Decimal | None] = mapped_column(Numeric(20, 6))


class ShareRecord(TypedDict):
    """What a department bears of a cost, as it is kept; numbers are exact, as text."""

    department_id: str
    entity_id: str
    weight: str
    fraction: str
    amount: str
    allocation_id: str
    """Empty where the amount is zero."""


class CostSplitRow(TenantRow):
    """A cost that was split, with all that it takes to see why each share is what it is; never changed."""

    __tablename__ = "cost_splits"

    source_ref: Mapped[str] = mapped_column(String)
    rule_id: Mapped[UUID | None] = mapped_column(Uuid)
    """None: the targets came with the request."""
    rule_version: Mapped[int | None] = mapped_column(Integer)
    rule_type: Mapped[RuleType] = mapped_column(text_enum(RuleType))
    basis: Mapped[RuleBasis | None] = mapped_column(text_enum(RuleBasis))
    amount: Mapped[Decimal] = mapped_column(Numeric(20, 6))
    currency_code: Mapped[str] = mapped_column(CHAR(3))
    allocation_date: Mapped[date] = mapped_column(Date)
    category: Mapped[str] = mapped_column(String)
    gl_code: Mapped[str] = mapped_column(String)
    description: Mapped[str] = mapped_column(String)
    source_department_id: Mapped[UUID | None] = mapped_column(Uuid)
    split_allocation_id: Mapped[UUID | None] = mapped_column(Uuid)
    """The allocation that was reversed; None: an amount was split."""
    usage_start: Mapped[date | None] = mapped_column(Date)
    usage_end: Mapped[date | None] = mapped_column(Date)
    shares: Mapped[list[ShareRecord]] = mapped_column(JSONB)
    department_ids: Mapped[Sequence[UUID]] = mapped_column(ARRAY(Uuid))
    """All that the split is about: source and targets; who is confined sees it if they cover all of them."""

    @property
    def money(self) -> Money:
        """The whole."""
        return Money(self.amount, self.currency_code)
