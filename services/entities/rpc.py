"""The gRPC side of entities: read the request, open a transaction, call the use case, return the message."""

from dataclasses import asdict

from billing.entities.v1 import department_service_pb2 as departments_pb
from billing.entities.v1 import entity_service_pb2 as pb
from billing.entities.v1 import exchange_rate_service_pb2 as rates_pb
from billing.entities.v1.department_pb2 import Department
from billing.entities.v1.entity_pb2 import Entity, EntityHierarchy

from contract.values import date_from_text
from kit import ids
from kit.auth import Scope
from kit.db import Database
from kit.errors import InvalidFields, TokenInvalid
from kit.origin import Call
from services.entities import convert, service, store
from services.entities.domain import DepartmentState, EntityState, EntityType
from serving.pages import Pages
from serving.scope import named_by


class EntityServicer:
    """billing.entities.v1.EntityService."""

    service = pb.DESCRIPTOR.services_by_name["EntityService"]

    def __init__(self, db: Database, pages: Pages) -> None:
        self._db = db
        self._pages = pages

    async def CreateEntity(self, request: pb.CreateEntityRequest, call: Call) -> Entity:
        draft = convert.entity_draft_from_proto(request)
        async with self._db.write(call) as tx:
            entity = await service.create_entity(tx, draft)
            return await tx.answer(convert.entity_to_proto(entity))

    async def ListEntities(self, request: pb.ListEntitiesRequest, call: Call) -> pb.ListEntitiesResponse:
        page = self._pages.read(request, call)
        async with self._db.read(call) as tx:
            found = await store.list_entities(
                tx,
                page,
                state=EntityState(Entity.State.Name(request.state)) if request.state else None,
                parent_id=ids.ENTITY.parse_optional(request.parent_id, "parent_id"),
                entity_type=EntityType(Entity.Type.Name(request.entity_type)) if request.entity_type else None,
                code=request.code,
                text=request.q,
            )
        entities = map(convert.entity_to_proto, found.rows)
        return pb.ListEntitiesResponse(entities=entities, next_page_token=found.next_page_token)

    async def GetEntityHierarchy(self, request: pb.GetEntityHierarchyRequest, call: Call) -> EntityHierarchy:
        async with self._db.read(call) as tx:
            rows = await store.get_entity_tree(tx, ids.ENTITY.parse(request.id), depth_max=request.max_depth)
        return convert.hierarchy_to_proto(rows)

    async def UpdateEntity(self, request: pb.UpdateEntityRequest, call: Call) -> Entity:
        changes = convert.entity_changes_from_proto(request)
        async with self._db.write(call) as tx:
            entity = await service.update_entity(tx, ids.ENTITY.parse(request.id), changes, etag=request.etag)
            return await tx.answer(convert.entity_to_proto(entity))

    async def DeactivateEntity(self, request: pb.DeactivateEntityRequest, call: Call) -> Entity:
        async with self._db.write(call) as tx:
            entity = await service.deactivate_entity(tx, ids.ENTITY.parse(request.id), etag=request.etag)
            return await tx.answer(convert.entity_to_proto(entity))

    async def GetEntities(self, request: pb.GetEntitiesRequest, call: Call) -> pb.GetEntitiesResponse:
        async with self._db.read(call) as tx:
            found = await store.find_entities(tx, [ids.ENTITY.parse(id, "ids") for id in request.ids])
        return pb.GetEntitiesResponse(entities=map(convert.entity_to_proto, found))

    async def ResolveScope(self, request: pb.ResolveScopeRequest, call: Call) -> pb.ResolveScopeResponse:
        entity_ids = [ids.ENTITY.parse(id, "entity_ids") for id in request.entity_ids]
        department_ids = [ids.DEPARTMENT.parse(id, "department_ids") for id in request.department_ids]
        async with self._db.read(call) as tx:
            scope = await service.resolve_scope(tx, entity_ids, department_ids)
        return pb.ResolveScopeResponse(
            entity_ids=map(ids.ENTITY.format, sorted(scope.entity_ids)),
            department_ids=map(ids.DEPARTMENT.format, sorted(scope.department_ids)),
        )


class DepartmentServicer:
    """billing.entities.v1.DepartmentService."""

    service = departments_pb.DESCRIPTOR.services_by_name["DepartmentService"]

    def __init__(self, db: Database, pages: Pages) -> None:
        self._db = db
        self._pages = pages

    async def CreateDepartment(self, request: departments_pb.CreateDepartmentRequest, call: Call) -> Department:
        draft = convert.department_draft_from_proto(request)
        async with self._db.write(call) as tx:
            department = await service.create_department(tx, draft)
            return await tx.answer(convert.department_to_proto(department))

    async def ListDepartments(
        self, request: departments_pb.ListDepartmentsRequest, call: Call
    ) -> departments_pb.ListDepartmentsResponse:
        page = self._pages.read(request, call)
        async with self._db.read(call) as tx:
            found = await store.list_departments(
                tx,
                page,
                entity_id=ids.ENTITY.parse_optional(request.entity_id, "entity_id"),
                parent_id=ids.DEPARTMENT.parse_optional(request.parent_id, "parent_id"),
                manager_user_id=request.manager_user_id,
                cost_center=request.cost_center,
                state=DepartmentState(Department.State.Name(request.state)) if request.state else None,
            )
        departments = map(convert.department_to_proto, found.rows)
        return departments_pb.ListDepartmentsResponse(departments=departments, next_page_token=found.next_page_token)

    async def GetDepartment(self, request: departments_pb.GetDepartmentRequest, call: Call) -> Department:
        async with self._db.read(call) as tx:
            return convert.department_to_proto(await store.get_department(tx, ids.DEPARTMENT.parse(request.id)))

    async def UpdateDepartment(self, request: departments_pb.UpdateDepartmentRequest, call: Call) -> Department:
        changes = convert.department_changes_from_proto(request)
        async with self._db.write(call) as tx:
            department_id = ids.DEPARTMENT.parse(request.id)
            department = await service.update_department(tx, department_id, changes, etag=request.etag)
            return await tx.answer(convert.department_to_proto(department))

    async def GetDepartments(
        self, request: departments_pb.GetDepartmentsRequest, call: Call
    ) -> departments_pb.GetDepartmentsResponse:
        async with self._db.read(call) as tx:
            found = await store.find_departments(tx, [ids.DEPARTMENT.parse(id, "ids") for id in request.ids])
        return departments_pb.GetDepartmentsResponse(departments=map(convert.department_to_proto, found))


class ExchangeRateServicer:
    """billing.entities.v1.ExchangeRateService."""

    service = rates_pb.DESCRIPTOR.services_by_name["ExchangeRateService"]

    def __init__(self, db: Database, pages: Pages) -> None:
        self._db = db
        self._pages = pages

    async def SetExchangeRates(
        self, request: rates_pb.SetExchangeRatesRequest, call: Call
    ) -> rates_pb.SetExchangeRatesResponse:
        drafts = convert.rate_drafts_from_proto(request)
        async with self._db.write(call) as tx:
            done = await service.set_exchange_rates(tx, drafts)
            return await tx.answer(rates_pb.SetExchangeRatesResponse(**asdict(done)))

    async def ListExchangeRates(
        self, request: rates_pb.ListExchangeRatesRequest, call: Call
    ) -> rates_pb.ListExchangeRatesResponse:
        page = self._pages.read(request, call)
        async with self._db.read(call) as tx:
            found = await store.list_rates(
                tx,
                page,
                base_currency=request.base_currency,
                quote_currency=request.quote_currency,
                start=date_from_text(request.start_date),
                end=date_from_text(request.end_date),
            )
        rates = map(convert.exchange_rate_to_proto, found.rows)
        return rates_pb.ListExchangeRatesResponse(exchange_rates=rates, next_page_token=found.next_page_token)

    async def GetRates(self, request: rates_pb.GetRatesRequest, call: Call) -> rates_pb.GetRatesResponse:
        conversions = convert.conversions_from_proto(request)
        async with self._db.read(call) as tx:
            found = await service.get_rates(tx, conversions)
        return rates_pb.GetRatesResponse(rates=map(convert.conversion_rate_to_proto, conversions, found))


class LocalScopes:
    """What a confined caller may see, out of our own tables: for this service what ResolveScope is for the others."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def resolve(self, call: Call) -> Scope:
        """All entities and departments that the caller's token covers; raises TokenInvalid where it names no ids."""
        entities, departments = named_by(call.principal)
        try:
            entity_ids, department_ids = map(ids.ENTITY.parse, entities), map(ids.DEPARTMENT.parse, departments)
            named = list(entity_ids), list(department_ids)
        except InvalidFields:
            raise TokenInvalid from None
        async with self._db.read(call) as tx:
            return await service.resolve_scope(tx, *named)
