"""The table `unbudgeted_spend`."""

from datetime import date
from decimal import Decimal
from uuid import UUID

from sqlalchemy import Date, String, Uuid
from sqlalchemy.orm import Mapped, mapped_column

from kit.db import AMOUNT, TenantRow


class UnbudgetedRow(TenantRow):
    """An allocated cost that no budget accepted; a negative amount is the reversal or a credit of such a cost."""

    __tablename__ = "unbudgeted_spend"

    allocation_id: Mapped[UUID] = mapped_column(Uuid)
    reversed_allocation_id: Mapped[UUID | None] = mapped_column(Uuid)
    credited_allocation_id: Mapped[UUID | None] = mapped_column(Uuid)
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
    """The budget that rejected it."""
