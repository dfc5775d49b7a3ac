"""SQL for the entities and departments that a scope covers."""

from collections.abc import Collection, Sequence
from uuid import UUID

from sqlalchemy import or_, select
from sqlalchemy.orm import aliased

from kit.db import ReadSession
from services.entities.models.entities import DepartmentRow, EntityRow


async def find_covered_entities(tx: ReadSession, entity_ids: Collection[UUID]) -> Sequence[UUID]:
    """Return the ids of these entities, if they exist, and of all entities below them."""
    covered = select(EntityRow.id).where(EntityRow.id.in_(entity_ids)).cte("covered", recursive=True)
    below = aliased(EntityRow)
    covered = covered.union(select(below.id).join(covered, below.parent_id == covered.c.id))
    return await tx.all(select(covered.c.id))


async def find_covered_departments(
    tx: ReadSession, entity_ids: Collection[UUID], department_ids: Collection[UUID]
) -> Sequence[UUID]:
    """Return the ids of all departments of the entities, of these departments, and of all departments below them."""
    named = or_(DepartmentRow.entity_id.in_(entity_ids), DepartmentRow.id.in_(department_ids))
    covered = select(DepartmentRow.id).where(named).cte("covered", recursive=True)
    below = aliased(DepartmentRow)
    covered = covered.union(select(below.id).join(covered, below.parent_id == covered.c.id))
    return await tx.all(select(covered.c.id))
