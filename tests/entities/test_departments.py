import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeAlias
from uuid import UUID
from zoneinfo import ZoneInfo

import asyncpg
import pytest
from billing.entities.v1 import department_service_pb2 as pb
from billing.entities.v1.department_pb2 import Department
from billing.entities.v1.entity_pb2 import Entity
from billing.entities.v1.events_pb2 import DepartmentManagerChanged
from grpc import StatusCode

from kit import ids
from tests.entities.entities_api import EntitiesApi, department_request
from tests.harness.callers import Caller, refusal
from tests.harness.observe import PublishedEvents

UNKNOWN_ID = ids.DEPARTMENT.format(UUID(int=1))
Admin: TypeAlias = "asyncpg.Pool[asyncpg.Record]"


@pytest.fixture
async def acme(api: EntitiesApi) -> Entity:
    return await api.create_entity("ACME", time_zone="Pacific/Kiritimati")


class TestCreateDepartment:
    async def test_has_the_given_fields(self, api: EntitiesApi, acme: Entity) -> None:
        top = await api.create_department(acme, "TOP")
        fields: dict[str, Any] = {
            "entity_id": acme.id, "parent_id": top.id, "code": "ENG", "name": "Engineering", "cost_center": "4711",
            "gl_code": "6000", "manager_user_id": "bob", "headcount": 42,
        }  # fmt: skip
        created = await api.create_department(acme, **fields)
        assert created == Department(
            **fields,
            id=created.id,
            state=Department.ACTIVE,
            etag="1",
            create_time=created.create_time,
            update_time=created.update_time,
        )
        assert await api.department(created) == created

    async def test_code_is_unique_within_the_entity(self, api: EntitiesApi, acme: Entity) -> None:
        await api.create_department(acme, "ENG")
        error = await refusal(api.create_department(acme, "ENG"))
        assert (error.code, error.reason) == (StatusCode.ALREADY_EXISTS, "DEPARTMENT_CODE_TAKEN")
        assert error.metadata == {"entity_id": acme.id, "code": "ENG"}
        assert (await api.create_department(await api.create_entity("OTHER"), "ENG")).code == "ENG"

    async def test_unknown_entity_is_not_found(self, api: EntitiesApi) -> None:
        unknown_id = ids.ENTITY.format(ids.new())
        error = await refusal(api.create_department(unknown_id))
        assert (error.reason, error.metadata) == ("ENTITY_NOT_FOUND", {"entity_id": unknown_id})

    async def test_unknown_parent_is_not_found(self, api: EntitiesApi, acme: Entity) -> None:
        error = await refusal(api.create_department(acme, parent_id=UNKNOWN_ID))
        assert (error.reason, error.metadata) == ("DEPARTMENT_NOT_FOUND", {"department_id": UNKNOWN_ID})

    async def test_inactive_entity_is_refused(self, api: EntitiesApi, acme: Entity) -> None:
        top = await api.create_department(acme, "TOP")
        await api.deactivate(acme)
        for fields in ({}, {"parent_id": top.id}):
            error = await refusal(api.create_department(acme, **fields))
            assert (error.code, error.reason) == (StatusCode.FAILED_PRECONDITION, "ENTITY_STATE")
            assert error.metadata == {"entity_id": acme.id, "state": "INACTIVE", "allowed": "ACTIVE"}

    async def test_inactive_parent_is_refused(self, api: EntitiesApi, acme: Entity, admin: Admin) -> None:
        top = await api.create_department(acme, "TOP")
        await _deactivate(admin, top)
        error = await refusal(api.create_department(acme, parent_id=top.id))
        assert (error.code, error.reason) == (StatusCode.FAILED_PRECONDITION, "DEPARTMENT_STATE")
        assert error.metadata == {"department_id": top.id, "state": "INACTIVE", "allowed": "ACTIVE"}

    async def test_parent_of_another_entity_is_refused(self, api: EntitiesApi, acme: Entity) -> None:
        elsewhere = await api.create_department(await api.create_entity("OTHER"), "TOP")
        error = await refusal(api.create_department(acme, parent_id=elsewhere.id))
        assert (error.code, error.reason) == (StatusCode.FAILED_PRECONDITION, "DEPARTMENT_OF_OTHER_ENTITY")
        assert error.metadata == {"department_id": elsewhere.id, "entity_id": acme.id}

    async def test_tree_has_sixteen_levels_at_most(self, api: EntitiesApi, acme: Entity) -> None:
        lowest = await api.create_department(acme, "L1")
        for level in range(2, 17):
            lowest = await api.create_department(acme, f"L{level}", parent_id=lowest.id)
        error = await refusal(api.create_department(acme, "L17", parent_id=lowest.id))
        assert (error.code, error.reason) == (StatusCode.FAILED_PRECONDITION, "DEPARTMENT_TREE_TOO_DEEP")
        assert error.metadata == {"parent_id": lowest.id, "limit": "16"}

    async def test_history_begins_today_in_the_time_zone_of_the_entity(
        self, api: EntitiesApi, acme: Entity, admin: Admin
    ) -> None:
        before = datetime.now(ZoneInfo(acme.time_zone)).date()
        top = await api.create_department(acme, "TOP")
        below = await api.create_department(acme, "BELOW", parent_id=top.id)
        history = await admin.fetch(
            "select department_id, parent_id, effective_from, effective_to from entities.department_history"
            " where tenant_id = $1 order by id",
            api.caller.tenant_id,
        )
        after = datetime.now(ZoneInfo(acme.time_zone)).date()
        top_id, below_id = ids.DEPARTMENT.parse(top.id), ids.DEPARTMENT.parse(below.id)
        assert [(row["department_id"], row["parent_id"]) for row in history] == [(top_id, None), (below_id, top_id)]
        assert all(before <= row["effective_from"] <= after and row["effective_to"] is None for row in history)

    async def test_repeated_key_returns_same_response_and_refuses_another_body(
        self, api: EntitiesApi, acme: Entity
    ) -> None:
        first = await api.create_department(acme, request_id="key-1")
        assert await api.create_department(acme, request_id="key-1") == first
        assert (
            await refusal(api.create_department(acme, "OTHER", request_id="key-1"))
        ).reason == "IDEMPOTENCY_MISMATCH"
        assert await api.departments() == ["ENG"]

    async def test_creation_and_deactivation_of_the_entity_exclude_each_other(self, api: EntitiesApi) -> None:
        for round_ in range(8):
            entity = await api.create_entity(f"E{round_}")
            births = (api.create_department(entity, f"D{n}") for n in range(3))
            *responses, gone = await asyncio.gather(*births, api.deactivate(entity), return_exceptions=True)
            assert isinstance(gone, Entity)
            created = [response for response in responses if isinstance(response, Department)]
            assert all(
                department.create_time.ToNanoseconds() <= gone.update_time.ToNanoseconds() for department in created
            )


class TestUpdateDepartment:
    async def test_only_given_fields_change(self, api: EntitiesApi, acme: Entity) -> None:
        department = await api.create_department(acme, cost_center="1", headcount=3)
        updated = await api.update_department(department, name="Research", gl_code="6100")
        expected = Department()
        expected.CopyFrom(department)
        expected.name, expected.gl_code, expected.etag = "Research", "6100", "2"
        expected.update_time.CopyFrom(updated.update_time)
        assert updated == expected
        assert await api.department(department) == updated

    async def test_empty_fields_are_cleared(self, api: EntitiesApi, acme: Entity) -> None:
        department = await api.create_department(acme, cost_center="1", gl_code="2", manager_user_id="bob", headcount=3)
        request = pb.UpdateDepartmentRequest(id=department.id)
        request.update_mask.paths.extend(["cost_center", "headcount"])
        cleared = await api.caller.call(api.departments_stub.UpdateDepartment, request)
        assert (cleared.cost_center, cleared.headcount, cleared.gl_code) == ("", 0, "2")
        cleared = await api.update_department(department, gl_code="", manager_user_id="")
        assert (cleared.gl_code, cleared.manager_user_id) == ("", "")

    async def test_code_and_name_cannot_be_cleared(self, api: EntitiesApi, acme: Entity) -> None:
        request = pb.UpdateDepartmentRequest(id=(await api.create_department(acme)).id)
        request.update_mask.paths.extend(["code", "name", "gl_code"])
        error = await refusal(api.caller.call(api.departments_stub.UpdateDepartment, request))
        assert (error.reason, set(error.fields)) == ("INVALID_FIELDS", {"code", "name"})

    async def test_new_code_must_be_free(self, api: EntitiesApi, acme: Entity) -> None:
        await api.create_department(acme, "ONE")
        two = await api.create_department(acme, "TWO")
        assert (await refusal(api.update_department(two, code="ONE"))).reason == "DEPARTMENT_CODE_TAKEN"
        assert (await api.update_department(two, code="THREE")).code == "THREE"

    async def test_stale_etag_is_refused(self, api: EntitiesApi, acme: Entity) -> None:
        department = await api.create_department(acme)
        await api.update_department(department, name="Research", etag="1")
        error = await refusal(api.update_department(department, name="Development", etag="1"))
        assert (error.code, error.reason) == (StatusCode.ABORTED, "ETAG_MISMATCH")
        assert (await api.department(department)).name == "Research"

    async def test_change_of_manager_is_published(
        self, api: EntitiesApi, acme: Entity, published_events: PublishedEvents
    ) -> None:
        department = await api.create_department(acme, manager_user_id="bob")
        await api.update_department(department, name="Research")
        await api.update_department(department, manager_user_id="carol")
        await api.update_department(department, manager_user_id="carol")
        await api.update_department(department, manager_user_id="")
        names = {"department_id": department.id, "entity_id": acme.id}
        assert await published_events.at_least(2, DepartmentManagerChanged) == [
            DepartmentManagerChanged(**names, old_manager_user_id="bob", new_manager_user_id="carol"),
            DepartmentManagerChanged(**names, old_manager_user_id="carol", new_manager_user_id=""),
        ]

    async def test_inactive_department_can_be_changed(self, api: EntitiesApi, acme: Entity, admin: Admin) -> None:
        department = await api.create_department(acme)
        await _deactivate(admin, department)
        assert (await api.update_department(department, name="Closed")).state == Department.INACTIVE

    async def test_repeated_key_returns_same_response_and_refuses_another_body(
        self, api: EntitiesApi, acme: Entity
    ) -> None:
        department = await api.create_department(acme)
        first = await api.update_department(department, name="Research", request_id="key-1")
        assert await api.update_department(department, name="Research", request_id="key-1") == first
        assert (
            await refusal(api.update_department(department, name="X", request_id="key-1"))
        ).reason == "IDEMPOTENCY_MISMATCH"

    async def test_unknown_department_is_not_found(self, api: EntitiesApi) -> None:
        for call in (api.update_department(UNKNOWN_ID, name="X"), api.department(UNKNOWN_ID)):
            error = await refusal(call)
            assert (error.reason, error.metadata) == ("DEPARTMENT_NOT_FOUND", {"department_id": UNKNOWN_ID})


class TestGetDepartments:
    async def test_unknown_ids_are_left_out(
        self, api: EntitiesApi, acme: Entity, service_caller: Caller, caller: Callable[..., Caller]
    ) -> None:
        one, two = await api.create_department(acme, "ONE"), await api.create_department(acme, "TWO")
        request = pb.GetDepartmentsRequest(ids=[two.id, UNKNOWN_ID, one.id, one.id])
        response = await service_caller.call(api.departments_stub.GetDepartments, request)
        assert list(response.departments) == [one, two]
        error = await refusal(caller("billing_admin").call(api.departments_stub.GetDepartments, request))
        assert (error.code, error.metadata) == (StatusCode.PERMISSION_DENIED, {"permission": "service"})


async def _deactivate(admin: Admin, department: Department) -> None:
    """Deactivate a department directly in the database."""
    async with admin.acquire() as connection, connection.transaction():
        await connection.execute("set local search_path = entities")
        await connection.execute(
            "update departments set state = 'INACTIVE' where id = $1", ids.DEPARTMENT.parse(department.id)
        )


async def test_database_refuses_parent_of_another_entity(api: EntitiesApi, acme: Entity, admin: Admin) -> None:
    elsewhere = await api.create_department(await api.create_entity("OTHER"), "TOP")
    department = await api.caller.call(api.departments_stub.CreateDepartment, department_request(acme))
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await admin.execute(
            "update entities.departments set parent_id = $1 where id = $2",
            ids.DEPARTMENT.parse(elsewhere.id),
            ids.DEPARTMENT.parse(department.id),
        )
