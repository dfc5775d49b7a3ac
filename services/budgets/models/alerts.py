"""The table `budget_alerts`."""

from decimal import Decimal
from uuid import UUID

from sqlalchemy import Integer, String, Uuid
from sqlalchemy.orm import Mapped, mapped_column

from kit import ids
from kit.db import AMOUNT, VersionedRow, text_enum
from services.budgets.domain.alerts import AlertState, AlertType


class AlertRow(VersionedRow):
    """An alert. At most one per threshold of a budget is not resolved."""

    __tablename__ = "budget_alerts"
    audited_as = ids.ALERT

    budget_id: Mapped[UUID] = mapped_column(Uuid)
    alert_type: Mapped[AlertType] = mapped_column(text_enum(AlertType))
    threshold_bp: Mapped[int] = mapped_column(Integer)
    utilisation_bp: Mapped[int] = mapped_column(Integer)
    currency_code: Mapped[str] = mapped_column(String(3))
    amount: Mapped[Decimal] = mapped_column(AMOUNT)
    spent: Mapped[Decimal] = mapped_column(AMOUNT)
    used: Mapped[Decimal] = mapped_column(AMOUNT)
    """Spent, held and committed when it was raised; of a FORECAST alert, the expected spend."""
    charge_id: Mapped[UUID | None] = mapped_column(Uuid)
    state: Mapped[AlertState] = mapped_column(text_enum(AlertState), default=AlertState.OPEN)
