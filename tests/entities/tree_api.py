"""Test driver for moves in the trees of entities and departments."""

from collections.abc import Iterator
from typing import Any

from billing.entities.v1 import department_service_pb2 as departments_pb
from billing.entities.v1 import entity_service_pb2 as pb
from billing.entities.v1.department_pb2 import Department
from billing.entities.v1.entity_pb2 import Entity, EntityHierarchy

from tests.entities.entities_api import EntitiesApi, _id


class TreeApi(EntitiesApi):
    """Adds moves, activation and history to EntitiesApi."""

    async def move(self, entity: Entity | str, parent: Entity | str = "", **fields: Any) -> Entity:
        request = pb.MoveEntityRequest(id=_id(entity), new_parent_id=_id(parent), **fields)
        return await self.caller.call(self.entities_stub.MoveEntity, request)

    async def tree_of(self, entity: Entity | str, day: str, max_depth: int = 0) -> EntityHierarchy:
        """The tree as of a day."""
        request = pb.GetEntityHierarchyRequest(id=_id(entity), as_of_date=day, max_depth=max_depth)
        return await self.caller.call(self.entities_stub.GetEntityHierarchy, request)

    async def move_department(
        self, department: Department | str, parent: Department | str = "", day: str = "", **fields: Any
    ) -> Department:
        request = departments_pb.MoveDepartmentRequest(
            id=_id(department), new_parent_id=_id(parent), effective_date=day, **fields
        )
        return await self.caller.call(self.departments_stub.MoveDepartment, request)

    async def deactivate_department(self, department: Department | str, **fields: Any) -> Department:
        request = departments_pb.DeactivateDepartmentRequest(id=_id(department), **fields)
        return await self.caller.call(self.departments_stub.DeactivateDepartment, request)

    async def activate_department(self, department: Department | str, **fields: Any) -> Department:
        request = departments_pb.ActivateDepartmentRequest(id=_id(department), **fields)
        return await self.caller.call(self.departments_stub.ActivateDepartment, request)

    async def history(self, department: Department | str, page_size: int = 0) -> list[tuple[str, str, str]]:
        """Parent, start and end of each placement, read page by page."""
        placements: list[tuple[str, str, str]] = []
        token = ""
        while True:
            request = departments_pb.ListDepartmentHistoryRequest(
                id=_id(department), page_size=page_size, page_token=token
            )
            page = await self.caller.call(self.departments_stub.ListDepartmentHistory, request)
            placements += [(each.parent_id, each.start_date, each.end_date) for each in page.placements]
            token = page.next_page_token
            if not token:
                return placements


def shape(tree: EntityHierarchy) -> dict[str, object]:
    """The tree as nested codes."""
    return {f"{tree.entity.code}{'…' if tree.truncated else ''}": [shape(child) for child in tree.children]}


def entities_in(tree: EntityHierarchy) -> Iterator[Entity]:
    """All entities of the tree."""
    yield tree.entity
    for child in tree.children:
        yield from entities_in(child)


async def department_chain(api: EntitiesApi, entity: Entity, levels: int, name: str = "L") -> list[Department]:
    """Create a chain of departments."""
    departments: list[Department] = []
    for level in range(levels):
        parent_id = departments[-1].id if departments else ""
        departments.append(await api.create_department(entity, f"{name}{level + 1}", parent_id=parent_id))
    return departments
