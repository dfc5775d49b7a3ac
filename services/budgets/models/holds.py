"""The table `budget_holds`."""

from dataclasses import fields
from datetime import date, datetime
from decimal import Decimal
from uuid import UUID

from sqlalchemy import Date, DateTime, Numeric, String, Uuid
from sqlalchemy.orm import Mapped, mapped_column

from kit import ids
from kit.db import AMOUNT, VersionedRow, text_enum
from services.budgets.domain.balances import ZERO
from services.budgets.domain.holds import Hold, HoldState


class HoldRow(VersionedRow):
    """An amount reserved in a budget."""

    __tablename__ = "budget_holds"
    audited_as = ids.HOLD

    budget_id: Mapped[UUID] = mapped_column(Uuid)
    opened_budget_id: Mapped[UUID] = mapped_column(Uuid)
    """The budget it was created on; a rollover moves it to the budget of the next period."""
    amount: Mapped[Decimal] = mapped_column(AMOUNT)
    captured: Mapped[Decimal] = mapped_column(AMOUNT, default=ZERO)
    released: Mapped[Decimal] = mapped_column(AMOUNT, default=ZERO)
    currency_code: Mapped[str] = mapped_column(String(3))
    original_amount: Mapped[Decimal | None] = mapped_column(AMOUNT)
    original_currency: Mapped[str | None] = mapped_column(String(3))
    original_open: Mapped[Decimal | None] = mapped_column(AMOUNT)
    rate: Mapped[Decimal | None] = mapped_column(Numeric)
    rate_date: Mapped[date | None] = mapped_column(Date)
    state: Mapped[HoldState] = mapped_column(text_enum(HoldState))
    expire_time: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    description: Mapped[str] = mapped_column(String, default="")
    reference: Mapped[str] = mapped_column(String, default="")
    request_id: Mapped[str] = mapped_column(String)
    actor: Mapped[str] = mapped_column(String)
    last_entry_id: Mapped[UUID] = mapped_column(Uuid)
    """The newest ledger entry that changed it."""
    approval_id: Mapped[UUID | None] = mapped_column(Uuid)
    """The approval request it is for."""

    @property
    def hold(self) -> Hold:
        """The hold as a value."""
        return Hold(**{field.name: getattr(self, field.name) for field in fields(Hold)})
