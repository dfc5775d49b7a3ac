"""Delegations."""

from datetime import datetime

from sqlalchemy import DateTime, String
from sqlalchemy.orm import Mapped, mapped_column

from kit import ids
from kit.db import VersionedRow


class DelegationRow(VersionedRow):
    """A delegation of approvals."""

    __tablename__ = "delegations"
    audited_as = ids.DELEGATION

    delegator: Mapped[str] = mapped_column(String)
    delegate: Mapped[str] = mapped_column(String)
    start_time: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    end_time: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    reason: Mapped[str] = mapped_column(String)
    created_by: Mapped[str] = mapped_column(String)
    revoke_time: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))

    @property
    def effective_end_time(self) -> datetime:
        """The end time, or the time of the revocation if that is earlier."""
        return min(self.end_time, self.revoke_time) if self.revoke_time else self.end_time
