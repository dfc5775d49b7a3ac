"""Errors about entities and departments, which the entities service owns."""

from kit import ids
from kit.resources import ResourceNotFound


class EntityNotFound(ResourceNotFound):
    kind = ids.ENTITY
    reason = "ENTITY_NOT_FOUND"


class DepartmentNotFound(ResourceNotFound):
    kind = ids.DEPARTMENT
    reason = "DEPARTMENT_NOT_FOUND"
