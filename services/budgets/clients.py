"""Calls to other services; never made inside a transaction."""

import asyncio
import hashlib
from datetime import date
from typing import Final
from uuid import UUID

from billing.approvals.v1.approval_pb2 import Approval
from billing.approvals.v1.approval_service_pb2 import OpenApprovalRequest
from billing.approvals.v1.approval_service_pb2_grpc import ApprovalServiceStub
from billing.entities.v1.department_pb2 import Department
from billing.entities.v1.department_service_pb2 import GetDepartmentsRequest
from billing.entities.v1.department_service_pb2_grpc import DepartmentServiceStub
from billing.entities.v1.entity_pb2 import Entity
from billing.entities.v1.entity_service_pb2 import GetEntitiesRequest, GetLineageRequest
from billing.entities.v1.entity_service_pb2_grpc import EntityServiceStub
from grpc import StatusCode
from grpc.aio import AioRpcError

from clients.rates import Rates
from contract.values import date_text, money_to_proto
from eventing.bus import EventBus
from kit import ids
from kit.errors import BillingError
from kit.origin import Origin
from kit.settings import Settings
from services.budgets.domain.approval_holds import Overspend
from services.budgets.domain.owners import CostOwner, Owner
from services.budgets.errors.budgets import OwnerNotFound
from serving.clients import ServiceClient
from serving.scope import RemoteScopes

_TITLE_MAX: Final = 200


class Clients:
    """The clients of all services that the budgets service calls."""

    def __init__(self, settings: Settings, bus: EventBus) -> None:
        entities = ServiceClient(settings, "entities")
        self.scopes = RemoteScopes(entities)
        self.owners = Owners(entities)
        self.rates = Rates(entities, bus)
        self.approvals = Approvals(settings)


class Owners:
    """Client of the entities service for the owners of budgets: entities and departments."""

    def __init__(self, entities: ServiceClient) -> None:
        self._client = entities
        self._entities = EntityServiceStub(entities.channel)
        self._departments = DepartmentServiceStub(entities.channel)

    async def find(self, origin: Origin, entity_id: UUID, department_id: UUID | None) -> Owner:
        """Return the entity and the department, including what is missing or inactive.

        Raises no error for that, so that a repeated request gets its first response; see `domain.owners.check_may_own`.
        """
        entity_text, department_text = ids.ENTITY.format(entity_id), ids.DEPARTMENT.format_optional(department_id)
        entity, department = await asyncio.gather(
            self._find_entity(origin, entity_text), self._find_department(origin, department_text)
        )
        return Owner(
            missing=_missing(entity_text, department_text, entity, department),
            inactive=_inactive(entity, department),
            fiscal_year_start_month=(entity.fiscal_year_start_month or 1) if entity else 1,
            time_zone=(entity.time_zone or "UTC") if entity else "UTC",
        )

    async def find_of_cost(
        self, origin: Origin, entity_id: UUID, department_id: UUID | None, day: date | None
    ) -> CostOwner:
        """Return the departments and entities above a cost, and the entity's time zone. Raises OwnerNotFound.

        The departments are those of the day, or of today without one.
        """
        entity_text, department_text = ids.ENTITY.format(entity_id), ids.DEPARTMENT.format_optional(department_id)
        request = GetLineageRequest(entity_id=entity_text, department_id=department_text, as_of_date=date_text(day))
        try:
            reply = await self._client.call(self._entities.GetLineage, request, origin)
        except AioRpcError as error:
            if error.code() is not StatusCode.NOT_FOUND:
                raise
            raise OwnerNotFound.of(entity_id, department_id) from error
        path = [ids.DEPARTMENT.parse(department.id) for department in reply.departments]
        above = [ids.ENTITY.parse(entity.id) for entity in reply.entities[1:]]
        return CostOwner(department_path=path, entities_above=above, time_zone=reply.entities[0].time_zone or "UTC")

    async def _find_entity(self, origin: Origin, entity_id: str) -> Entity | None:
        request = GetEntitiesRequest(ids=[entity_id])
        reply = await self._client.call(self._entities.GetEntities, request, origin)
        return reply.entities[0] if reply.entities else None

    async def _find_department(self, origin: Origin, department_id: str) -> Department | None:
        if not department_id:
            return None
        request = GetDepartmentsRequest(ids=[department_id])
        reply = await self._client.call(self._departments.GetDepartments, request, origin)
        return reply.departments[0] if reply.departments else None


def _missing(entity_id: str, department_id: str, entity: Entity | None, department: Department | None) -> str:
    if entity is None:
        return f"entity {entity_id}"
    if department_id and (department is None or department.entity_id != entity_id):
        return f"department {department_id} of entity {entity_id}"
    return ""


def _inactive(entity: Entity | None, department: Department | None) -> str:
    if entity is not None and entity.state != Entity.ACTIVE:
        return f"The entity {entity.id}"
    if department is not None and department.state != Department.ACTIVE:
        return f"The department {department.id}"
    return ""


class Approvals:
    """Client of the approvals service, which is optional."""

    def __init__(self, settings: Settings) -> None:
        self._client = ServiceClient(settings, "approvals") if "approvals" in settings.addresses else None
        if self._client:
            self._stub = ApprovalServiceStub(self._client.channel)

    async def open_overspend(self, origin: Origin, overspend: Overspend) -> dict[str, str]:
        """Create an approval request for an overspend; returns metadata for the error of the rejected charge.

        The metadata contain `approval_id`, or `approval_problem` if the request could not be created.
        """
        if self._client is None:
            return {"approval_problem": "No approvals service is configured."}
        request = OpenApprovalRequest(
            request_type=Approval.BUDGET_OVERSPEND,
            title=(overspend.description or f"Overspending of {overspend.amount}")[:_TITLE_MAX],
            budget_id=ids.BUDGET.format(overspend.budget_id),
            amount=money_to_proto(overspend.amount),
            attributes={"reference": overspend.reference} if overspend.reference else {},
            request_id=hashlib.sha256(overspend.key.encode()).hexdigest(),
        )
        try:
            approval = await self._client.call(self._stub.OpenApproval, request, origin)
        except (BillingError, AioRpcError) as error:
            problem = error.details() if isinstance(error, AioRpcError) else error.message
            return {"approval_problem": problem or "The approval request could not be created."}
        return {"approval_id": approval.id}
