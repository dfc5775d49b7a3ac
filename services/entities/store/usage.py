"""SQL that finds the entities and departments of usage records."""

from collections.abc import Collection, Mapping
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import or_, select, tuple_

from kit.db import ReadSession
from services.entities.models.entities import DepartmentRow, EntityRow


class UsageEntity(NamedTuple):
    """The columns of an entity that the allocation of its usage depends on."""

    id: UUID
    code: str
    time_zone: str


async def find_entities(
    tx: ReadSession, entity_ids: Collection[UUID], codes: Collection[str]
) -> Mapping[UUID | str, UsageEntity]:
    """Return the entities with these ids or codes, each both by its id and by its code."""
    named = or_(EntityRow.id.in_(entity_ids), EntityRow.code.in_(codes))
    rows = await tx.rows(select(EntityRow.id, EntityRow.code, EntityRow.time_zone).where(named))
    entities = [UsageEntity(*row) for row in rows]
    return {entity.id: entity for entity in entities} | {entity.code: entity for entity in entities}


async def find_departments(tx: ReadSession, codes: Collection[tuple[UUID, str]]) -> Mapping[tuple[UUID, str], UUID]:
    """Return the ids of the departments with these codes, by entity id and code."""
    if not codes:
        return {}
    named = tuple_(DepartmentRow.entity_id, DepartmentRow.code).in_(codes)
    rows = await tx.rows(select(DepartmentRow.entity_id, DepartmentRow.code, DepartmentRow.id).where(named))
    return {(entity_id, code): id for entity_id, code, id in rows}
