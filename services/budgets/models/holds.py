"""The table `budget_holds`."""

from datetime import date, datetime
from decimal import Decimal
from uuid import UUID

from sqlalchemy import Date, DateTime, Numeric, String, Uuid
from sqlalchemy.orm import Mapped, mapped_column

from kit import ids
from kit.db import VersionedRow, enum_column
from services.budgets.domain.balances import ZERO
from services.budgets.domain.holds import Hold, HoldState

AMOUNT = Numeric(20, 6)
RATE = Numeric()


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
