"""Clients of other services and of user management. Never called inside a transaction."""

from collections.abc import Collection
from uuid import UUID

from billing.approvals.v1.errors_pb2 import ErrorReason
from billing.budgets.v1.charge_pb2 import Availability
from billing.budgets.v1.ledger_service_pb2 import HoldForApprovalRequest, ReleaseForApprovalRequest, ReviewFundsRequest
from billing.budgets.v1.ledger_service_pb2_grpc import LedgerServiceStub
from billing.entities.v1.department_service_pb2 import GetDepartmentsRequest
from billing.entities.v1.department_service_pb2_grpc import DepartmentServiceStub
from billing.entities.v1.entity_service_pb2 import GetEntitiesRequest, GetLineageRequest
from billing.entities.v1.entity_service_pb2_grpc import EntityServiceStub
from grpc.aio import AioRpcError

from clients.directory import Directory
from clients.forwarding import forward_errors, reason_of
from clients.rates import Rates
from contract.values import money_from_proto, money_or_none, money_to_proto
from eventing.bus import EventBus
from kit import ids
from kit.errors import Conflict, FailedPrecondition, IdempotencyMismatch
from kit.money import Money
from kit.origin import Origin
from kit.settings import Settings
from services.approvals.domain.approvers import Lineage, ResponsibleUsers
from services.approvals.domain.budgets import BudgetSnapshot
from services.approvals.errors.budgets import BudgetNotFound, conceal_above
from services.approvals.errors.entities import DepartmentNotFound, EntityNotFound
from serving.clients import ServiceClient
from serving.scope import RemoteScopes


class EntitiesClient:
    """Client of the entities service."""

    def __init__(self, client: ServiceClient) -> None:
        self._client = client
        self._entities = EntityServiceStub(client.channel)
        self._departments = DepartmentServiceStub(client.channel)

    async def get_lineage(self, origin: Origin, entity_id: UUID, department_id: UUID | None) -> Lineage:
        """Return an entity and a department with their ancestors and responsible users.

        Raises EntityNotFound or DepartmentNotFound, also if they are out of the caller's scope.
        """
        if origin.scope is not None and not origin.scope.covers(entity_id, department_id):
            raise EntityNotFound(entity_id)
        request = GetLineageRequest(
            entity_id=ids.ENTITY.format(entity_id), department_id=ids.DEPARTMENT.format_optional(department_id)
        )
        with forward_errors(ErrorReason.keys()):
            reply = await self._client.call(self._entities.GetLineage, request, origin)
        return Lineage(
            tuple(ids.ENTITY.parse(entity.id) for entity in reply.entities),
            tuple(ids.DEPARTMENT.parse(department.id) for department in reply.departments),
            ResponsibleUsers(
                department_manager=next(
                    filter(None, (department.manager_user_id for department in reply.departments)), ""
                ),
                entity_controller=next(filter(None, (entity.controller_user_id for entity in reply.entities)), ""),
            ),
        )

    async def find_missing(
        self, origin: Origin, entity_ids: Collection[UUID], department_ids: Collection[UUID]
    ) -> EntityNotFound | DepartmentNotFound | None:
        """Return the error for an entity or department that does not exist; None if all exist.

        The caller raises it inside its transaction, so that a repeated call returns its stored response instead.
        """
        if entity_ids:
            get_entities = GetEntitiesRequest(ids=sorted(map(ids.ENTITY.format, entity_ids)))
            entities = (await self._client.call(self._entities.GetEntities, get_entities, origin)).entities
            missing = set(entity_ids) - {ids.ENTITY.parse(entity.id) for entity in entities}
            if missing:
                return EntityNotFound(min(missing))
        if department_ids:
            get_departments = GetDepartmentsRequest(ids=sorted(map(ids.DEPARTMENT.format, department_ids)))
            reply = await self._client.call(self._departments.GetDepartments, get_departments, origin)
            missing = set(department_ids) - {ids.DEPARTMENT.parse(department.id) for department in reply.departments}
            if missing:
                return DepartmentNotFound(min(missing))
        return None


class BudgetsClient:
    """Client of the budgets service."""

    def __init__(self, client: ServiceClient) -> None:
        self._client = client
        self._ledger = LedgerServiceStub(client.channel)

    async def review(self, origin: Origin, budget_id: UUID, amount: Money | None) -> BudgetSnapshot:
        """Return the current amounts of a budget, and whether it accepts an amount.

        Raises BudgetNotFound, also if it is out of the caller's scope, RateMissing or AmountTooSmall.
        """
        request = ReviewFundsRequest(
            budget_id=ids.BUDGET.format(budget_id), amount=money_to_proto(amount) if amount else None
        )
        with forward_errors(ErrorReason.keys()):
            reply = await self._client.call(self._ledger.ReviewFunds, request, origin)
        budget = reply.budget
        entity_id = ids.ENTITY.parse(budget.entity_id)
        department_id = ids.DEPARTMENT.parse_optional(budget.department_id)
        if origin.scope is not None and not origin.scope.covers(entity_id, department_id):
            raise BudgetNotFound(budget_id)
        return BudgetSnapshot(
            id=budget_id,
            name=budget.name,
            entity_id=entity_id,
            department_id=department_id,
            currency=budget.amount.currency_code,
            amount=money_from_proto(budget.amount),
            spent=money_from_proto(budget.spent),
            held=money_from_proto(budget.held),
            committed=money_from_proto(budget.committed),
            available=money_from_proto(budget.available),
            requested=money_or_none(reply, "amount"),
            approval_required=reply.verdict == Availability.APPROVAL_REQUIRED,
        )

    async def hold(
        self, origin: Origin, approval_id: UUID, *, of_round: int, budget_id: UUID, amount: Money, description: str
    ) -> UUID:
        """Hold the amount of a round of a request, once; returns the id of the hold.

        Raises the errors of HoldForApproval, or Conflict if the round was released concurrently.
        """
        request = HoldForApprovalRequest(
            budget_id=ids.BUDGET.format(budget_id),
            approval_id=ids.APPROVAL.format(approval_id),
            round=of_round,
            amount=money_to_proto(amount),
            description=description,
            request_id=f"{ids.APPROVAL.format(approval_id)}:{of_round}",
        )
        try:
            with forward_errors(ErrorReason.keys()):
                hold = await self._client.call(self._ledger.HoldForApproval, request, origin)
        except AioRpcError as error:
            if reason_of(error) == IdempotencyMismatch.reason:
                raise Conflict from None
            raise
        except FailedPrecondition as error:
            raise error if origin.scope is None else conceal_above(error, budget_id) from None
        return ids.HOLD.parse(hold.id)

    async def release(self, origin: Origin, approval_id: UUID, *, of_round: int, budget_id: UUID) -> None:
        """Release the hold of a round of a request. A hold of this round that arrives later is rejected."""
        request = ReleaseForApprovalRequest(
            budget_id=ids.BUDGET.format(budget_id), approval_id=ids.APPROVAL.format(approval_id), round=of_round
        )
        await self._client.call(self._ledger.ReleaseForApproval, request, origin)


class Clients:
    """All clients of the approvals service."""

    def __init__(self, settings: Settings, bus: EventBus) -> None:
        entities = ServiceClient(settings, "entities")
        self.scopes = RemoteScopes(entities)
        self.entities = EntitiesClient(entities)
        self.rates = Rates(entities, bus)
        self.budgets = BudgetsClient(ServiceClient(settings, "budgets"))
        self.directory = Directory(settings)
