"""The tables of the schema `budgets`."""

from datetime import date, datetime
from decimal import Decimal
from uuid import UUID

from sqlalchemy import ARRAY, Boolean, Date, DateTime, Integer, Numeric, String, Uuid
from sqlalchemy.orm import Mapped, mapped_column

from kit import ids
from kit.db import TenantRow, VersionedRow, enum_column
from services.budgets.domain.balances import ZERO, Balance, Terms
from services.budgets.domain.holds import Hold
from services.budgets.domain.lives import (
    AlertState,
    AlertType,
    ChargeVerdict,
    EntryType,
    HoldState,
    OverspendPolicy,
    PeriodType,
    Rollover,
    State,
)

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
    period_type: Mapped[PeriodType] = mapped_column(enum_column(PeriodType, "period_type"))
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
    rollover: Mapped[Rollover] = mapped_column(enum_column(Rollover, "rollover"), default=Rollover.NONE)
    rollover_cap: Mapped[Decimal | None] = mapped_column(AMOUNT)
    carry_overspend: Mapped[bool] = mapped_column(Boolean, default=False)
    currency_code: Mapped[str] = mapped_column(String(3))
    amount: Mapped[Decimal] = mapped_column(AMOUNT)
    carried: Mapped[Decimal] = mapped_column(AMOUNT, default=ZERO)
    spent: Mapped[Decimal] = mapped_column(AMOUNT, default=ZERO)
    held: Mapped[Decimal] = mapped_column(AMOUNT, default=ZERO)
    committed: Mapped[Decimal] = mapped_column(AMOUNT, default=ZERO)
    captured: Mapped[Decimal] = mapped_column(AMOUNT, default=ZERO)
    overspend_policy: Mapped[OverspendPolicy] = mapped_column(enum_column(OverspendPolicy, "overspend_policy"))
    tolerance_bp: Mapped[int] = mapped_column(Integer, default=0)
    alert_thresholds_bp: Mapped[list[int]] = mapped_column(ARRAY(Integer))
    ledger_version: Mapped[int] = mapped_column(Integer, default=0)
    """How many entries have moved its balance."""
    forecast_version: Mapped[int | None] = mapped_column(Integer)
    """What that was when its forecast was last looked at and enough was known."""
    state: Mapped[State] = mapped_column(enum_column(State, "budget_state"))

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


class EntryRow(TenantRow):
    """An entry of the ledger: what moved the numbers of one budget, or of a budget and all above it."""

    __tablename__ = "budget_entries"

    entry_type: Mapped[EntryType] = mapped_column(enum_column(EntryType, "entry_type"))
    budget_id: Mapped[UUID] = mapped_column(Uuid)
    chain_ids: Mapped[list[UUID]] = mapped_column(ARRAY(Uuid))
    """The budgets it moved: `budget_id`, then those above it that it counts against."""
    chain_versions: Mapped[list[int]] = mapped_column(ARRAY(Integer))
    """`ledger_version` of each of them after it, as the four lists below."""
    chain_amounts: Mapped[list[Decimal]] = mapped_column(ARRAY(AMOUNT))
    """What there is to use: amount and what was carried over."""
    chain_spent: Mapped[list[Decimal]] = mapped_column(ARRAY(AMOUNT))
    chain_held: Mapped[list[Decimal]] = mapped_column(ARRAY(AMOUNT))
    chain_committed: Mapped[list[Decimal]] = mapped_column(ARRAY(AMOUNT))
    amount: Mapped[Decimal] = mapped_column(AMOUNT)
    """What was charged, held, given back and so on; below zero only where an amount was lowered."""
    currency_code: Mapped[str] = mapped_column(String(3))
    moved_amount: Mapped[Decimal] = mapped_column(AMOUNT, default=ZERO)
    """By how much it changed what there is to use of each of the budgets, and so on: their sum is the budget."""
    moved_spent: Mapped[Decimal] = mapped_column(AMOUNT, default=ZERO)
    moved_held: Mapped[Decimal] = mapped_column(AMOUNT, default=ZERO)
    moved_committed: Mapped[Decimal] = mapped_column(AMOUNT, default=ZERO)
    moved_captured: Mapped[Decimal] = mapped_column(AMOUNT, default=ZERO)
    verdict: Mapped[ChargeVerdict | None] = mapped_column(enum_column(ChargeVerdict, "charge_verdict"))
    hold_id: Mapped[UUID | None] = mapped_column(Uuid)
    charge_id: Mapped[UUID | None] = mapped_column(Uuid)
    """The entry that a refund gives back."""
    counterpart_id: Mapped[UUID | None] = mapped_column(Uuid)
    """The other budget of a transfer or a rollover."""
    original_amount: Mapped[Decimal | None] = mapped_column(AMOUNT)
    original_currency: Mapped[str | None] = mapped_column(String(3))
    rate: Mapped[Decimal | None] = mapped_column(RATE)
    rate_date: Mapped[date | None] = mapped_column(Date)
    plan_amount: Mapped[Decimal | None] = mapped_column(AMOUNT)
    """What it would be at the rate of the period's first day; without one, the same as `amount`."""
    request_id: Mapped[str | None] = mapped_column(String)
    description: Mapped[str] = mapped_column(String, default="")
    reference: Mapped[str] = mapped_column(String, default="")
    actor: Mapped[str] = mapped_column(String)
    charge_time: Mapped[datetime] = mapped_column(DateTime(timezone=True))


class HoldRow(VersionedRow):
    """Money of a budget that is set aside."""

    __tablename__ = "budget_holds"
    audited_as = ids.HOLD

    budget_id: Mapped[UUID] = mapped_column(Uuid)
    opened_budget_id: Mapped[UUID] = mapped_column(Uuid)
    """The budget it was made on; it moves on to the next period's with a rollover."""
    amount: Mapped[Decimal] = mapped_column(AMOUNT)
    captured: Mapped[Decimal] = mapped_column(AMOUNT, default=ZERO)
    released: Mapped[Decimal] = mapped_column(AMOUNT, default=ZERO)
    currency_code: Mapped[str] = mapped_column(String(3))
    original_amount: Mapped[Decimal | None] = mapped_column(AMOUNT)
    original_currency: Mapped[str | None] = mapped_column(String(3))
    rate: Mapped[Decimal | None] = mapped_column(RATE)
    rate_date: Mapped[date | None] = mapped_column(Date)
    state: Mapped[HoldState] = mapped_column(enum_column(HoldState, "hold_state"))
    expire_time: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    description: Mapped[str] = mapped_column(String, default="")
    reference: Mapped[str] = mapped_column(String, default="")
    request_id: Mapped[str] = mapped_column(String)
    actor: Mapped[str] = mapped_column(String)
    last_entry_id: Mapped[UUID] = mapped_column(Uuid)
    """The newest entry of the ledger that moved it."""
    approval_id: Mapped[UUID | None] = mapped_column(Uuid)
    """The approval request it is for."""

    @property
    def hold(self) -> Hold:
        """The hold as the rules see it."""
        return Hold(
            id=self.id,
            budget_id=self.budget_id,
            currency=self.currency_code,
            amount=self.amount,
            captured=self.captured,
            released=self.released,
            state=self.state,
            expires=self.expire_time,
        )


class AlertRow(VersionedRow):
    """A budget passed a mark. One per mark that is not resolved."""

    __tablename__ = "budget_alerts"
    audited_as = ids.ALERT

    budget_id: Mapped[UUID] = mapped_column(Uuid)
    alert_type: Mapped[AlertType] = mapped_column(enum_column(AlertType, "alert_type"))
    threshold_bp: Mapped[int] = mapped_column(Integer)
    utilisation_bp: Mapped[int] = mapped_column(Integer)
    currency_code: Mapped[str] = mapped_column(String(3))
    amount: Mapped[Decimal] = mapped_column(AMOUNT)
    spent: Mapped[Decimal] = mapped_column(AMOUNT)
    used: Mapped[Decimal] = mapped_column(AMOUNT)
    """What was spent, held or committed."""
    charge_id: Mapped[UUID | None] = mapped_column(Uuid)
    state: Mapped[AlertState] = mapped_column(enum_column(AlertState, "alert_state"), default=AlertState.OPEN)


class UnbudgetedRow(TenantRow):
    """An allocated cost that no budget took; or, below zero, that such a one was taken back."""

    __tablename__ = "unbudgeted_spend"

    allocation_id: Mapped[UUID] = mapped_column(Uuid)
    reversed_allocation_id: Mapped[UUID | None] = mapped_column(Uuid)
    entity_id: Mapped[UUID] = mapped_column(Uuid)
    department_id: Mapped[UUID | None] = mapped_column(Uuid)
    category: Mapped[str] = mapped_column(String)
    gl_code: Mapped[str] = mapped_column(String)
    amount: Mapped[Decimal] = mapped_column(AMOUNT)
    currency_code: Mapped[str] = mapped_column(String(3))
    allocation_date: Mapped[date] = mapped_column(Date)
    reason: Mapped[str] = mapped_column(String)
    detail: Mapped[str] = mapped_column(String)
    budget_id: Mapped[UUID | None] = mapped_column(Uuid)
    """The budget that refused it."""
