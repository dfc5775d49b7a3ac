"""What the budgets service asks of other services; never inside a transaction."""

import asyncio
from uuid import UUID

from billing.entities.v1.department_pb2 import Department
from billing.entities.v1.department_service_pb2 import GetDepartmentsRequest
from billing.entities.v1.department_service_pb2_grpc import DepartmentServiceStub
from billing.entities.v1.entity_pb2 import Entity
from billing.entities.v1.entity_service_pb2 import GetEntitiesRequest
from billing.entities.v1.entity_service_pb2_grpc import EntityServiceStub

from kit import ids
from kit.origin import Origin
from services.budgets.errors import OwnerInactive, OwnerNotFound
from serving.clients import Peer


class Owners:
    """The entities and departments that budgets belong to."""

    def __init__(self, entities: Peer) -> None:
        self._peer = entities
        self._entities = EntityServiceStub(entities.channel)
        self._departments = DepartmentServiceStub(entities.channel)

    async def check_active(self, origin: Origin, entity_id: UUID, department_id: UUID | None) -> None:
        """Raise OwnerNotFound or OwnerInactive unless a budget may be opened for this owner."""
        entity, department = await asyncio.gather(
            self._entity(origin, ids.ENTITY.format(entity_id)),
            self._department(origin, ids.DEPARTMENT.format(department_id)) if department_id else _nothing(),
        )
        if department is not None and department.entity_id != entity.id:
            raise OwnerNotFound(f"department {department.id} of entity {entity.id}")
        if entity.state != Entity.ACTIVE:
            raise OwnerInactive(f"The entity {entity.id}")
        if department is not None and department.state != Department.ACTIVE:
            raise OwnerInactive(f"The department {department.id}")

    async def _entity(self, origin: Origin, entity_id: str) -> Entity:
        found = await self._peer.call(self._entities.GetEntities, GetEntitiesRequest(ids=[entity_id]), origin)
        if not found.entities:
            raise OwnerNotFound(f"entity {entity_id}")
        return found.entities[0]

    async def _department(self, origin: Origin, department_id: str) -> Department:
        request = GetDepartmentsRequest(ids=[department_id])
        found = await self._peer.call(self._departments.GetDepartments, request, origin)
        if not found.departments:
            raise OwnerNotFound(f"department {department_id}")
        return found.departments[0]


async def _nothing() -> None:
    return None
