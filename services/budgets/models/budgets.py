"""The tables `budgets` and `budget_owners`."""

from datetime import date, datetime
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from sqlalchemy import ARRAY, Boolean, Date, DateTime, Integer, String, Uuid
from sqlalchemy.orm import Mapped, mapped_column

from kit import ids
from kit.db import AMOUNT, TenantRow, VersionedRow, text_enum
from services.budgets.domain.balances import ZERO, Balance, Terms
from services.budgets.domain.budgets import (
    LATE_POSTING_DAYS_DEFAULT,
    BudgetState,
    OverspendPolicy,
    PeriodType,
    Rollover,
)
from services.budgets.domain.late_postings import RolledOver

_DEFINITION: Final = (
    "entity_id", "department_id", "name", "category", "gl_code", "period_type", "time_zone", "anchor_date",
    "recurring", "rollover", "rollover_cap", "carry_overspend", "late_posting_days", "covers_descendants",
    "currency_code", "amount", "overspend_policy", "tolerance_bp", "alert_thresholds_bp",
)  # fmt: skip


class OwnerRow(TenantRow):
    """An entity that has or had budgets; `id` is the id of the entity."""

    __tablename__ = "budget_owners"
    audited_as = "budget_owner"

    retired: Mapped[bool] = mapped_column(Boolean, default=False)
    """True once the entity is deactivated, which is final."""


class BudgetRow(VersionedRow):
    """A budget. Entries of the ledger raise `ledger_version`; they don't change `version`, the etag."""

    __tablename__ = "budgets"
    audited_as = ids.BUDGET

    entity_id: Mapped[UUID] = mapped_column(Uuid)
    department_id: Mapped[UUID | None] = mapped_column(Uuid)
    parent_id: Mapped[UUID | None] = mapped_column(Uuid)
    ancestor_ids: Mapped[list[UUID]] = mapped_column(ARRAY(Uuid), default=list)
    """The budgets above it, nearest first. A budget is never moved to another parent."""
    name: Mapped[str] = mapped_column(String)
    category: Mapped[str] = mapped_column(String, default="")
    gl_code: Mapped[str] = mapped_column(String, default="")
    period_type: Mapped[PeriodType] = mapped_column(text_enum(PeriodType))
    period_start: Mapped[date] = mapped_column(Date)
    period_end: Mapped[date] = mapped_column(Date)
    """The day after the last one."""
    period_start_time: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    period_end_time: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    """The moments at which `period_start` and `period_end` begin in the time zone."""
    time_zone: Mapped[str] = mapped_column(String, default="UTC")
    anchor_date: Mapped[date] = mapped_column(Date)
    """First day of the first period of the series; all later periods are counted from it."""
    period_number: Mapped[int] = mapped_column(Integer, default=0)
    previous_id: Mapped[UUID | None] = mapped_column(Uuid)
    """The budget of the previous period."""
    recurring: Mapped[bool] = mapped_column(Boolean, default=False)
    rollover: Mapped[Rollover] = mapped_column(text_enum(Rollover), default=Rollover.NONE)
    rollover_cap: Mapped[Decimal | None] = mapped_column(AMOUNT)
    carry_overspend: Mapped[bool] = mapped_column(Boolean, default=False)
    late_posting_days: Mapped[int] = mapped_column(Integer, default=LATE_POSTING_DAYS_DEFAULT)
    """How many days after its period a rolled-over budget accepts postings that are dated in it."""
    covers_descendants: Mapped[bool] = mapped_column(Boolean, default=False)
    """True for a group budget, which is also charged with costs of the entities below its entity."""
    locked_until_time: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    """The first time that no period lock covers, in its time zone; None without a lock."""
    carried_forward: Mapped[Decimal | None] = mapped_column(AMOUNT)
    """Carried forward to the next period, corrections included; like the next two, None until it is rolled over."""
    moved_holds: Mapped[Decimal | None] = mapped_column(AMOUNT)
    """Open holds that moved to the next period, those of the budgets below included."""
    next_amount: Mapped[Decimal | None] = mapped_column(AMOUNT)
    """Amount of the budget of the next period when it was opened."""
    currency_code: Mapped[str] = mapped_column(String(3))
    amount: Mapped[Decimal] = mapped_column(AMOUNT)
    carried: Mapped[Decimal] = mapped_column(AMOUNT, default=ZERO)
    spent: Mapped[Decimal] = mapped_column(AMOUNT, default=ZERO)
    held: Mapped[Decimal] = mapped_column(AMOUNT, default=ZERO)
    committed: Mapped[Decimal] = mapped_column(AMOUNT, default=ZERO)
    captured: Mapped[Decimal] = mapped_column(AMOUNT, default=ZERO)
    overspend_policy: Mapped[OverspendPolicy] = mapped_column(text_enum(OverspendPolicy))
    tolerance_bp: Mapped[int] = mapped_column(Integer, default=0)
    alert_thresholds_bp: Mapped[list[int]] = mapped_column(ARRAY(Integer))
    ledger_version: Mapped[int] = mapped_column(Integer, default=0)
    """Number of entries that have changed its balance."""
    forecast_version: Mapped[int | None] = mapped_column(Integer)
    """`ledger_version` at the last forecast that was based on enough days."""
    state: Mapped[BudgetState] = mapped_column(text_enum(BudgetState))

    @property
    def definition(self) -> dict[str, Any]:
        """The columns that the budget of the next period takes over."""
        return {column: getattr(self, column) for column in _DEFINITION}

    @property
    def balance(self) -> Balance:
        """The balance as a domain value."""
        terms = Terms(
            tenant_id=self.tenant_id,
            id=self.id,
            entity_id=self.entity_id,
            department_id=self.department_id,
            name=self.name,
            state=self.state,
            currency=self.currency_code,
            policy=self.overspend_policy,
            tolerance_bp=self.tolerance_bp,
            starts=self.period_start_time,
            ends=self.period_end_time,
            thresholds_bp=self.alert_thresholds_bp,
            period_start=self.period_start,
            time_zone=self.time_zone,
            locked_until=self.locked_until_time,
        )
        return Balance(
            terms,
            self.amount,
            self.carried,
            self.spent,
            self.held,
            self.committed,
            self.captured,
            self.ledger_version,
        )

    def rolled_over(self, next_id: UUID) -> RolledOver | None:
        """Return the rollover to the budget `next_id`; None if it was not rolled over."""
        if self.carried_forward is None or self.moved_holds is None or self.next_amount is None:
            return None
        return RolledOver(
            next_id,
            self.rollover,
            self.rollover_cap,
            self.carry_overspend,
            self.carried_forward,
            self.moved_holds,
            self.next_amount,
        )
