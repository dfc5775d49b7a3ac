"""What the approvals service asks of other services and of outside systems; never inside a transaction."""

from collections.abc import Collection
from dataclasses import dataclass
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
from contract.values import money_from_proto, money_to_proto
from eventing.bus import EventBus
from kit import ids
from kit.errors import Conflict, IdempotencyMismatch
from kit.money import Money
from kit.origin import Origin
from kit.settings import Settings
from services.approvals.domain.people import Place
from services.approvals.errors import BudgetNotFound, DepartmentNotFound, EntityNotFound
from serving.clients import ServiceClient
from serving.scope import RemoteScopes


@dataclass(frozen=True, slots=True)
class Lineage:
    """Where a request belongs: the entity and the department, each with those above, nearest first."""

    entity_path: tuple[UUID, ...]
    department_path: tuple[UUID, ...]
    place: Place


@dataclass(frozen=True, slots=True)
class Known:
    """Which of the entities and departments that a rule names are not there."""

    entities: tuple[str, ...]
    departments: tuple[str, ...]

    def check(self) -> None:
        """Raise EntityNotFound or DepartmentNotFound where one is missing."""
        if self.entities:
            raise EntityNotFound(f"There is no entity {self.entities[0]}.", entity_id=self.entities[0])
        if self.departments:
            raise DepartmentNotFound(
                f"There is no department {self.departments[0]}.", department_id=self.departments[0]
            )


class Places:
    """The trees of entities and departments."""

    def __init__(self, entities: ServiceClient) -> None:
        self._peer = entities
        self._entities = EntityServiceStub(entities.channel)
        self._departments = DepartmentServiceStub(entities.channel)

    async def get(self, origin: Origin, entity_id: UUID, department_id: UUID | None) -> Lineage:
        """Where a request belongs; raises EntityNotFound or DepartmentNotFound, also where it is out of scope."""
        if origin.scope is not None and not origin.scope.covers(entity_id, department_id):
            entity = ids.ENTITY.format(entity_id)
            raise EntityNotFound(f"There is no entity {entity}.", entity_id=entity)
        asked = GetLineageRequest(
            entity_id=ids.ENTITY.format(entity_id), department_id=ids.DEPARTMENT.format_optional(department_id)
        )
        with forward_errors(ErrorReason.keys()):
            found = await self._peer.call(self._entities.GetLineage, asked, origin)
        return Lineage(
            tuple(ids.ENTITY.parse(entity.id) for entity in found.entities),
            tuple(ids.DEPARTMENT.parse(department.id) for department in found.departments),
            Place(
                department_manager=next((one.manager_user_id for one in found.departments if one.manager_user_id), ""),
                entity_controller=next(
                    (one.controller_user_id for one in found.entities if one.controller_user_id), ""
                ),
            ),
        )

    async def known(self, origin: Origin, entity_ids: Collection[UUID], department_ids: Collection[UUID]) -> Known:
        """Which of these are not there."""
        entities, departments = (
            sorted(map(ids.ENTITY.format, entity_ids)),
            sorted(map(ids.DEPARTMENT.format, department_ids)),
        )
        missing_entities, missing_departments = set(entities), set(departments)
        if entities:
            found = await self._peer.call(self._entities.GetEntities, GetEntitiesRequest(ids=entities), origin)
            missing_entities -= {entity.id for entity in found.entities}
        if departments:
            there = await self._peer.call(
                self._departments.GetDepartments, GetDepartmentsRequest(ids=departments), origin
            )
            missing_departments -= {department.id for department in there.departments}
        return Known(tuple(sorted(missing_entities)), tuple(sorted(missing_departments)))


@dataclass(frozen=True, slots=True)
class BudgetView:
    """How a budget stands."""

    id: UUID
    name: str
    entity_id: UUID
    department_id: UUID | None
    currency: str
    amount: Money
    spent: Money
    held: Money
    committed: Money
    available: Money
    asked: Money | None
    """What was asked about, in its currency."""
    needs_approval: bool
    """Whether it takes that with approval only."""


class Budgets:
    """The budgets whose money requests ask for."""

    def __init__(self, budgets: ServiceClient) -> None:
        self._peer = budgets
        self._stub = LedgerServiceStub(budgets.channel)

    async def review(self, origin: Origin, budget_id: UUID, amount: Money | None) -> BudgetView:
        """How a budget stands, and whether it takes so much.

        Raises BudgetNotFound, also where it is out of scope, RateMissing or AmountTooSmall.
        """
        text = ids.BUDGET.format(budget_id)
        asked = ReviewFundsRequest(budget_id=text, amount=money_to_proto(amount) if amount else None)
        with forward_errors(ErrorReason.keys()):
            told = await self._peer.call(self._stub.ReviewFunds, asked, origin)
        budget = told.budget
        entity_id = ids.ENTITY.parse(budget.entity_id)
        department_id = ids.DEPARTMENT.parse_optional(budget.department_id)
        if origin.scope is not None and not origin.scope.covers(entity_id, department_id):
            raise BudgetNotFound(f"There is no budget {text}.", budget_id=text)
        return BudgetView(
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
            asked=money_from_proto(told.amount) if amount else None,
            needs_approval=told.verdict == Availability.APPROVAL_REQUIRED,
        )

    async def hold(
        self, origin: Origin, approval_id: UUID, *, of_round: int, budget_id: UUID, amount: Money, description: str
    ) -> UUID:
        """Set money aside for a round of a request, once; gives the hold. Raises the budget's refusal."""
        asked = HoldForApprovalRequest(
            budget_id=ids.BUDGET.format(budget_id),
            approval_id=ids.APPROVAL.format(approval_id),
            round=of_round,
            amount=money_to_proto(amount),
            description=description,
            request_id=f"{ids.APPROVAL.format(approval_id)}:{of_round}",
        )
        try:
            with forward_errors(ErrorReason.keys()):
                held = await self._peer.call(self._stub.HoldForApproval, asked, origin)
        except AioRpcError as error:
            if reason_of(error) == IdempotencyMismatch.reason:  # the round was released meanwhile
                raise Conflict from None
            raise
        return ids.HOLD.parse(held.id)

    async def release(self, origin: Origin, approval_id: UUID, *, of_round: int, budget_id: UUID) -> None:
        """Give back what a round of a request holds, and keep out a hold of it that comes late."""
        asked = ReleaseForApprovalRequest(
            budget_id=ids.BUDGET.format(budget_id), approval_id=ids.APPROVAL.format(approval_id), round=of_round
        )
        await self._peer.call(self._stub.ReleaseForApproval, asked, origin)


class Clients:
    """All of them."""

    def __init__(self, settings: Settings, bus: EventBus) -> None:
        entities = ServiceClient(settings, "entities")
        self.scopes = RemoteScopes(entities)
        self.lineage = Places(entities)
        self.rates = Rates(entities, bus)
        self.budgets = Budgets(ServiceClient(settings, "budgets"))
        self.directory = Directory(settings)
