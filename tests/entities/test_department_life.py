"""Activation and deactivation of departments: every action in every state, and what forbids it."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import pytest
from billing.entities.v1.department_pb2 import Department
from billing.entities.v1.entity_pb2 import Entity
from grpc import StatusCode, aio

from services.entities.domain.departments import DEPARTMENT_TRANSITIONS, DepartmentAction, DepartmentState
from tests.entities.tree_api import TreeApi
from tests.harness.callers import Caller, Refusal, refusal
from tests.harness.services import Entities


@pytest.fixture
def api(entities: Entities, finance: Caller) -> TreeApi:
    return TreeApi(finance, entities)


def in_days(days: int) -> str:
    return (datetime.now(UTC).date() + timedelta(days=days)).isoformat()


async def below(api: TreeApi, parent: Department) -> Department:
    return await api.create_department(parent.entity_id, "BELOW", parent_id=parent.id)


ACTIONS: dict[DepartmentAction, Callable[[TreeApi, Department], Awaitable[Department]]] = {
    DepartmentAction.CHANGE: lambda api, department: api.update_department(department, name="Another"),
    DepartmentAction.ADD_CHILD: below,
    DepartmentAction.MOVE: lambda api, department: api.move_department(department),
    DepartmentAction.DEACTIVATE: lambda api, department: api.deactivate_department(department),
    DepartmentAction.ACTIVATE: lambda api, department: api.activate_department(department),
}


class TestStates:
    @pytest.mark.parametrize("action", ACTIONS)
    @pytest.mark.parametrize("state", DepartmentState)
    async def test_every_action_in_every_state(
        self, api: TreeApi, acme: Entity, state: DepartmentState, action: DepartmentAction
    ) -> None:
        department = await api.create_department(acme)
        if state is DepartmentState.INACTIVE:
            await api.deactivate_department(department)
        after = DEPARTMENT_TRANSITIONS.get((state, action))
        if after:
            await ACTIONS[action](api, department)
            assert (await api.department(department)).state == Department.State.Value(after)
            return
        error = await refusal(ACTIONS[action](api, department))
        allowed = [before for before, other in DEPARTMENT_TRANSITIONS if other is action]
        assert (error.code, error.reason) == (StatusCode.FAILED_PRECONDITION, "DEPARTMENT_STATE")
        assert error.metadata == {"department_id": department.id, "state": state, "allowed": ", ".join(allowed)}


class TestDeactivateDepartment:
    async def test_deactivate_and_activate(self, api: TreeApi, acme: Entity) -> None:
        department = await api.create_department(acme)
        inactive = await api.deactivate_department(department)
        assert (inactive.state, inactive.etag) == (Department.INACTIVE, "2")
        assert await api.departments(state=Department.INACTIVE) == ["ENG"]
        active = await api.activate_department(department, etag=inactive.etag)
        assert (active.state, active.etag) == (Department.ACTIVE, "3")

    async def test_department_with_active_children_is_not_deactivated(self, api: TreeApi, acme: Entity) -> None:
        top = await api.create_department(acme, "TOP")
        low = await api.create_department(acme, "LOW", parent_id=top.id)
        gone = await api.create_department(acme, "GONE", parent_id=top.id)
        await api.deactivate_department(gone)
        error = await refusal(api.deactivate_department(top))
        assert (error.code, error.reason) == (StatusCode.FAILED_PRECONDITION, "DEPARTMENT_HAS_ACTIVE_CHILDREN")
        assert error.metadata == {"department_id": top.id, "child_ids": low.id}
        await api.deactivate_department(low)
        assert (await api.deactivate_department(top)).state == Department.INACTIVE

    async def test_department_with_planned_active_child_is_not_deactivated(self, api: TreeApi, acme: Entity) -> None:
        target, mover = await api.create_department(acme, "TARGET"), await api.create_department(acme, "MOVER")
        await api.move_department(mover, target, in_days(5))
        assert (await refusal(api.deactivate_department(target))).reason == "DEPARTMENT_HAS_ACTIVE_CHILDREN"
        await api.move_department(mover)
        assert (await api.deactivate_department(target)).state == Department.INACTIVE

    async def test_former_children_do_not_count(self, api: TreeApi, acme: Entity) -> None:
        top = await api.create_department(acme, "TOP")
        low = await api.create_department(acme, "LOW", parent_id=top.id)
        await api.move_department(low)
        assert (await api.deactivate_department(top)).state == Department.INACTIVE

    async def test_keys_and_etags(self, api: TreeApi, acme: Entity) -> None:
        department = await api.create_department(acme)
        assert (await refusal(api.deactivate_department(department, etag="9"))).reason == "ETAG_MISMATCH"
        first = await api.deactivate_department(department, request_id="key-1")
        active = await api.activate_department(department, request_id="key-1")
        assert await api.deactivate_department(department, request_id="key-1") == first
        assert (
            await api.activate_department(department, request_id="key-1") == active == await api.department(department)
        )
        assert (await refusal(api.activate_department(department, etag="1"))).reason == "ETAG_MISMATCH"
        mismatch = api.deactivate_department(department, etag="3", request_id="key-1")
        assert (await refusal(mismatch)).reason == "IDEMPOTENCY_MISMATCH"

    async def test_deactivation_and_activation_of_a_child_exclude_each_other(self, api: TreeApi, acme: Entity) -> None:
        for number in range(6):
            top = await api.create_department(acme, f"TOP{number}")
            low = await api.create_department(acme, f"LOW{number}", parent_id=top.id)
            await api.deactivate_department(low)
            results = await asyncio.gather(
                api.deactivate_department(top), api.activate_department(low), return_exceptions=True
            )
            [error] = [Refusal.of(each) for each in results if isinstance(each, aio.AioRpcError)]
            assert error.reason in {"DEPARTMENT_HAS_ACTIVE_CHILDREN", "DEPARTMENT_STATE"}


class TestActivateDepartment:
    async def test_parents_must_be_active(self, api: TreeApi, acme: Entity) -> None:
        top = await api.create_department(acme, "TOP")
        low = await api.create_department(acme, "LOW", parent_id=top.id)
        for department in (low, top):
            await api.deactivate_department(department)
        error = await refusal(api.activate_department(low))
        assert (error.reason, error.metadata["department_id"]) == ("DEPARTMENT_STATE", top.id)
        await api.activate_department(top)
        assert (await api.activate_department(low)).state == Department.ACTIVE

    async def test_planned_parents_must_be_active(self, api: TreeApi, acme: Entity) -> None:
        target, mover = await api.create_department(acme, "TARGET"), await api.create_department(acme, "MOVER")
        await api.move_department(mover, target, in_days(5))
        for department in (mover, target):
            await api.deactivate_department(department)
        error = await refusal(api.activate_department(mover))
        assert (error.reason, error.metadata["department_id"]) == ("DEPARTMENT_STATE", target.id)

    async def test_entity_must_be_active(self, api: TreeApi, acme: Entity) -> None:
        department = await api.create_department(acme)
        await api.deactivate_department(department)
        await api.deactivate(acme)
        error = await refusal(api.activate_department(department))
        assert (error.code, error.reason) == (StatusCode.FAILED_PRECONDITION, "ENTITY_STATE")
        assert error.metadata == {"entity_id": acme.id, "state": "INACTIVE", "allowed": "ACTIVE"}
