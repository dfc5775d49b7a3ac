"""Tables of entities and departments, and of their history."""

from collections.abc import Sequence
from datetime import date, datetime
from typing import Any, TypeAlias
from uuid import UUID

from sqlalchemy import ARRAY, Date, DateTime, Integer, String, Uuid, func
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from kit import ids
from kit.db import TenantRow, VersionedRow, text_enum
from services.entities.domain.departments import ActiveDays, DepartmentState
from services.entities.domain.entities import Address, Consolidation, EntityState, EntityType
from services.entities.domain.placements import Placement


class EntityRow(VersionedRow):
    """A legal entity of the group."""

    __tablename__ = "billing_entities"
    audited_as = ids.ENTITY

    parent_id: Mapped[UUID | None] = mapped_column(Uuid)
    code: Mapped[str] = mapped_column(String)
    legal_name: Mapped[str] = mapped_column(String)
    display_name: Mapped[str] = mapped_column(String)
    """Empty: the legal name is used."""
    entity_type: Mapped[EntityType] = mapped_column(text_enum(EntityType))
    currency_code: Mapped[str] = mapped_column(String(3))
    country_code: Mapped[str] = mapped_column(String(2))
    tax_id: Mapped[str] = mapped_column(String)
    registration_number: Mapped[str] = mapped_column(String)
    tax_rate_bp: Mapped[int] = mapped_column(Integer)
    address: Mapped[Address | None] = mapped_column(JSONB(none_as_null=True))
    time_zone: Mapped[str] = mapped_column(String)
    fiscal_year_start_month: Mapped[int] = mapped_column(Integer)
    payment_terms_days: Mapped[int] = mapped_column(Integer)
    invoice_prefix: Mapped[str] = mapped_column(String)
    consolidation: Mapped[Consolidation] = mapped_column(text_enum(Consolidation))
    state: Mapped[EntityState] = mapped_column(text_enum(EntityState))
    labels: Mapped[dict[str, str]] = mapped_column("metadata", JSONB)
    """The field `metadata`; SQLAlchemy reserves that attribute name."""
    controller_user_id: Mapped[str] = mapped_column(String, default="")
    """Responsible for the entity's finances; empty: the controller of the parent is."""


EntityColumns: TypeAlias = Any
"""A named tuple with the columns of an EntityRow, with JSON and enums as text.

Used for thousands of entities at a time, where mapped rows are slow."""


class EntityHistoryRow(TenantRow):
    """A time range in which an entity had one parent, or none. The audit log records it as changes of the entity."""

    __tablename__ = "entity_history"

    entity_id: Mapped[UUID] = mapped_column(Uuid)
    parent_id: Mapped[UUID | None] = mapped_column(Uuid)
    start_time: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=func.clock_timestamp())
    """By the clock of the database, so that moves of all replicas have one order."""
    end_time: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    """Start of the next range; None if this is the current one."""


class DepartmentRow(VersionedRow):
    """A department of an entity."""

    __tablename__ = "departments"
    audited_as = ids.DEPARTMENT

    entity_id: Mapped[UUID] = mapped_column(Uuid)
    parent_id: Mapped[UUID | None] = mapped_column(Uuid)
    code: Mapped[str] = mapped_column(String)
    name: Mapped[str] = mapped_column(String)
    cost_center: Mapped[str] = mapped_column(String)
    gl_code: Mapped[str] = mapped_column(String)
    manager_user_id: Mapped[str] = mapped_column(String)
    """Empty: no manager."""
    headcount: Mapped[int] = mapped_column(Integer)
    state: Mapped[DepartmentState] = mapped_column(text_enum(DepartmentState))
    start_date: Mapped[date | None] = mapped_column(Date)
    """First day for which it accepts costs; None: no limit."""
    state_changes: Mapped[Sequence[date]] = mapped_column(ARRAY(Date), default=list)
    """Days on which it was deactivated, activated again, deactivated and so on, in turn."""

    @property
    def active_days(self) -> ActiveDays:
        """The days on which it is active."""
        return ActiveDays(self.start_date, self.state_changes)


class DepartmentHistoryRow(TenantRow):
    """A placement of a department: a date range in which it has one parent, or none."""

    __tablename__ = "department_history"
    audited_as = "department_history"

    department_id: Mapped[UUID] = mapped_column(Uuid)
    parent_id: Mapped[UUID | None] = mapped_column(Uuid)
    effective_from: Mapped[date] = mapped_column(Date)
    effective_to: Mapped[date | None] = mapped_column(Date)
    """First day after the range; None if it is open."""

    @property
    def placement(self) -> Placement:
        """The row as a domain value."""
        return Placement(self.department_id, self.parent_id, self.effective_from, self.effective_to)
