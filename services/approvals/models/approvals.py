"""Approval requests, their history, and the pending approver slots."""

from datetime import datetime
from decimal import Decimal
from uuid import UUID

from sqlalchemy import ARRAY, Boolean, DateTime, Integer, LargeBinary, String, Uuid
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from kit import ids
from kit.db import AMOUNT, Base, TenantRow, VersionedRow, text_enum
from kit.money import Money
from services.approvals import models
from services.approvals.domain.approvals import ActionType, ApprovalState, ApprovalType, ReservationState
from services.approvals.domain.rules import Facts
from services.approvals.domain.workflows import Workflow
from services.approvals.models.workflows import WorkflowRecord


class ApprovalRow(VersionedRow):
    """An approval request."""

    __tablename__ = "approval_requests"
    audited_as = ids.APPROVAL

    request_type: Mapped[ApprovalType] = mapped_column(text_enum(ApprovalType))
    requested_type: Mapped[ApprovalType | None] = mapped_column(text_enum(ApprovalType))
    """Type before `overspend` turned the request into a BUDGET_OVERSPEND; None in rows from before this column."""
    overspend: Mapped[bool] = mapped_column(Boolean, default=False)
    title: Mapped[str] = mapped_column(String)
    description: Mapped[str] = mapped_column(String, default="")
    requester: Mapped[str] = mapped_column(String)
    entity_id: Mapped[UUID] = mapped_column(Uuid)
    department_id: Mapped[UUID | None] = mapped_column(Uuid)
    budget_id: Mapped[UUID | None] = mapped_column(Uuid)
    category: Mapped[str] = mapped_column(String, default="")
    amount: Mapped[Decimal | None] = mapped_column(AMOUNT)
    currency_code: Mapped[str | None] = mapped_column(String(3))
    entity_path: Mapped[list[UUID]] = mapped_column(ARRAY(Uuid))
    """The entity and its ancestors when the request was submitted, nearest first."""
    department_path: Mapped[list[UUID]] = mapped_column(ARRAY(Uuid))
    attributes: Mapped[dict[str, str]] = mapped_column(JSONB)
    subject_type: Mapped[str] = mapped_column(String, default="")
    subject_id: Mapped[str] = mapped_column(String, default="")
    state: Mapped[ApprovalState] = mapped_column(text_enum(ApprovalState))
    round: Mapped[int] = mapped_column(Integer, default=1)
    workflow_record: Mapped[WorkflowRecord] = mapped_column("panel", JSONB)
    hold_id: Mapped[UUID | None] = mapped_column(Uuid)
    funds: Mapped[ReservationState] = mapped_column(text_enum(ReservationState), default=ReservationState.NONE)
    """FAILED in the state OPENING: the budget rejected the hold, and the opening is being rolled back."""
    funds_problem: Mapped[str] = mapped_column(String, default="")
    due_time: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    decided_by: Mapped[str] = mapped_column(String, default="")
    decision_comment: Mapped[str] = mapped_column(String, default="")
    end_time: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    opening_key: Mapped[str] = mapped_column(String, default="")
    """Idempotency key of the call that created the request; used to find an interrupted opening."""
    opening_digest: Mapped[bytes] = mapped_column(LargeBinary, default=b"")

    @property
    def workflow(self) -> Workflow:
        """The steps, approver slots and decisions of the current round."""
        return models.workflows.from_record(self.workflow_record)

    @workflow.setter
    def workflow(self, workflow: Workflow) -> None:
        self.workflow_record = models.workflows.to_record(workflow)

    @property
    def money(self) -> Money | None:
        """The requested amount; None if there is none."""
        return None if self.amount is None or self.currency_code is None else Money(self.amount, self.currency_code)

    @property
    def facts(self) -> Facts:
        """The properties that rules match."""
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
    """An entry of the history of a request. Append-only."""

    __tablename__ = "approval_actions"

    approval_id: Mapped[UUID] = mapped_column(Uuid)
    round: Mapped[int] = mapped_column(Integer)
    step: Mapped[int] = mapped_column(Integer)
    action: Mapped[ActionType] = mapped_column(text_enum(ActionType))
    actor: Mapped[str] = mapped_column(String)
    on_behalf_of: Mapped[str] = mapped_column(String, default="")
    target: Mapped[str] = mapped_column(String, default="")
    comment: Mapped[str] = mapped_column(String, default="")


class PendingSlotRow(Base):
    """A pending approver slot of a request: an index over the stored workflows, for the lists of approvers."""

    __tablename__ = "approval_seats"

    tenant_id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    approval_id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    step: Mapped[int] = mapped_column(Integer, primary_key=True)
    user_id: Mapped[str] = mapped_column(String, primary_key=True)
    role: Mapped[str] = mapped_column(String, primary_key=True)
    barred: Mapped[list[str]] = mapped_column(ARRAY(String))
    """Users who can't decide the slot, whatever their roles and delegations."""
