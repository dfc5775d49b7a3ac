"""What the budgets service asks of other services; never inside a transaction."""

import asyncio
import hashlib
from typing import Final
from uuid import UUID

from billing.approvals.v1.approval_pb2 import Approval
from billing.approvals.v1.approval_service_pb2 import OpenApprovalRequest
from billing.approvals.v1.approval_service_pb2_grpc import ApprovalServiceStub
from billing.entities.v1.department_pb2 import Department
from billing.entities.v1.department_service_pb2 import GetDepartmentsRequest
from billing.entities.v1.department_service_pb2_grpc import DepartmentServiceStub
from billing.entities.v1.entity_pb2 import Entity
from billing.entities.v1.entity_service_pb2 import GetEntitiesRequest
from billing.entities.v1.entity_service_pb2_grpc import EntityServiceStub
from grpc.aio import AioRpcError

from clients.rates import Rates
from contract.values import money_to_proto
from eventing.bus import EventBus
from kit import ids
from kit.errors import BillingError
from kit.origin import Origin
from kit.settings import Settings
from services.budgets.domain.approval_holds import Overspend
from services.budgets.domain.owners import Owner
from serving.clients import ServiceClient
from serving.scope import RemoteScopes

_TITLE_MAX: Final = 200


class Owners:
    """The entities and departments that budgets belong to."""

    def __init__(self, entities: ServiceClient) -> None:
        self._peer = entities
        self._entities = EntityServiceStub(entities.channel)
        self._departments = DepartmentServiceStub(entities.channel)

    async def find(self, origin: Origin, entity_id: UUID, department_id: UUID | None) -> Owner:
        """The owner, whether there is one that may have a budget or not: that is judged after the key was looked up."""
        asked = ids.ENTITY.format(entity_id), ids.DEPARTMENT.format(department_id) if department_id else ""
        entity, department = await asyncio.gather(
            self._entity(origin, asked[0]), self._department(origin, asked[1]) if asked[1] else _nothing()
        )
        return Owner(
            missing=_missing(asked, entity, department),
            inactive=_inactive(entity, department),
            fiscal_year_start_month=entity.fiscal_year_start_month if entity else 1,
        )

    async def _entity(self, origin: Origin, entity_id: str) -> Entity | None:
        found = await self._peer.call(self._entities.GetEntities, GetEntitiesRequest(ids=[entity_id]), origin)
        return found.entities[0] if found.entities else None

    async def _department(self, origin: Origin, department_id: str) -> Department | None:
        request = GetDepartmentsRequest(ids=[department_id])
        found = await self._peer.call(self._departments.GetDepartments, request, origin)
        return found.departments[0] if found.departments else None


def _missing(asked: tuple[str, str], entity: Entity | None, department: Department | None) -> str:
    entity_id, department_id = asked
    if entity is None:
        return f"entity {entity_id}"
    if department_id and department is None:
        return f"department {department_id}"
    if department is not None and department.entity_id != entity_id:
        return f"department {department_id} of entity {entity_id}"
    return ""


def _inactive(entity: Entity | None, department: Department | None) -> str:
    if entity is not None and entity.state != Entity.ACTIVE:
        return f"The entity {entity.id}"
    if department is not None and department.state != Department.ACTIVE:
        return f"The department {department.id}"
    return ""


async def _nothing() -> None:
    return None


class Approvals:
    """The approvals service; where none is configured nothing is asked for."""

    def __init__(self, settings: Settings) -> None:
        self._peer = ServiceClient(settings, "approvals") if "approvals" in settings.addresses else None
        if self._peer:
            self._stub = ApprovalServiceStub(self._peer.channel)

    async def open_overspend(self, origin: Origin, wanted: Overspend) -> dict[str, str]:
        """Ask for the approval of an overspend; what a refusal tells of it: `approval_id`, or why there is none."""
        if self._peer is None:
            return {"approval_problem": "There is no approvals service."}
        asked = OpenApprovalRequest(
            request_type=Approval.BUDGET_OVERSPEND,
            title=(wanted.description or f"Overspending of {wanted.amount}")[:_TITLE_MAX],
            budget_id=ids.BUDGET.format(wanted.budget_id),
            amount=money_to_proto(wanted.amount),
            attributes={"reference": wanted.reference} if wanted.reference else {},
            request_id=hashlib.sha256(wanted.key.encode()).hexdigest(),
        )
        try:
            opened = await self._peer.call(self._stub.OpenApproval, asked, origin)
        except (BillingError, AioRpcError) as error:
            told = error.details() if isinstance(error, AioRpcError) else error.message
            return {"approval_problem": told or "It could not be asked for."}
        return {"approval_id": opened.id}


class Clients:
    """All of them."""

    def __init__(self, settings: Settings, bus: EventBus) -> None:
        entities = ServiceClient(settings, "entities")
        self.scopes = RemoteScopes(entities)
        self.owners = Owners(entities)
        self.rates = Rates(entities, bus)
        self.approvals = Approvals(settings)
