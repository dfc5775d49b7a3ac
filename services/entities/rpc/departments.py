"""DepartmentService: departments and their placements."""

from billing.entities.v1 import department_service_pb2 as pb
from billing.entities.v1.department_pb2 import Department

from clients.directory import Directory
from contract.values import date_from_text
from kit import ids
from kit.db import Database
from kit.origin import Call
from services.entities import convert, service, store
from serving.pages import Pages


class DepartmentServicer:
    """billing.entities.v1.DepartmentService."""

    service = pb.DESCRIPTOR.services_by_name["DepartmentService"]

    def __init__(self, db: Database, pages: Pages, directory: Directory) -> None:
        self._db = db
        self._pages = pages
        self._directory = directory

    async def CreateDepartment(self, request: pb.CreateDepartmentRequest, call: Call) -> Department:
        draft = convert.departments.draft_from_proto(request)
        manager = await self._directory.find(call, draft.manager_user_id)
        async with self._db.write(call) as tx:
            department = await service.departments.create(tx, draft, manager)
            return await tx.answer(convert.departments.to_proto(department))

    async def ListDepartments(self, request: pb.ListDepartmentsRequest, call: Call) -> pb.ListDepartmentsResponse:
        page, filters = self._pages.read(request, call), convert.departments.filter_from_proto(request)
        async with self._db.read(call) as tx:
            listed = await store.departments.list_page(tx, page, filters)
        departments = map(convert.departments.to_proto, listed.rows)
        return pb.ListDepartmentsResponse(departments=departments, next_page_token=listed.next_page_token)

    async def GetDepartment(self, request: pb.GetDepartmentRequest, call: Call) -> Department:
        async with self._db.read(call) as tx:
            department = await store.departments.get(tx, ids.DEPARTMENT.parse(request.id))
        return convert.departments.to_proto(department)

    async def UpdateDepartment(self, request: pb.UpdateDepartmentRequest, call: Call) -> Department:
        changes = convert.departments.changes_from_proto(request)
        department_id = ids.DEPARTMENT.parse(request.id)
        manager = await self._directory.find(call, changes.get("manager_user_id", ""))
        async with self._db.write(call) as tx:
            department = await service.departments.update(
                tx, department_id, changes, manager=manager, etag=request.etag
            )
            return await tx.answer(convert.departments.to_proto(department))

    async def MoveDepartment(self, request: pb.MoveDepartmentRequest, call: Call) -> Department:
        department_id = ids.DEPARTMENT.parse(request.id)
        parent_id = ids.DEPARTMENT.parse_optional(request.new_parent_id, "new_parent_id")
        day = date_from_text(request.effective_date)
        async with self._db.write(call) as tx:
            department = await service.placements.move(tx, department_id, parent_id, day, etag=request.etag)
            return await tx.answer(convert.departments.to_proto(department))

    async def DeactivateDepartment(self, request: pb.DeactivateDepartmentRequest, call: Call) -> Department:
        department_id = ids.DEPARTMENT.parse(request.id)
        async with self._db.write(call) as tx:
            department = await service.departments.deactivate(tx, department_id, etag=request.etag)
            return await tx.answer(convert.departments.to_proto(department))

    async def ActivateDepartment(self, request: pb.ActivateDepartmentRequest, call: Call) -> Department:
        department_id = ids.DEPARTMENT.parse(request.id)
        async with self._db.write(call) as tx:
            department = await service.departments.activate(tx, department_id, etag=request.etag)
            return await tx.answer(convert.departments.to_proto(department))

    async def ListDepartmentHistory(
        self, request: pb.ListDepartmentHistoryRequest, call: Call
    ) -> pb.ListDepartmentHistoryResponse:
        page = self._pages.read(request, call)
        async with self._db.read(call) as tx:
            department = await store.departments.get(tx, ids.DEPARTMENT.parse(request.id))
            listed = await store.placements.list_page(tx, page, department.id)
        placements = map(convert.departments.placement_to_proto, listed.rows)
        return pb.ListDepartmentHistoryResponse(placements=placements, next_page_token=listed.next_page_token)

    async def GetDepartments(self, request: pb.GetDepartmentsRequest, call: Call) -> pb.GetDepartmentsResponse:
        async with self._db.read(call) as tx:
            departments = await store.departments.list_by_ids(
                tx, [ids.DEPARTMENT.parse(id, "ids") for id in request.ids]
            )
        return pb.GetDepartmentsResponse(departments=map(convert.departments.to_proto, departments))
