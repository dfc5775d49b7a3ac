"""Unbudgeted spend: input types."""

from dataclasses import dataclass
from datetime import date
from uuid import UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class UnbudgetedFilter:
    """Filters of a list of unbudgeted spend; None and empty text match everything."""

    entity_id: UUID | None = None
    department_id: UUID | None = None
    category: str = ""
    reason: str = ""
    start: date | None = None
    """Costs allocated on this day or later."""
    end: date | None = None
    """Costs allocated before this day."""
