"""Tables of allocation rules and their targets."""

from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from uuid import UUID

from sqlalchemy import Date, Integer, String, Uuid
from sqlalchemy.orm import Mapped, mapped_column

from kit import ids
from kit.db import AMOUNT, TenantRow, VersionedRow, text_enum
from services.entities.domain.allocation_rules import (
    AllocationRuleState,
    RuleBasis,
    RuleScope,
    RuleType,
    SplitTarget,
    SplitTerms,
)


class AllocationRuleRow(VersionedRow):
    """A rule that splits costs."""

    __tablename__ = "allocation_rules"
    audited_as = ids.ALLOCATION_RULE

    name: Mapped[str] = mapped_column(String)
    rule_type: Mapped[RuleType] = mapped_column(text_enum(RuleType))
    basis: Mapped[RuleBasis | None] = mapped_column(text_enum(RuleBasis))
    usage_unit: Mapped[str] = mapped_column(String)
    usage_category: Mapped[str] = mapped_column(String)
    source_department_id: Mapped[UUID | None] = mapped_column(Uuid)
    """None: applies to costs of any department."""
    category: Mapped[str] = mapped_column(String)
    """Empty: applies to costs of any category."""
    effective_from: Mapped[date] = mapped_column(Date)
    effective_to: Mapped[date | None] = mapped_column(Date)
    """First day after the period; None: no end."""
    state: Mapped[AllocationRuleState] = mapped_column(text_enum(AllocationRuleState))

    @property
    def scope(self) -> RuleScope:
        """Which costs the rule applies to."""
        return RuleScope(
            source_department_id=self.source_department_id,
            category=self.category,
            effective_from=self.effective_from,
            effective_to=self.effective_to,
        )

    def terms(self, targets: Sequence["AllocationTargetRow"]) -> SplitTerms:
        """How the rule splits costs."""
        return SplitTerms(
            rule_type=self.rule_type,
            basis=self.basis,
            usage_unit=self.usage_unit,
            usage_category=self.usage_category,
            targets=tuple(SplitTarget(row.department_id, row.percent_bp, row.weight) for row in targets),
        )


class AllocationTargetRow(TenantRow):
    """A department that gets a share of the costs that a rule splits."""

    __tablename__ = "allocation_rule_targets"
    audited_as = "allocation_rule_target"

    rule_id: Mapped[UUID] = mapped_column(Uuid)
    position: Mapped[int] = mapped_column(Integer)
    department_id: Mapped[UUID] = mapped_column(Uuid)
    percent_bp: Mapped[int] = mapped_column(Integer)
    weight: Mapped[Decimal | None] = mapped_column(AMOUNT)
