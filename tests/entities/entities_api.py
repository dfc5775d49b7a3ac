"""Test driver for entities, departments and exchange rates."""

from typing import Any

from billing.entities.v1 import department_service_pb2 as departments_pb
from billing.entities.v1 import entity_service_pb2 as pb
from billing.entities.v1 import exchange_rate_service_pb2 as rates_pb
from billing.entities.v1.department_pb2 import Department
from billing.entities.v1.entity_pb2 import Entity, EntityHierarchy
from billing.entities.v1.exchange_rate_pb2 import ConversionRate, ExchangeRate

from tests.harness.callers import Caller
from tests.harness.services import Entities


class EntitiesApi:
    """Calls the entities, departments and rates services on behalf of a caller."""

    def __init__(self, caller: Caller, stubs: Entities) -> None:
        self.caller = caller
        self.entities_stub = stubs.entities
        self.departments_stub = stubs.departments
        self.rates_stub = stubs.rates
        self.contracts_stub = stubs.contracts
        self.amendments_stub = stubs.amendments

    async def create_entity(self, code: str = "ACME", **fields: Any) -> Entity:
        return await self.caller.call(self.entities_stub.CreateEntity, entity_request(code, **fields))

    async def tree(self, entity: Entity | str, max_depth: int = 0) -> EntityHierarchy:
        request = pb.GetEntityHierarchyRequest(id=_id(entity), max_depth=max_depth)
        return await self.caller.call(self.entities_stub.GetEntityHierarchy, request)

    async def get(self, entity: Entity | str) -> Entity:
        return (await self.tree(entity, max_depth=1)).entity

    async def entities(self, **filters: Any) -> list[str]:
        """The codes of all entities that match."""
        request = pb.ListEntitiesRequest(page_size=1000, **filters)
        return [entity.code for entity in (await self.caller.call(self.entities_stub.ListEntities, request)).entities]

    async def update(self, entity: Entity | str, **fields: Any) -> Entity:
        return await self.caller.call(self.entities_stub.UpdateEntity, pb.UpdateEntityRequest(id=_id(entity), **fields))

    async def deactivate(self, entity: Entity | str, **fields: Any) -> Entity:
        request = pb.DeactivateEntityRequest(id=_id(entity), **fields)
        return await self.caller.call(self.entities_stub.DeactivateEntity, request)

    async def create_department(self, entity: Entity | str, code: str = "ENG", **fields: Any) -> Department:
        request = department_request(entity, code, **fields)
        return await self.caller.call(self.departments_stub.CreateDepartment, request)

    async def department(self, department: Department | str) -> Department:
        request = departments_pb.GetDepartmentRequest(id=_id(department))
        return await self.caller.call(self.departments_stub.GetDepartment, request)

    async def departments(self, **filters: Any) -> list[str]:
        """The codes of all departments that match."""
        request = departments_pb.ListDepartmentsRequest(page_size=1000, **filters)
        response = await self.caller.call(self.departments_stub.ListDepartments, request)
        return [department.code for department in response.departments]

    async def update_department(self, department: Department | str, **fields: Any) -> Department:
        request = departments_pb.UpdateDepartmentRequest(id=_id(department), **fields)
        return await self.caller.call(self.departments_stub.UpdateDepartment, request)

    async def set_rates(self, *rates: str, source: str = "", **fields: Any) -> rates_pb.SetExchangeRatesResponse:
        """Store rates, each as "2026-03-01 EUR/USD 1.25"."""
        inputs = [rate_input(rate, source) for rate in rates]
        request = rates_pb.SetExchangeRatesRequest(rates=inputs, **fields)
        return await self.caller.call(self.rates_stub.SetExchangeRates, request)

    async def list_rates(self, **filters: Any) -> list[ExchangeRate]:
        """All rates that match."""
        request = rates_pb.ListExchangeRatesRequest(page_size=1000, **filters)
        return list((await self.caller.call(self.rates_stub.ListExchangeRates, request)).exchange_rates)

    async def rates(self, **filters: Any) -> list[str]:
        """All rates that match, in the format of `set_rates`."""
        return [rate_text(rate) for rate in await self.list_rates(**filters)]

    async def convert(self, *conversions: str) -> list[ConversionRate]:
        """The rates of conversions, each as "2026-03-01 USD/EUR"."""
        messages = [
            rates_pb.Conversion(conversion_date=day, from_currency=pair[:3], to_currency=pair[4:])
            for day, pair in map(str.split, conversions)
        ]
        return list(
            (await self.caller.call(self.rates_stub.GetRates, rates_pb.GetRatesRequest(conversions=messages))).rates
        )


def rate_input(text: str, source: str = "") -> rates_pb.ExchangeRateInput:
    """Parse "2026-03-01 EUR/USD 1.25"."""
    day, pair, rate = text.split()
    base, quote = pair.split("/")
    return rates_pb.ExchangeRateInput(
        base_currency=base, quote_currency=quote, effective_date=day, rate=rate, source=source
    )


def rate_text(rate: ExchangeRate) -> str:
    """The inverse of `rate_input`."""
    return f"{rate.effective_date} {rate.base_currency}/{rate.quote_currency} {rate.rate}"


def entity_request(code: str = "ACME", **fields: Any) -> pb.CreateEntityRequest:
    """With the required fields."""
    required = {
        "code": code, "legal_name": f"{code} SE", "entity_type": Entity.SUBSIDIARY, "currency_code": "EUR",
        "country_code": "DE",
    }  # fmt: skip
    return pb.CreateEntityRequest(**{**required, **fields})


def department_request(
    entity: Entity | str, code: str = "ENG", **fields: Any
) -> departments_pb.CreateDepartmentRequest:
    """With the required fields."""
    return departments_pb.CreateDepartmentRequest(**{"entity_id": _id(entity), "code": code, "name": code, **fields})


def _id(resource: Entity | Department | str) -> str:
    return resource if isinstance(resource, str) else resource.id
