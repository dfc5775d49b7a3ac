"""Use cases of scopes."""

from collections.abc import Collection
from uuid import UUID

from kit.auth import Scope
from kit.db import ReadSession
from services.entities import store


async def resolve(tx: ReadSession, entity_ids: Collection[UUID], department_ids: Collection[UUID]) -> Scope:
    """Return the scope of these entities and departments.

    An entity covers its departments and everything below it; a department covers everything below it.
    """
    covered = await store.scopes.find_covered_entities(tx, entity_ids)
    departments = await store.scopes.find_covered_departments(tx, covered, department_ids)
    return Scope(frozenset(covered), frozenset(departments))
