"""Departments go out of use and come back: every action in every state, and what stands in the way."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import pytest
from billing.entities.v1.department_pb2 import Department
from billing.entities.v1.entity_pb2 import Entity
from grpc import StatusCode, aio

from services.entities.domain.departments import DEPARTMENT_TRANSITIONS, DepartmentAction, DepartmentState
from tests.entities.tree_desk import TreeDesk
from tests.harness.callers import Caller, Refusal, refusal
from tests.harness.services import Entities


@pytest.fixture
def desk(entities: Entities, finance: Caller) -> TreeDesk:
    return TreeDesk(finance, entities)


@pytest.fixture
async def acme(desk: TreeDesk) -> Entity:
    return await desk.found("ACME")


def in_days(days: int) -> str:
    return (datetime.now(UTC).date() + timedelta(days=days)).isoformat()


async def below(desk: TreeDesk, parent: Department) -> Department:
    return await desk.set_up(parent.entity_id, "BELOW", parent_id=parent.id)


ACTIONS: dict[DepartmentAction, Callable[[TreeDesk, Department], Awaitable[Department]]] = {
    DepartmentAction.CHANGE: lambda desk, department: desk.change(department, name="Another"),
    DepartmentAction.ADOPT: below,
    DepartmentAction.MOVE: lambda desk, department: desk.move_department(department),
    DepartmentAction.DEACTIVATE: lambda desk, department: desk.retire(department),
    DepartmentAction.ACTIVATE: lambda desk, department: desk.revive(department),
}


class TestStates:
    @pytest.mark.parametrize("action", ACTIONS)
    @pytest.mark.parametrize("state", DepartmentState)
    async def test_every_action_in_every_state(
        self, desk: TreeDesk, acme: Entity, state: DepartmentState, action: DepartmentAction
    ) -> None:
        department = await desk.set_up(acme)
        if state is DepartmentState.INACTIVE:
            await desk.retire(department)
        after = DEPARTMENT_TRANSITIONS.get((state, action))
        if after:
            await ACTIONS[action](desk, department)
            assert (await desk.department(department)).state == Department.State.Value(after)
            return
        refused = await refusal(ACTIONS[action](desk, department))
        allowed = [before for before, other in DEPARTMENT_TRANSITIONS if other is action]
        assert (refused.code, refused.reason) == (StatusCode.FAILED_PRECONDITION, "DEPARTMENT_STATE")
        assert refused.metadata == {"department_id": department.id, "state": state, "allowed": ", ".join(allowed)}


class TestDeactivateDepartment:
    async def test_out_of_use_and_back(self, desk: TreeDesk, acme: Entity) -> None:
        department = await desk.set_up(acme)
        retired = await desk.retire(department)
        assert (retired.state, retired.etag) == (Department.INACTIVE, "2")
        assert await desk.departments(state=Department.INACTIVE) == ["ENG"]
        revived = await desk.revive(department, etag=retired.etag)
        assert (revived.state, revived.etag) == (Department.ACTIVE, "3")

    async def test_not_over_active_departments(self, desk: TreeDesk, acme: Entity) -> None:
        top = await desk.set_up(acme, "TOP")
        low = await desk.set_up(acme, "LOW", parent_id=top.id)
        gone = await desk.set_up(acme, "GONE", parent_id=top.id)
        await desk.retire(gone)
        refused = await refusal(desk.retire(top))
        assert (refused.code, refused.reason) == (StatusCode.FAILED_PRECONDITION, "DEPARTMENT_HAS_ACTIVE_CHILDREN")
        assert refused.metadata == {"department_id": top.id, "child_ids": low.id}
        await desk.retire(low)
        assert (await desk.retire(top)).state == Department.INACTIVE

    async def test_not_where_an_active_one_is_planned_to_come(self, desk: TreeDesk, acme: Entity) -> None:
        target, mover = await desk.set_up(acme, "TARGET"), await desk.set_up(acme, "MOVER")
        await desk.move_department(mover, target, in_days(5))
        assert (await refusal(desk.retire(target))).reason == "DEPARTMENT_HAS_ACTIVE_CHILDREN"
        await desk.move_department(mover)
        assert (await desk.retire(target)).state == Department.INACTIVE

    async def test_what_was_moved_away_does_not_count(self, desk: TreeDesk, acme: Entity) -> None:
        top = await desk.set_up(acme, "TOP")
        low = await desk.set_up(acme, "LOW", parent_id=top.id)
        await desk.move_department(low)
        assert (await desk.retire(top)).state == Department.INACTIVE

    async def test_keys_and_etags(self, desk: TreeDesk, acme: Entity) -> None:
        department = await desk.set_up(acme)
        assert (await refusal(desk.retire(department, etag="9"))).reason == "ETAG_MISMATCH"
        first = await desk.retire(department, request_id="key-1")
        revived = await desk.revive(department, request_id="key-1")
        assert await desk.retire(department, request_id="key-1") == first
        assert await desk.revive(department, request_id="key-1") == revived == await desk.department(department)
        assert (await refusal(desk.revive(department, etag="1"))).reason == "ETAG_MISMATCH"
        mismatch = desk.retire(department, etag="3", request_id="key-1")
        assert (await refusal(mismatch)).reason == "IDEMPOTENCY_MISMATCH"

    async def test_while_a_child_comes_back_its_parent_does_not_go(self, desk: TreeDesk, acme: Entity) -> None:
        for number in range(6):
            top = await desk.set_up(acme, f"TOP{number}")
            low = await desk.set_up(acme, f"LOW{number}", parent_id=top.id)
            await desk.retire(low)
            done = await asyncio.gather(desk.retire(top), desk.revive(low), return_exceptions=True)
            [refused] = [Refusal.of(each) for each in done if isinstance(each, aio.AioRpcError)]
            assert refused.reason in {"DEPARTMENT_HAS_ACTIVE_CHILDREN", "DEPARTMENT_STATE"}


class TestActivateDepartment:
    async def test_only_below_active_ones(self, desk: TreeDesk, acme: Entity) -> None:
        top = await desk.set_up(acme, "TOP")
        low = await desk.set_up(acme, "LOW", parent_id=top.id)
        for department in (low, top):
            await desk.retire(department)
        refused = await refusal(desk.revive(low))
        assert (refused.reason, refused.metadata["department_id"]) == ("DEPARTMENT_STATE", top.id)
        await desk.revive(top)
        assert (await desk.revive(low)).state == Department.ACTIVE

    async def test_only_below_what_will_be_active(self, desk: TreeDesk, acme: Entity) -> None:
        target, mover = await desk.set_up(acme, "TARGET"), await desk.set_up(acme, "MOVER")
        await desk.move_department(mover, target, in_days(5))
        for department in (mover, target):
            await desk.retire(department)
        refused = await refusal(desk.revive(mover))
        assert (refused.reason, refused.metadata["department_id"]) == ("DEPARTMENT_STATE", target.id)

    async def test_only_in_an_active_entity(self, desk: TreeDesk, acme: Entity) -> None:
        department = await desk.set_up(acme)
        await desk.retire(department)
        await desk.deactivate(acme)
        refused = await refusal(desk.revive(department))
        assert (refused.code, refused.reason) == (StatusCode.FAILED_PRECONDITION, "ENTITY_STATE")
        assert refused.metadata == {"entity_id": acme.id, "state": "INACTIVE", "allowed": "ACTIVE"}
