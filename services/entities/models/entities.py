"""Entities and their departments."""

from datetime import date, datetime
from typing import Any, TypeAlias
from uuid import UUID

from sqlalchemy import Date, DateTime, Integer, String, Uuid, func
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from kit import ids
from kit.db import TenantRow, VersionedRow, enum_column, text_enum
from services.entities.domain.departments import DepartmentState
from services.entities.domain.entities import Address, Consolidation, EntityState, EntityType


class EntityRow(VersionedRow):
    """A legal entity of the group."""

    __tablename__ = "billing_entities"
    audited_as = ids.ENTITY

    parent_id: Mapped[UUID | None] = mapped_column(Uuid)
    code: Mapped[str] = mapped_column(String)
    legal_name: Mapped[str] = mapped_column(String)
    display_name: Mapped[str] = mapped_column(String)
    """Empty where the legal name is shown."""
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
    consolidation: Mapped[Consolidation] = mapped_column(enum_column(Consolidation, "consolidation"))
    state: Mapped[EntityState] = mapped_column(text_enum(EntityState))
    labels: Mapped[dict[str, str]] = mapped_column("metadata", JSONB)
    """The field `metadata`, a name that SQLAlchemy has taken."""
    controller_user_id: Mapped[str] = mapped_column(String, default="")
    """Who answers for its books; empty where the controller of the entity above does."""


EntityColumns: TypeAlias = Any
"""A named tuple of the columns of an EntityRow under the same names, JSON as it is written and enums as text: by the
thousands, rows of SQLAlchemy are slow."""


class EntityHistoryRow(TenantRow):
    """A time during which an entity had one parent, or none. The audit log has it as changes of the entity."""

    __tablename__ = "entity_history"

    entity_id: Mapped[UUID] = mapped_column(Uuid)
    parent_id: Mapped[UUID | None] = mapped_column(Uuid)
    start_time: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=func.clock_timestamp())
    """By the clock of the database, so that moves have one order whoever makes them."""
    end_time: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    """When the next one began; None: it is so now."""


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
    """Empty where nobody answers for it."""
    headcount: Mapped[int] = mapped_column(Integer)
    state: Mapped[DepartmentState] = mapped_column(text_enum(DepartmentState))


class DepartmentHistoryRow(TenantRow):
    """A time during which a department had one parent, or none."""

    __tablename__ = "department_history"
    audited_as = "department_history"

    department_id: Mapped[UUID] = mapped_column(Uuid)
    parent_id: Mapped[UUID | None] = mapped_column(Uuid)
    effective_from: Mapped[date] = mapped_column(Date)
    effective_to: Mapped[date | None] = mapped_column(Date)
    """The day after the last one; None: until further notice."""
