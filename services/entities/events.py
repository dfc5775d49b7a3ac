"""What the entities service says; it reacts to nobody."""

from typing import Final

from billing.entities.v1.events_pb2 import DepartmentManagerChanged, EntityCreated, EntityDeactivated

from eventing.consumer import Handler
from kit import ids
from services.entities.models import DepartmentRow, EntityRow


def entity_created(entity: EntityRow) -> EntityCreated:
    """There is a new entity."""
    return EntityCreated(
        entity_id=ids.ENTITY.format(entity.id),
        parent_id=ids.ENTITY.format_optional(entity.parent_id),
        code=entity.code,
        currency_code=entity.currency_code,
    )


def entity_deactivated(entity: EntityRow) -> EntityDeactivated:
    """An entity went out of business."""
    return EntityDeactivated(entity_id=ids.ENTITY.format(entity.id))


def department_manager_changed(department: DepartmentRow, old_manager_user_id: str) -> DepartmentManagerChanged:
    """Another user answers for a department."""
    return DepartmentManagerChanged(
        department_id=ids.DEPARTMENT.format(department.id),
        entity_id=ids.ENTITY.format(department.entity_id),
        old_manager_user_id=old_manager_user_id,
        new_manager_user_id=department.manager_user_id,
    )


HANDLERS: Final[tuple[Handler, ...]] = ()
