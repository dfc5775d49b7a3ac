"""Cost allocations."""

from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from typing import Final
from uuid import UUID

from sqlalchemy import ARRAY, CHAR, Date, Numeric, String, Uuid
from sqlalchemy.orm import Mapped, mapped_column

from kit.db import TenantRow, text_enum
from kit.money import Money
from services.entities.domain.allocations import AllocationDraft, AllocationSource, Document

AMOUNT: Final = Numeric(20, 6)


class AllocationRow(TenantRow):
    """A cost that an entity, or one of its departments, bears; never changed."""

    __tablename__ = "cost_allocations"

    entity_id: Mapped[UUID] = mapped_column(Uuid)
    department_id: Mapped[UUID | None] = mapped_column(Uuid)
    """None: the entity bears it as a whole."""
    department_path: Mapped[Sequence[UUID]] = mapped_column(ARRAY(Uuid))
    """Where the department was when the cost was posted: ids from the top of its entity down to itself."""
    category: Mapped[str] = mapped_column(String)
    source: Mapped[AllocationSource] = mapped_column(text_enum(AllocationSource))
    source_ref: Mapped[str] = mapped_column(String)
    """The document it comes from, which counts once; empty where there is none."""
    amount: Mapped[Decimal] = mapped_column(AMOUNT)
    """In the currency in which the cost arose; below zero for a reversal, and for no other."""
    currency_code: Mapped[str] = mapped_column(CHAR(3))
    entity_amount: Mapped[Decimal] = mapped_column(AMOUNT)
    """The same in the entity's currency, rounded to its last digit."""
    entity_currency_code: Mapped[str] = mapped_column(CHAR(3))
    rate: Mapped[Decimal | None] = mapped_column(Numeric)
    """How much of the entity's currency one unit cost; None where both currencies are the same."""
    rate_date: Mapped[date | None] = mapped_column(Date)
    """The day that the rate is of."""
    quantity: Mapped[Decimal | None] = mapped_column(AMOUNT)
    """How much was used; of a reversal below zero."""
    unit: Mapped[str] = mapped_column(String)
    gl_code: Mapped[str] = mapped_column(String)
    counterparty_entity_id: Mapped[UUID | None] = mapped_column(Uuid)
    """The entity of the group that supplied it."""
    allocation_date: Mapped[date] = mapped_column(Date)
    description: Mapped[str] = mapped_column(String)
    """Of a reversal: why."""
    reversal_of: Mapped[UUID | None] = mapped_column(Uuid)
    actor: Mapped[str] = mapped_column(String)

    @property
    def money(self) -> Money:
        """What it cost, in the currency in which it arose."""
        return Money(self.amount, self.currency_code)

    @property
    def entity_money(self) -> Money:
        """What it cost, in the entity's currency."""
        return Money(self.entity_amount, self.entity_currency_code)

    @property
    def document(self) -> Document:
        """What the cost comes from."""
        return self.source, self.source_ref

    @property
    def draft(self) -> AllocationDraft:
        """What was asked for when the cost was allocated, with what was left open filled in."""
        return AllocationDraft(
            entity_id=self.entity_id,
            department_id=self.department_id,
            category=self.category,
            source=self.source,
            source_ref=self.source_ref,
            amount=self.money,
            quantity=self.quantity,
            unit=self.unit,
            gl_code=self.gl_code,
            counterparty_entity_id=self.counterparty_entity_id,
            allocation_date=self.allocation_date,
            description=self.description,
        )
