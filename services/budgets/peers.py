"""What the budgets service asks of other services; never inside a transaction."""

import asyncio
import time
from collections import OrderedDict
from datetime import date
from decimal import Decimal
from typing import Final
from uuid import UUID

from billing.entities.v1.department_pb2 import Department
from billing.entities.v1.department_service_pb2 import GetDepartmentsRequest
from billing.entities.v1.department_service_pb2_grpc import DepartmentServiceStub
from billing.entities.v1.entity_pb2 import Entity
from billing.entities.v1.entity_service_pb2 import GetEntitiesRequest
from billing.entities.v1.entity_service_pb2_grpc import EntityServiceStub
from billing.entities.v1.events_pb2 import ExchangeRatesChanged
from billing.entities.v1.exchange_rate_service_pb2 import Conversion, GetRatesRequest
from billing.entities.v1.exchange_rate_service_pb2_grpc import ExchangeRateServiceStub

from eventing.bus import Bus
from kit import ids
from kit.origin import Origin
from services.budgets.domain.owners import Owner
from services.budgets.domain.rates import Rate
from serving.clients import Peer

_REMEMBERED_S: Final = 300.0
"""Rates are forgotten when they change; this is for the change that was not heard of."""
_REMEMBERED_MAX: Final = 50_000


class Owners:
    """The entities and departments that budgets belong to."""

    def __init__(self, entities: Peer) -> None:
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


Asked = tuple[str, str, date]
"""From a currency to a currency on a day."""


class Rates:
    """Exchange rates; remembered until they change."""

    def __init__(self, entities: Peer, bus: Bus) -> None:
        self._peer = entities
        self._stub = ExchangeRateServiceStub(entities.channel)
        self._bus = bus
        self._known: OrderedDict[tuple[UUID, Asked], tuple[float, Rate]] = OrderedDict()
        self._changes = 0

    async def find(self, origin: Origin, asked: list[Asked]) -> list[Rate | None]:
        """The rate of each that is asked for, None where there is none; all that are not known in one call."""
        now = time.monotonic()
        known: dict[Asked, Rate] = {}
        for one in asked:
            until, rate = self._known.get((origin.tenant_id, one), (0.0, None))
            if rate is not None and until > now:
                known[one] = rate
        missing = [one for one in dict.fromkeys(asked) if one not in known]
        if missing:
            known |= await self._ask(origin, missing)
        return [known.get(one) for one in asked]

    async def _ask(self, origin: Origin, asked: list[Asked]) -> dict[Asked, Rate]:
        wanted = [
            Conversion(from_currency=given, to_currency=to, conversion_date=on.isoformat()) for given, to, on in asked
        ]
        changes = self._changes
        reply = await self._peer.call(self._stub.GetRates, GetRatesRequest(conversions=wanted), origin)
        found = {
            one: Rate(Decimal(rate.rate), date.fromisoformat(rate.rate_date))
            for one, rate in zip(asked, reply.rates, strict=True)
            if rate.rate
        }
        for one, rate in found.items() if changes == self._changes else ():  # what changed meanwhile is not remembered
            self._known[origin.tenant_id, one] = time.monotonic() + _REMEMBERED_S, rate
            while len(self._known) > _REMEMBERED_MAX:
                self._known.popitem(last=False)
        return found

    async def forget_changed(self) -> None:
        """Forget the rates of a tenant whenever they change, until cancelled."""
        async for message in self._bus.listen(f"{ExchangeRatesChanged.DESCRIPTOR.full_name}.*"):
            self._changes += 1
            tenant_id = UUID(message.subject.rpartition(".")[2])
            for key in [key for key in self._known if key[0] == tenant_id]:
                del self._known[key]


async def _nothing() -> None:
    return None
