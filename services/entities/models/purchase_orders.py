"""Table of purchase order warnings."""

from decimal import Decimal
from uuid import UUID

from sqlalchemy import Integer, String, Uuid
from sqlalchemy.orm import Mapped, mapped_column

from kit.db import AMOUNT, TenantRow


class PurchaseOrderWarningRow(TenantRow):
    """A published warning about a purchase order, unique per order, limit and threshold. Rows are never changed."""

    __tablename__ = "purchase_order_warnings"

    contract_id: Mapped[UUID] = mapped_column(Uuid)
    purchase_order_number: Mapped[str] = mapped_column(String)
    purchase_order_limit: Mapped[Decimal] = mapped_column(AMOUNT)
    threshold_bp: Mapped[int] = mapped_column(Integer)
