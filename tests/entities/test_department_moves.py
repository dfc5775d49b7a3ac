"""Moves of departments in the past, today and in the future: errors, events, timers and access."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, date, datetime, timedelta
from random import Random
from typing import Any, TypeAlias
from uuid import uuid4

import asyncpg
import pytest
from billing.entities.v1 import department_service_pb2 as departments_pb
from billing.entities.v1.department_pb2 import Department
from billing.entities.v1.entity_pb2 import Entity
from grpc import StatusCode, aio

from kit import ids
from tests.entities.tree_api import TreeApi, department_chain
from tests.harness.callers import Caller, Refusal, refusal
from tests.harness.observe import OutboxEvent, eventually
from tests.harness.services import Entities

Admin: TypeAlias = "asyncpg.Pool[asyncpg.Record]"
Events: TypeAlias = Callable[..., Awaitable[list[OutboxEvent]]]
UNKNOWN_ID = ids.DEPARTMENT.format(ids.new())
DEPTH_MAX = 16
_FAR = 10_000


@pytest.fixture
def api_for(entities: Entities) -> Callable[[Caller], TreeApi]:
    return lambda caller: TreeApi(caller, entities)


@pytest.fixture
def api(api_for: Callable[[Caller], TreeApi], finance: Caller) -> TreeApi:
    return api_for(finance)


def day(days: int) -> str:
    """The day `days` from today."""
    return (datetime.now(UTC).date() + timedelta(days=days)).isoformat()


async def shift_history_back(admin: Admin, api: TreeApi, days: int) -> None:
    """Move the history of the tenant's departments into the past, so that planned moves become due."""
    for shift in (days + _FAR, -_FAR):  # first far away, so that no placement overlaps another one meanwhile
        await admin.execute(
            "update entities.department_history set effective_from = effective_from - $2::int,"
            " effective_to = effective_to - $2::int where tenant_id = $1",
            api.caller.tenant_id,
            shift,
        )


async def published_moves(outbox_events: Events) -> list[tuple[str, str, str, str]]:
    """Department, old parent, new parent and effective date of each DepartmentMoved event."""
    moved = [event.body for event in await outbox_events("entities") if event.type.endswith(".DepartmentMoved")]
    names = "department_id", "old_parent_id", "new_parent_id", "effective_date"
    return [(body.get(names[0], ""), body.get(names[1], ""), body.get(names[2], ""), body[names[3]]) for body in moved]


class TestMoveToday:
    async def test_descendants_move_along(self, api: TreeApi, acme: Entity, outbox_events: Events) -> None:
        top, middle, low = await department_chain(api, acme, 3)
        other = await api.create_department(acme, "OTHER")
        moved = await api.move_department(middle, other)
        assert (moved.id, moved.parent_id, moved.etag) == (middle.id, other.id, "3")
        assert moved == await api.department(middle)
        assert await api.departments(parent_id=other.id) == ["L2"]
        assert await api.departments(parent_id=top.id) == []
        assert (await api.department(low)).parent_id == middle.id
        assert await published_moves(outbox_events) == [(middle.id, top.id, other.id, day(0))]
        assert await api.history(middle) == [(other.id, day(0), "")]

    async def test_to_the_top_and_back(self, api: TreeApi, acme: Entity, admin: Admin) -> None:
        top, low = await department_chain(api, acme, 2)
        await shift_history_back(admin, api, 10)
        assert (await api.move_department(low)).parent_id == ""
        assert await api.history(low) == [(top.id, day(-10), day(0)), ("", day(0), "")]
        assert (await api.move_department(low, top)).parent_id == top.id
        assert await api.history(low) == [(top.id, day(-10), "")]

    async def test_move_to_current_parent_changes_nothing(
        self, api: TreeApi, acme: Entity, outbox_events: Events
    ) -> None:
        top, low = await department_chain(api, acme, 2)
        assert await api.move_department(low, top) == low
        assert await api.move_department(top) == top
        assert await published_moves(outbox_events) == []

    @pytest.mark.parametrize("below", [0, 1, 2])
    async def test_cycle_is_refused(self, api: TreeApi, acme: Entity, below: int) -> None:
        departments = await department_chain(api, acme, 3)
        error = await refusal(api.move_department(departments[0], departments[below]))
        assert (error.code, error.reason) == (StatusCode.FAILED_PRECONDITION, "DEPARTMENT_CYCLE")
        assert error.metadata == {
            "department_id": departments[0].id,
            "new_parent_id": departments[below].id,
            "date": day(0),
        }
        assert (await api.department(departments[0])).parent_id == ""

    async def test_depth_of_the_moved_tree_counts(self, api: TreeApi, acme: Entity) -> None:
        deep, branch = await department_chain(api, acme, DEPTH_MAX - 2, "D"), await department_chain(api, acme, 3, "B")
        error = await refusal(api.move_department(branch[0], deep[-1]))
        assert (error.code, error.reason) == (StatusCode.FAILED_PRECONDITION, "DEPARTMENT_TREE_TOO_DEEP")
        assert error.metadata == {"parent_id": deep[-1].id, "limit": str(DEPTH_MAX), "date": day(0)}
        assert (await api.move_department(branch[1], deep[-1])).parent_id == deep[-1].id

    async def test_parent_of_another_entity_is_refused(self, api: TreeApi, acme: Entity) -> None:
        moved, elsewhere = (
            await api.create_department(acme),
            await api.create_department(await api.create_entity("OTHER")),
        )
        error = await refusal(api.move_department(moved, elsewhere))
        assert (error.code, error.reason) == (StatusCode.FAILED_PRECONDITION, "DEPARTMENT_OF_OTHER_ENTITY")
        assert error.metadata == {"department_id": elsewhere.id, "entity_id": acme.id}

    async def test_inactive_department_cannot_move_or_become_parent(self, api: TreeApi, acme: Entity) -> None:
        active, inactive = await api.create_department(acme, "A"), await api.create_department(acme, "I")
        await api.deactivate_department(inactive)
        for move in (api.move_department(active, inactive), api.move_department(inactive, active)):
            error = await refusal(move)
            assert (error.code, error.reason) == (StatusCode.FAILED_PRECONDITION, "DEPARTMENT_STATE")
            assert error.metadata == {"department_id": inactive.id, "state": "INACTIVE", "allowed": "ACTIVE"}

    async def test_unknown_departments_are_not_found(self, api: TreeApi, acme: Entity) -> None:
        moved = await api.create_department(acme)
        for move in (api.move_department(moved, UNKNOWN_ID), api.move_department(UNKNOWN_ID, moved)):
            error = await refusal(move)
            assert (error.reason, error.metadata) == ("DEPARTMENT_NOT_FOUND", {"department_id": UNKNOWN_ID})

    async def test_stale_etag_is_refused_also_after_a_planned_move(self, api: TreeApi, acme: Entity) -> None:
        moved, other = await api.create_department(acme, "A"), await api.create_department(acme, "B")
        planned = await api.move_department(moved, other, day(5), etag=moved.etag)
        assert planned.etag != moved.etag
        assert (await refusal(api.move_department(moved, other, etag=moved.etag))).reason == "ETAG_MISMATCH"

    async def test_repeated_key_returns_same_response_and_refuses_another_body(
        self, api: TreeApi, acme: Entity
    ) -> None:
        moved, one, other = [await api.create_department(acme, code) for code in ("MINE", "ONE", "OTHER")]
        first = await api.move_department(moved, one, request_id="key-1")
        await api.move_department(moved, other)
        assert await api.move_department(moved, one, request_id="key-1") == first
        assert (await api.department(moved)).parent_id == other.id
        again = api.move_department(moved, other, request_id="key-1")
        assert (await refusal(again)).reason == "IDEMPOTENCY_MISMATCH"


class TestMoveInThePast:
    async def test_history_is_corrected(self, api: TreeApi, acme: Entity, admin: Admin, outbox_events: Events) -> None:
        moved, one, other = [await api.create_department(acme, code) for code in ("MINE", "ONE", "OTHER")]
        await shift_history_back(admin, api, 30)
        await api.move_department(moved, one, day(-20))
        await api.move_department(moved, other, day(-10))
        assert await api.history(moved) == [
            ("", day(-30), day(-20)), (one.id, day(-20), day(-10)), (other.id, day(-10), "")
        ]  # fmt: skip
        assert await published_moves(outbox_events) == [
            (moved.id, "", one.id, day(-20)),
            (moved.id, one.id, other.id, day(-10)),
        ]
        await api.move_department(moved, other, day(-25))
        assert await api.history(moved) == [("", day(-30), day(-25)), (other.id, day(-25), "")]
        assert len(await published_moves(outbox_events)) == 2  # the current parent has not changed

    async def test_day_before_creation_of_department_or_parent_is_refused(
        self, api: TreeApi, acme: Entity, admin: Admin
    ) -> None:
        old = await api.create_department(acme, "OLD")
        await shift_history_back(admin, api, 10)
        young = await api.create_department(acme, "YOUNG")
        for move in (api.move_department(young, old, day(-1)), api.move_department(old, young, day(-1))):
            error = await refusal(move)
            assert (error.reason, error.rules) == ("INVALID_FIELDS", {"effective_date": "placement.first_day"})
        assert (await api.move_department(old, young, day(0))).parent_id == young.id

    async def test_cycle_on_an_intermediate_day_is_refused(self, api: TreeApi, acme: Entity, admin: Admin) -> None:
        one, other = await api.create_department(acme, "ONE"), await api.create_department(acme, "OTHER")
        await shift_history_back(admin, api, 30)
        await api.move_department(other, one, day(-20))
        await api.move_department(other, "", day(-10))
        error = await refusal(api.move_department(one, other, day(-15)))
        assert (error.reason, error.metadata["date"]) == ("DEPARTMENT_CYCLE", day(-15))
        error = await refusal(api.move_department(one, other, day(-25)))
        assert (error.reason, error.metadata["date"]) == ("DEPARTMENT_CYCLE", day(-20))
        assert (await api.move_department(one, other, day(-10))).parent_id == other.id


class TestPlannedMove:
    async def test_planned_move_shows_only_in_the_history(
        self, api: TreeApi, acme: Entity, outbox_events: Events
    ) -> None:
        moved, other = await api.create_department(acme, "MINE"), await api.create_department(acme, "OTHER")
        planned = await api.move_department(moved, other, day(3))
        assert planned.parent_id == ""
        assert await api.departments(parent_id=other.id) == []
        assert await api.history(moved) == [("", day(0), day(3)), (other.id, day(3), "")]
        assert await published_moves(outbox_events) == []

    async def test_timer_applies_the_move_on_its_day(
        self, api: TreeApi, acme: Entity, admin: Admin, outbox_events: Events
    ) -> None:
        moved, other, third = [await api.create_department(acme, code) for code in ("MINE", "OTHER", "THIRD")]
        await api.move_department(moved, other, day(3))
        await api.move_department(third, moved, day(5))
        assert await timer_of(admin, acme) == datetime.fromisoformat(f"{day(3)}T00:00:00+00:00")
        await shift_history_back(admin, api, 3)
        await make_timer_due(admin, acme)
        await eventually(lambda: at(api, moved, other.id))
        assert await published_moves(outbox_events) == [(moved.id, "", other.id, day(0))]
        assert await timer_of(admin, acme) == datetime.fromisoformat(f"{day(2)}T00:00:00+00:00")
        assert (await api.department(third)).parent_id == ""

    async def test_moves_of_one_day_take_effect_together(self, api: TreeApi, acme: Entity, admin: Admin) -> None:
        """Parent and child change places, which is impossible by single moves on the day."""
        upper, lower = await department_chain(api, acme, 2)
        await api.move_department(lower, "", day(2))
        await api.move_department(upper, lower, day(2))
        await shift_history_back(admin, api, 2)
        await make_timer_due(admin, acme)
        await eventually(lambda: at(api, upper, lower.id))
        assert (await api.department(lower)).parent_id == ""
        assert await timer_of(admin, acme) is None

    async def test_change_of_time_zone_can_make_a_move_due(
        self, api: TreeApi, outbox_events: Events, admin: Admin
    ) -> None:
        west = await api.create_entity("WEST", time_zone="Pacific/Pago_Pago")
        moved, other = await api.create_department(west, "MINE"), await api.create_department(west, "OTHER")
        [(_, today, _)] = await api.history(moved)
        tomorrow = (date.fromisoformat(today) + timedelta(days=1)).isoformat()
        await api.move_department(moved, other, tomorrow)
        await api.update(west, time_zone="Pacific/Kiritimati")  # one day ahead
        assert (await api.department(moved)).parent_id == other.id
        assert await published_moves(outbox_events) == [(moved.id, "", other.id, tomorrow)]
        assert await timer_of(admin, west) is None

    async def test_move_replaces_later_planned_moves(self, api: TreeApi, acme: Entity, admin: Admin) -> None:
        moved, one, other = [await api.create_department(acme, code) for code in ("MINE", "ONE", "OTHER")]
        await api.move_department(moved, one, day(3))
        await api.move_department(moved, other, day(6))
        assert await api.history(moved) == [("", day(0), day(3)), (one.id, day(3), day(6)), (other.id, day(6), "")]
        await api.move_department(moved, other, day(2))
        assert await api.history(moved) == [("", day(0), day(2)), (other.id, day(2), "")]
        cancelled = await api.move_department(moved)
        assert (cancelled.parent_id, await api.history(moved)) == ("", [("", day(0), "")])
        assert await timer_of(admin, acme) is None

    async def test_planned_moves_of_others_count(self, api: TreeApi, acme: Entity) -> None:
        one, other = await api.create_department(acme, "ONE"), await api.create_department(acme, "OTHER")
        await api.move_department(one, other, day(5))
        error = await refusal(api.move_department(other, one))
        assert (error.reason, error.metadata["date"]) == ("DEPARTMENT_CYCLE", day(5))
        error = await refusal(api.move_department(other, one, day(9)))
        assert (error.reason, error.metadata["date"]) == ("DEPARTMENT_CYCLE", day(9))
        await api.move_department(one, "", day(8))
        assert (await api.move_department(other, one, day(9))).parent_id == ""

    async def test_new_department_must_fit_on_later_days_too(self, api: TreeApi, acme: Entity) -> None:
        deep, branch = await department_chain(api, acme, DEPTH_MAX - 2, "D"), await department_chain(api, acme, 2, "B")
        await api.move_department(branch[0], deep[-1], day(4))
        error = await refusal(api.create_department(acme, "LOWEST", parent_id=branch[1].id))
        assert (error.reason, error.metadata["date"]) == ("DEPARTMENT_TREE_TOO_DEEP", day(4))
        assert (await api.create_department(acme, "BESIDE", parent_id=branch[0].id)).parent_id == branch[0].id


async def at(api: TreeApi, department: Department, parent_id: str) -> bool:
    return (await api.department(department)).parent_id == parent_id


async def timer_of(admin: Admin, entity: Entity) -> datetime | None:
    departments = "select due_time from entities.timers where kind = 'department-moves' and resource_id = $1"
    return await admin.fetchval(departments, ids.ENTITY.parse(entity.id))  # type: ignore[no-any-return]


async def make_timer_due(admin: Admin, entity: Entity) -> None:
    """Make the timer of the entity due now."""
    await admin.execute(
        "update entities.timers set due_time = now() where resource_id = $1", ids.ENTITY.parse(entity.id)
    )


class TestListDepartmentHistory:
    async def test_pages_list_each_once_despite_new_moves(self, api: TreeApi, acme: Entity) -> None:
        moved, one, other = [await api.create_department(acme, code) for code in ("MINE", "ONE", "OTHER")]
        for number in range(1, 6):
            await api.move_department(moved, one if number % 2 else other, day(number))
        every = await api.history(moved)
        assert [start for _, start, _ in every] == [day(number) for number in range(6)]
        assert await api.history(moved, page_size=2) == every
        request = departments_pb.ListDepartmentHistoryRequest(id=moved.id, page_size=5)
        page = await api.caller.call(api.departments_stub.ListDepartmentHistory, request)
        await api.move_department(moved, other, day(9))
        request.page_token = page.next_page_token
        rest = await api.caller.call(api.departments_stub.ListDepartmentHistory, request)
        assert [each.start_date for each in rest.placements] == [day(5), day(9)]
        request.id = one.id
        error = await refusal(api.caller.call(api.departments_stub.ListDepartmentHistory, request))
        assert error.reason == "PAGE_TOKEN_INVALID"

    async def test_unknown_department_is_not_found(self, api: TreeApi) -> None:
        assert (await refusal(api.history(UNKNOWN_ID))).reason == "DEPARTMENT_NOT_FOUND"


class TestScopes:
    async def test_caller_confined_to_departments_moves_within_them(
        self, api: TreeApi, acme: Entity, api_for: Callable[[Caller], TreeApi], caller: Callable[..., Caller]
    ) -> None:
        top = await api.create_department(acme, "TOP")
        moved = await api.create_department(acme, "MINE", parent_id=top.id)
        one, other = [await api.create_department(acme, code, parent_id=moved.id) for code in ("ONE", "OTHER")]
        conny = api_for(caller(subject="conny", department_scope=[moved.id]))
        assert (await conny.move_department(one, other)).parent_id == other.id
        assert (await conny.history(one))[-1][0] == other.id
        error = await refusal(conny.move_department(one))
        assert (error.reason, error.rules) == ("INVALID_FIELDS", {"new_parent_id": "scope.top"})
        calls: list[Any] = [
            conny.move_department(one, top), conny.move_department(top, one), conny.history(top),
            conny.deactivate_department(top),
            conny.activate_department(top),
        ]  # fmt: skip
        for call in calls:
            assert (await refusal(call)).reason == "DEPARTMENT_NOT_FOUND"

    async def test_caller_confined_to_entity_moves_to_its_top(
        self, api: TreeApi, acme: Entity, api_for: Callable[[Caller], TreeApi], caller: Callable[..., Caller]
    ) -> None:
        _, low = await department_chain(api, acme, 2)
        conny = api_for(caller(subject="conny", entity_scope=[acme.id]))
        assert (await conny.move_department(low)).parent_id == ""

    async def test_other_tenant_finds_nothing(
        self, api: TreeApi, acme: Entity, api_for: Callable[[Caller], TreeApi], caller: Callable[..., Caller]
    ) -> None:
        moved = await api.create_department(acme)
        other_tenant = api_for(caller(tenant=uuid4()))
        foreign = await other_tenant.create_department(await other_tenant.create_entity("THEIRS"))
        calls: list[Any] = [
            other_tenant.move_department(moved), other_tenant.move_department(foreign, moved),
            other_tenant.history(moved), other_tenant.deactivate_department(moved),
            other_tenant.activate_department(moved),
        ]  # fmt: skip
        for call in calls:
            error = await refusal(call)
            assert (error.reason, error.metadata) == ("DEPARTMENT_NOT_FOUND", {"department_id": moved.id})

    async def test_viewer_cannot_move(
        self, api: TreeApi, acme: Entity, api_for: Callable[[Caller], TreeApi], caller: Callable[..., Caller]
    ) -> None:
        moved, viewer = await api.create_department(acme), api_for(caller("viewer"))
        for call in (
            viewer.move_department(moved),
            viewer.deactivate_department(moved),
            viewer.activate_department(moved),
        ):
            assert (await refusal(call)).reason == "PERMISSION_MISSING"
        assert len(await viewer.history(moved)) == 1


class TestConcurrentMoves:
    async def test_of_two_opposite_moves_one_succeeds(self, api: TreeApi, acme: Entity) -> None:
        for number in range(10):
            one, other = (
                await api.create_department(acme, f"ONE{number}"),
                await api.create_department(acme, f"OTHER{number}"),
            )
            moves = api.move_department(one, other), api.move_department(other, one)
            results = await asyncio.gather(*moves, return_exceptions=True)
            error = [Refusal.of(each) for each in results if isinstance(each, aio.AioRpcError)]
            assert [each.reason for each in error] == ["DEPARTMENT_CYCLE"]

    @pytest.mark.parametrize("seed", range(3))
    async def test_random_moves_leave_a_tree_on_every_day(
        self, api: TreeApi, acme: Entity, admin: Admin, seed: int
    ) -> None:
        random = Random(seed)  # noqa: S311 - test data, not a secret
        departments = [
            *await department_chain(api, acme, DEPTH_MAX - 4),
            *[await api.create_department(acme, f"D{n}") for n in range(8)],
        ]
        await shift_history_back(admin, api, 5)

        async def shuffle() -> None:
            for number in range(8):
                one, other = random.choice(departments[8:]), random.choice(departments[6:])
                if number == 4:
                    call = api.create_department(acme, uuid4().hex[:8], parent_id=other.id)
                else:
                    call = api.move_department(one, other, day(random.randint(-5, 5)))
                try:
                    await call
                except aio.AioRpcError as error:
                    reason = Refusal.of(error).reason
                    assert reason in {"DEPARTMENT_CYCLE", "DEPARTMENT_TREE_TOO_DEEP"}

        await asyncio.gather(*(shuffle() for _ in range(5)))
        for days in range(-5, 6):
            parents = await parents_on(admin, acme, datetime.now(UTC).date() + timedelta(days=days))
            assert all(levels_to(parents, department_id) <= DEPTH_MAX for department_id in parents)
        today = await parents_on(admin, acme, datetime.now(UTC).date())
        shown = "select id, parent_id from entities.departments where entity_id = $1"
        assert today == {row["id"]: row["parent_id"] for row in await admin.fetch(shown, ids.ENTITY.parse(acme.id))}


async def parents_on(admin: Admin, entity: Entity, on: date) -> dict[Any, Any]:
    """The parent of each department on a day. Fails if a department has two."""
    rows = await admin.fetch(
        "select h.department_id, h.parent_id from entities.department_history h join entities.departments d"
        " on d.id = h.department_id where d.entity_id = $1 and h.effective_from <= $2"
        " and (h.effective_to is null or h.effective_to > $2)",
        ids.ENTITY.parse(entity.id),
        on,
    )
    departments = {row["department_id"]: row["parent_id"] for row in rows}
    assert len(departments) == len(rows)
    return departments


def levels_to(parents: dict[Any, Any], department_id: Any) -> int:
    """Number of levels from the top to the department. Fails for a cycle."""
    path: list[Any] = []
    while department_id:
        assert department_id not in path
        path.append(department_id)
        department_id = parents[department_id]
    return len(path)
