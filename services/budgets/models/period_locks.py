"""The table `period_locks`."""

from datetime import date
from uuid import UUID

from sqlalchemy import Date, String, Uuid
from sqlalchemy.orm import Mapped, mapped_column

from kit.db import VersionedRow


class PeriodLockRow(VersionedRow):
    """The lock of the past of an entity, or of the whole tenant; at most one of each."""

    __tablename__ = "period_locks"
    audited_as = "period_lock"

    entity_id: Mapped[UUID | None] = mapped_column(Uuid)
    """None: the whole tenant."""
    locked_until: Mapped[date] = mapped_column(Date)
    """The first day that is open."""
    reason: Mapped[str] = mapped_column(String)
    actor: Mapped[str] = mapped_column(String)
