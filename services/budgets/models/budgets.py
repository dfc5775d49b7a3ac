"""The tables `budgets` and `budget_owners`."""

from datetime import date, datetime
from decimal import Decimal
from uuid import UUID

from sqlalchemy import ARRAY, Boolean, Date, DateTime, Integer, Numeric, String, Uuid
from sqlalchemy.orm import Mapped, mapped_column

from kit import ids
from kit.db import TenantRow, VersionedRow, text_enum
from services.budgets.domain.balances import ZERO, Balance, Terms
from services.budgets.domain.budgets import BudgetState, OverspendPolicy, PeriodType, Rollover

AMOUNT = Numeric(20, 6)
RATE = Numeric()


class OwnerRow(TenantRow):
    """An entity that has budgets, as far as this service has heard; `id` is the entity's."""

    __tablename__ = "budget_owners"
    audited_as = "budget_owner"

    retired: Mapped[bool] = mapped_column(Boolean, default=False)
    """Whether it went out of business; there is no way back."""


class BudgetRow(VersionedRow):
    """A budget. What moves its numbers raises `ledger_version` and leaves `version`, the etag, as it is."""

    __tablename__ = "budgets"
    audited_as = ids.BUDGET

    entity_id: Mapped[UUID] = mapped_column(Uuid)
    department_id: Mapped[UUID | None] = mapped_column(Uuid)
    parent_id: Mapped[UUID | None] = mapped_column(Uuid)
    ancestor_ids: Mapped[list[UUID]] = mapped_column(ARRAY(Uuid), default=list)
    """The budgets above it, nearest first; a budget never moves."""
    name: Mapped[str] = mapped_column(String)
    category: Mapped[str] = mapped_column(String, default="")
    gl_code: Mapped[str] = mapped_column(String, default="")
    period_type: Mapped[PeriodType] = mapped_column(text_enum(PeriodType))
    period_start: Mapped[date] = mapped_column(Date)
    period_end: Mapped[date] = mapped_column(Date)
    period_start_time: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    period_end_time: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    """The moments at which those days begin in its time zone."""
    time_zone: Mapped[str] = mapped_column(String, default="UTC")
    anchor_date: Mapped[date] = mapped_column(Date)
    """First day of the first period of its series, from which all later ones are counted."""
    period_number: Mapped[int] = mapped_column(Integer, default=0)
    previous_id: Mapped[UUID | None] = mapped_column(Uuid)
    """The budget of the period before."""
    recurring: Mapped[bool] = mapped_column(Boolean, default=False)
    rollover: Mapped[Rollover] = mapped_column(text_enum(Rollover), default=Rollover.NONE)
    rollover_cap: Mapped[Decimal | None] = mapped_column(AMOUNT)
    carry_overspend: Mapped[bool] = mapped_column(Boolean, default=False)
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
    """How many entries have moved its balance."""
    forecast_version: Mapped[int | None] = mapped_column(Integer)
    """What that was when its forecast was last looked at and enough was known."""
    state: Mapped[BudgetState] = mapped_column(text_enum(BudgetState))

    @property
    def balance(self) -> Balance:
        """The budget as the rules see it."""
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
