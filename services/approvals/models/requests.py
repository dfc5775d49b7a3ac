"""Requests, what was done to them, and who is asked at this moment."""

from datetime import datetime
from decimal import Decimal
from uuid import UUID

from sqlalchemy import ARRAY, DateTime, Integer, LargeBinary, Numeric, String, Uuid
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from kit import ids
from kit.db import Base, TenantRow, VersionedRow, text_enum
from kit.money import Money
from services.approvals.domain.lives import ActionType, ApprovalState, ApprovalType, Funds
from services.approvals.domain.rules import Facts
from services.approvals.domain.seats import Panel
from services.approvals.models.panels import PanelRecord, panel_of


class ApprovalRow(VersionedRow):
    """A request that somebody approves, or does not."""

    __tablename__ = "approval_requests"
    audited_as = ids.APPROVAL

    request_type: Mapped[ApprovalType] = mapped_column(text_enum(ApprovalType))
    title: Mapped[str] = mapped_column(String)
    description: Mapped[str] = mapped_column(String, default="")
    requester: Mapped[str] = mapped_column(String)
    entity_id: Mapped[UUID] = mapped_column(Uuid)
    department_id: Mapped[UUID | None] = mapped_column(Uuid)
    budget_id: Mapped[UUID | None] = mapped_column(Uuid)
    category: Mapped[str] = mapped_column(String, default="")
    amount: Mapped[Decimal | None] = mapped_column(Numeric(20, 6))
    currency_code: Mapped[str | None] = mapped_column(String(3))
    entity_path: Mapped[list[UUID]] = mapped_column(ARRAY(Uuid))
    """The entity and those above it, nearest first, when it was submitted."""
    department_path: Mapped[list[UUID]] = mapped_column(ARRAY(Uuid))
    attributes: Mapped[dict[str, str]] = mapped_column(JSONB)
    subject_type: Mapped[str] = mapped_column(String, default="")
    subject_id: Mapped[str] = mapped_column(String, default="")
    state: Mapped[ApprovalState] = mapped_column(text_enum(ApprovalState))
    round: Mapped[int] = mapped_column(Integer, default=1)
    panel_record: Mapped[PanelRecord] = mapped_column("panel", JSONB)
    hold_id: Mapped[UUID | None] = mapped_column(Uuid)
    funds: Mapped[Funds] = mapped_column(text_enum(Funds), default=Funds.NONE)
    """FAILED in OPENING: its budget refused, and that is being undone."""
    funds_problem: Mapped[str] = mapped_column(String, default="")
    due_time: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    decided_by: Mapped[str] = mapped_column(String, default="")
    decision_comment: Mapped[str] = mapped_column(String, default="")
    end_time: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    opening_key: Mapped[str] = mapped_column(String, default="")
    """The key of the call that made it, with which an opening that was interrupted is found again."""
    opening_digest: Mapped[bytes] = mapped_column(LargeBinary, default=b"")

    @property
    def panel(self) -> Panel:
        """Who is asked, and what they said."""
        return panel_of(self.panel_record)

    @property
    def money(self) -> Money | None:
        """What it costs; None where it is not about money."""
        return None if self.amount is None or self.currency_code is None else Money(self.amount, self.currency_code)

    @property
    def facts(self) -> Facts:
        """What rules look at."""
        return Facts(
            request_type=self.request_type,
            title=self.title,
            requester=self.requester,
            entity_path=tuple(self.entity_path),
            department_path=tuple(self.department_path),
            category=self.category,
            amount=self.money,
            attributes=self.attributes,
        )


class ActionRow(TenantRow):
    """Something that was done to a request; never changed."""

    __tablename__ = "approval_actions"

    approval_id: Mapped[UUID] = mapped_column(Uuid)
    round: Mapped[int] = mapped_column(Integer)
    step: Mapped[int] = mapped_column(Integer)
    action: Mapped[ActionType] = mapped_column(text_enum(ActionType))
    actor: Mapped[str] = mapped_column(String)
    on_behalf_of: Mapped[str] = mapped_column(String, default="")
    target: Mapped[str] = mapped_column(String, default="")
    comment: Mapped[str] = mapped_column(String, default="")


class SeatRow(Base):
    """Somebody whose decision a request waits for: what the inboxes are read from. The panel says the same."""

    __tablename__ = "approval_seats"

    tenant_id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    approval_id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    step: Mapped[int] = mapped_column(Integer, primary_key=True)
    user_id: Mapped[str] = mapped_column(String, primary_key=True)
    role: Mapped[str] = mapped_column(String, primary_key=True)
