"""The tables of the schema `budgets`."""

from datetime import date, datetime
from decimal import Decimal
from uuid import UUID

from sqlalchemy import ARRAY, Boolean, Date, DateTime, Integer, Numeric, String, Uuid
from sqlalchemy.orm import Mapped, mapped_column

from kit import clock
from kit.db import TenantRow, VersionedRow, enum_column
from kit.money import Money
from services.budgets.domain import (
    AlertState,
    AlertType,
    Balance,
    ChargeVerdict,
    EntryType,
    OverspendPolicy,
    PeriodType,
    State,
)

AMOUNT = Numeric(20, 6)


class OwnerRow(TenantRow):
    """An entity that has budgets, as far as this service has heard; `id` is the entity's."""

    __tablename__ = "budget_owners"

    retired: Mapped[bool] = mapped_column(Boolean, default=False)
    """Whether it went out of business; there is no way back."""


class BudgetRow(VersionedRow):
    """A budget. Charges move `spent` and `ledger_version` and leave `version`, the etag, as it is."""

    __tablename__ = "budgets"

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
    time_zone: Mapped[str] = mapped_column(String, default="UTC")
    currency_code: Mapped[str] = mapped_column(String(3))
    amount: Mapped[Decimal] = mapped_column(AMOUNT)
    spent: Mapped[Decimal] = mapped_column(AMOUNT, default=Decimal(0))
    overspend_policy: Mapped[OverspendPolicy] = mapped_column(enum_column(OverspendPolicy, "overspend_policy"))
    tolerance_bp: Mapped[int] = mapped_column(Integer, default=0)
    alert_thresholds_bp: Mapped[list[int]] = mapped_column(ARRAY(Integer))
    ledger_version: Mapped[int] = mapped_column(Integer, default=0)
    """How many entries have moved its balance."""
    state: Mapped[State] = mapped_column(enum_column(State, "budget_state"))

    @property
    def balance(self) -> Balance:
        """The budget as the rules see it."""
        return Balance(
            id=self.id,
            name=self.name,
            state=self.state,
            policy=self.overspend_policy,
            tolerance_bp=self.tolerance_bp,
            amount=Money(self.amount, self.currency_code),
            spent=Money(self.spent, self.currency_code),
            starts=clock.day_start(self.period_start, self.time_zone),
            ends=clock.day_start(self.period_end, self.time_zone),
            thresholds_bp=self.alert_thresholds_bp,
        )


class EntryRow(TenantRow):
    """An entry of the ledger: a charge on a budget and all above it, or a change of a budget's amount."""

    __tablename__ = "budget_entries"

    entry_type: Mapped[EntryType] = mapped_column(enum_column(EntryType, "entry_type"))
    budget_id: Mapped[UUID] = mapped_column(Uuid)
    chain_ids: Mapped[list[UUID]] = mapped_column(ARRAY(Uuid))
    """The budgets it moved: the one charged, then those above it."""
    chain_versions: Mapped[list[int]] = mapped_column(ARRAY(Integer))
    """`ledger_version` of each of them after it."""
    chain_amounts: Mapped[list[Decimal]] = mapped_column(ARRAY(AMOUNT))
    """Amount of each of them after it."""
    chain_spent: Mapped[list[Decimal]] = mapped_column(ARRAY(AMOUNT))
    """What is spent of each of them after it."""
    amount: Mapped[Decimal] = mapped_column(AMOUNT)
    """What was charged, or by how much the budget's amount was changed; in the budget's currency."""
    currency_code: Mapped[str] = mapped_column(String(3))
    verdict: Mapped[ChargeVerdict | None] = mapped_column(enum_column(ChargeVerdict, "charge_verdict"))
    request_id: Mapped[str | None] = mapped_column(String)
    description: Mapped[str] = mapped_column(String, default="")
    reference: Mapped[str] = mapped_column(String, default="")
    actor: Mapped[str] = mapped_column(String)
    charge_time: Mapped[datetime] = mapped_column(DateTime(timezone=True))


class AlertRow(VersionedRow):
    """A budget passed a mark. One per mark that is not resolved."""

    __tablename__ = "budget_alerts"

    budget_id: Mapped[UUID] = mapped_column(Uuid)
    alert_type: Mapped[AlertType] = mapped_column(enum_column(AlertType, "alert_type"))
    threshold_bp: Mapped[int] = mapped_column(Integer)
    utilisation_bp: Mapped[int] = mapped_column(Integer)
    currency_code: Mapped[str] = mapped_column(String(3))
    amount: Mapped[Decimal] = mapped_column(AMOUNT)
    spent: Mapped[Decimal] = mapped_column(AMOUNT)
    charge_id: Mapped[UUID | None] = mapped_column(Uuid)
    state: Mapped[AlertState] = mapped_column(enum_column(AlertState, "alert_state"), default=AlertState.OPEN)
