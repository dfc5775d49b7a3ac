"""EntityService: entities, their tree, and scopes."""

from billing.entities.v1 import entity_service_pb2 as pb
from billing.entities.v1.entity_pb2 import Entity, EntityHierarchy

from contract.values import date_from_text
from kit import ids
from kit.db import Database
from kit.origin import Call
from services.entities import convert, service, store
from services.entities.convert.hierarchies import EntityMessageCache
from serving.pages import Pages


class EntityServicer:
    """billing.entities.v1.EntityService."""

    service = pb.DESCRIPTOR.services_by_name["EntityService"]

    def __init__(self, db: Database, pages: Pages) -> None:
        self._db = db
        self._pages = pages
        self._messages = EntityMessageCache()

    async def CreateEntity(self, request: pb.CreateEntityRequest, call: Call) -> Entity:
        draft = convert.entities.draft_from_proto(request)
        async with self._db.write(call) as tx:
            entity = await service.entities.create(tx, draft)
            return await tx.answer(convert.entities.to_proto(entity))

    async def ListEntities(self, request: pb.ListEntitiesRequest, call: Call) -> pb.ListEntitiesResponse:
        page, filters = self._pages.read(request, call), convert.entities.filter_from_proto(request)
        async with self._db.read(call) as tx:
            listed = await store.entities.list_page(tx, page, filters)
        entities = map(convert.entities.to_proto, listed.rows)
        return pb.ListEntitiesResponse(entities=entities, next_page_token=listed.next_page_token)

    async def GetEntityHierarchy(self, request: pb.GetEntityHierarchyRequest, call: Call) -> EntityHierarchy:
        entity_id, as_of = ids.ENTITY.parse(request.id), date_from_text(request.as_of_date)
        async with self._db.read(call) as tx:
            nodes = await service.entities.get_hierarchy(tx, entity_id, depth_max=request.max_depth, as_of=as_of)
            cached = self._messages.find(tx.tenant_id, nodes)
            rows = await store.hierarchies.find_columns(tx, [node.id for node in nodes if node.id not in cached])
        return convert.hierarchies.to_proto(nodes, cached | self._messages.add(call.tenant_id, rows))

    async def UpdateEntity(self, request: pb.UpdateEntityRequest, call: Call) -> Entity:
        changes = convert.entities.changes_from_proto(request)
        async with self._db.write(call) as tx:
            entity = await service.entities.update(tx, ids.ENTITY.parse(request.id), changes, etag=request.etag)
            return await tx.answer(convert.entities.to_proto(entity))

    async def MoveEntity(self, request: pb.MoveEntityRequest, call: Call) -> Entity:
        entity_id = ids.ENTITY.parse(request.id)
        parent_id = ids.ENTITY.parse_optional(request.new_parent_id, "new_parent_id")
        async with self._db.write(call) as tx:
            entity = await service.entities.move(tx, entity_id, parent_id, etag=request.etag)
            return await tx.answer(convert.entities.to_proto(entity))

    async def DeactivateEntity(self, request: pb.DeactivateEntityRequest, call: Call) -> Entity:
        async with self._db.write(call) as tx:
            entity = await service.entities.deactivate(tx, ids.ENTITY.parse(request.id), etag=request.etag)
            return await tx.answer(convert.entities.to_proto(entity))

    async def GetEntities(self, request: pb.GetEntitiesRequest, call: Call) -> pb.GetEntitiesResponse:
        async with self._db.read(call) as tx:
            entities = await store.entities.list_by_ids(tx, [ids.ENTITY.parse(id, "ids") for id in request.ids])
        return pb.GetEntitiesResponse(entities=map(convert.entities.to_proto, entities))

    async def GetLineage(self, request: pb.GetLineageRequest, call: Call) -> pb.GetLineageResponse:
        entity_id = ids.ENTITY.parse(request.entity_id, "entity_id")
        department_id = ids.DEPARTMENT.parse_optional(request.department_id, "department_id")
        as_of = date_from_text(request.as_of_date)
        async with self._db.read(call) as tx:
            entities, departments = await service.entities.get_lineage(tx, entity_id, department_id, as_of=as_of)
        return pb.GetLineageResponse(
            entities=map(convert.entities.to_proto, entities),
            departments=map(convert.departments.to_proto, departments),
        )

    async def ResolveScope(self, request: pb.ResolveScopeRequest, call: Call) -> pb.ResolveScopeResponse:
        entity_ids = [ids.ENTITY.parse(id, "entity_ids") for id in request.entity_ids]
        department_ids = [ids.DEPARTMENT.parse(id, "department_ids") for id in request.department_ids]
        async with self._db.read(call) as tx:
            scope = await service.scopes.resolve(tx, entity_ids, department_ids)
        return pb.ResolveScopeResponse(
            entity_ids=map(ids.ENTITY.format, sorted(scope.entity_ids)),
            department_ids=map(ids.DEPARTMENT.format, sorted(scope.department_ids)),
        )
