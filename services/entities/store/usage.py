"""Who is meant by records of usage."""

from collections.abc import Collection, Mapping
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import or_, select, tuple_

from kit.db import ReadSession
from services.entities.models.entities import DepartmentRow, EntityRow


class NamedEntity(NamedTuple):
    """An entity that a record names by id or code."""

    id: UUID
    code: str
    time_zone: str


async def find_entities(
    tx: ReadSession, entity_ids: Collection[UUID], codes: Collection[str]
) -> Mapping[UUID | str, NamedEntity]:
    """The entities, each by its id and by its code."""
    named = or_(EntityRow.id.in_(entity_ids), EntityRow.code.in_(codes))
    rows = await tx.rows(select(EntityRow.id, EntityRow.code, EntityRow.time_zone).where(named))
    found = [NamedEntity(*row) for row in rows]
    return {entity.id: entity for entity in found} | {entity.code: entity for entity in found}


async def find_departments(tx: ReadSession, codes: Collection[tuple[UUID, str]]) -> Mapping[tuple[UUID, str], UUID]:
    """The ids of the departments with such a code, by entity and code."""
    if not codes:
        return {}
    named = tuple_(DepartmentRow.entity_id, DepartmentRow.code).in_(codes)
    rows = await tx.rows(select(DepartmentRow.entity_id, DepartmentRow.code, DepartmentRow.id).where(named))
    return {(entity_id, code): id for entity_id, code, id in rows}
