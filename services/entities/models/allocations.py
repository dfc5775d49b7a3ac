"""Table of cost allocations."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import TypeAlias
from uuid import UUID

from sqlalchemy import ARRAY, CHAR, Date, Integer, Numeric, String, Uuid
from sqlalchemy.orm import Mapped, mapped_column

from kit.db import AMOUNT, TenantRow, text_enum
from kit.errors import BillingError
from kit.money import Money
from services.entities.domain.allocations import AllocationDraft, AllocationSource, ConvertedAmount, Document


class AllocationRow(TenantRow):
    """A cost of an entity or of one of its departments; never changed."""

    __tablename__ = "cost_allocations"

    entity_id: Mapped[UUID] = mapped_column(Uuid)
    department_id: Mapped[UUID | None] = mapped_column(Uuid)
    """None: the cost belongs to the entity as a whole."""
    department_path: Mapped[Sequence[UUID]] = mapped_column(ARRAY(Uuid))
    """Position of the department on the day of the cost, as known when it was posted; see `Allocation`."""
    category: Mapped[str] = mapped_column(String)
    source: Mapped[AllocationSource] = mapped_column(text_enum(AllocationSource))
    source_ref: Mapped[str] = mapped_column(String)
    """The document behind the cost; may be empty."""
    source_ref_sequence: Mapped[int] = mapped_column(Integer)
    """1 for the first allocation of the document, one more for each that follows the reversal of the one before."""
    amount: Mapped[Decimal] = mapped_column(AMOUNT)
    """In the original currency; negative for reversals and credits only."""
    currency_code: Mapped[str] = mapped_column(CHAR(3))
    entity_amount: Mapped[Decimal] = mapped_column(AMOUNT)
    """In the entity's currency, rounded to its unit."""
    entity_currency_code: Mapped[str] = mapped_column(CHAR(3))
    rate: Mapped[Decimal | None] = mapped_column(Numeric)
    """Price of one unit of the original currency in the entity's; None if they are the same."""
    rate_date: Mapped[date | None] = mapped_column(Date)
    """Date of the rate."""
    quantity: Mapped[Decimal | None] = mapped_column(AMOUNT)
    """Quantity used; negative for reversals. Credits have none."""
    unit: Mapped[str] = mapped_column(String)
    gl_code: Mapped[str] = mapped_column(String)
    counterparty_entity_id: Mapped[UUID | None] = mapped_column(Uuid)
    """The supplier, if it is an entity of the group."""
    contract_id: Mapped[UUID | None] = mapped_column(Uuid)
    """The contract whose commitment the cost counts for; may be one of another entity for a share of a split."""
    allocation_date: Mapped[date] = mapped_column(Date)
    description: Mapped[str] = mapped_column(String)
    """For a reversal or a credit: its reason."""
    reversal_of: Mapped[UUID | None] = mapped_column(Uuid)
    """The allocation that this one reverses, with all that was left of it."""
    credit_of: Mapped[UUID | None] = mapped_column(Uuid)
    """The allocation that this one credits in part."""
    actor: Mapped[str] = mapped_column(String)

    @property
    def money(self) -> Money:
        """The amount in the original currency."""
        return Money(self.amount, self.currency_code)

    @property
    def entity_money(self) -> Money:
        """The amount in the entity's currency."""
        return Money(self.entity_amount, self.entity_currency_code)

    @property
    def converted(self) -> ConvertedAmount:
        """The amount in the entity's currency, with its rate."""
        return ConvertedAmount(self.entity_money, self.rate, self.rate_date)

    @property
    def document(self) -> Document:
        """The document that the cost comes from."""
        return self.source, self.source_ref

    def copy(self, **changes: object) -> "AllocationRow":
        """Return a new row with the values of this one, except `changes`."""
        values = {column.key: getattr(self, column.key) for column in AllocationRow.__mapper__.column_attrs}
        return AllocationRow(**{**values, **changes})

    @property
    def draft(self) -> AllocationDraft:
        """The draft that leads to this allocation, with optional fields filled in."""
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
            contract_id=self.contract_id,
            allocation_date=self.allocation_date,
            description=self.description,
        )


@dataclass(frozen=True, slots=True)
class Corrections:
    """The reversal of an allocation, and the sums of its credits."""

    reversed_by: UUID | None = None
    credited: Decimal = Decimal(0)
    """In the original currency."""
    credited_entity_amount: Decimal = Decimal(0)
    """In the entity's currency."""


@dataclass(frozen=True, slots=True)
class DocumentUse:
    """The latest allocation of a document."""

    allocation: AllocationRow
    reversed: bool
    """True if it was reversed as a whole, or if the allocation that it credits was and is not restored."""
    split_id: UUID | None
    """The split that it was reversed for; its cost is still allocated, to other departments."""
    full_credits: Sequence[UUID] = ()
    """The first credits of it if they credit it in full; its document can't be allocated again then."""

    @property
    def free(self) -> bool:
        """True if the document can be allocated again."""
        return self.reversed and self.split_id is None


@dataclass(frozen=True, slots=True)
class AllocationResult:
    """The allocation of a draft that was accepted."""

    allocation: AllocationRow
    replayed: bool
    """True if the document had been allocated before."""


AllocationOutcome: TypeAlias = AllocationResult | BillingError
"""The result of a draft, or the error that it was refused with."""
