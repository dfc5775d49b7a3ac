"""The table `budget_entries`: the ledger."""

from datetime import date, datetime
from decimal import Decimal
from uuid import UUID

from sqlalchemy import ARRAY, Date, DateTime, Integer, Numeric, String, Uuid
from sqlalchemy.orm import Mapped, mapped_column

from kit.db import AMOUNT, TenantRow, text_enum
from services.budgets.domain.balances import ZERO
from services.budgets.domain.entries import ChargeVerdict, EntryType


class EntryRow(TenantRow):
    """An entry of the ledger: a change of one budget, or of a budget and the budgets above it."""

    __tablename__ = "budget_entries"

    entry_type: Mapped[EntryType] = mapped_column(text_enum(EntryType))
    budget_id: Mapped[UUID] = mapped_column(Uuid)
    chain_ids: Mapped[list[UUID]] = mapped_column(ARRAY(Uuid))
    """The budgets that it changed: `budget_id`, then those above it that it counts against."""
    chain_versions: Mapped[list[int]] = mapped_column(ARRAY(Integer))
    """`ledger_version` of each budget of the chain after the entry; the four lists below likewise."""
    chain_amounts: Mapped[list[Decimal]] = mapped_column(ARRAY(AMOUNT))
    """Amount and carried forward."""
    chain_spent: Mapped[list[Decimal]] = mapped_column(ARRAY(AMOUNT))
    chain_held: Mapped[list[Decimal]] = mapped_column(ARRAY(AMOUNT))
    chain_committed: Mapped[list[Decimal]] = mapped_column(ARRAY(AMOUNT))
    amount: Mapped[Decimal] = mapped_column(AMOUNT)
    """The amount charged, held, released and so on; negative only if a budget amount was lowered."""
    currency_code: Mapped[str] = mapped_column(String(3))
    moved_amount: Mapped[Decimal] = mapped_column(AMOUNT, default=ZERO)
    """Change of amount and carried forward of each budget of the chain. The sums of the changes are the balance."""
    moved_spent: Mapped[Decimal] = mapped_column(AMOUNT, default=ZERO)
    moved_held: Mapped[Decimal] = mapped_column(AMOUNT, default=ZERO)
    moved_committed: Mapped[Decimal] = mapped_column(AMOUNT, default=ZERO)
    moved_captured: Mapped[Decimal] = mapped_column(AMOUNT, default=ZERO)
    verdict: Mapped[ChargeVerdict | None] = mapped_column(text_enum(ChargeVerdict))
    hold_id: Mapped[UUID | None] = mapped_column(Uuid)
    charge_id: Mapped[UUID | None] = mapped_column(Uuid)
    """The entry that a refund refunds."""
    counterpart_id: Mapped[UUID | None] = mapped_column(Uuid)
    """The other budget of a transfer or a rollover."""
    original_amount: Mapped[Decimal | None] = mapped_column(AMOUNT)
    original_currency: Mapped[str | None] = mapped_column(String(3))
    rate: Mapped[Decimal | None] = mapped_column(Numeric)
    rate_date: Mapped[date | None] = mapped_column(Date)
    plan_amount: Mapped[Decimal | None] = mapped_column(AMOUNT)
    """The amount at the rate of the first day of the period; equal to `amount` if there is no such rate."""
    request_id: Mapped[str | None] = mapped_column(String)
    description: Mapped[str] = mapped_column(String, default="")
    reference: Mapped[str] = mapped_column(String, default="")
    actor: Mapped[str] = mapped_column(String)
    charge_time: Mapped[datetime] = mapped_column(DateTime(timezone=True))
