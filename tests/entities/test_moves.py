"""Moves of entities: errors, events, access, and the past tree."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from random import Random
from typing import TypeAlias
from uuid import uuid4
from zoneinfo import ZoneInfo

import asyncpg
import pytest
from billing.entities.v1 import entity_service_pb2 as pb
from billing.entities.v1.entity_pb2 import Entity
from grpc import StatusCode, aio

from kit import ids
from tests.entities.entities_api import EntitiesApi
from tests.entities.tree_api import TreeApi, entities_in, shape
from tests.harness.callers import Caller, Refusal, refusal
from tests.harness.observe import OutboxEvent
from tests.harness.services import Entities

Admin: TypeAlias = "asyncpg.Pool[asyncpg.Record]"
Events: TypeAlias = Callable[..., Awaitable[list[OutboxEvent]]]
UNKNOWN_ID = ids.ENTITY.format(ids.new())
DEPTH_MAX = 16


@pytest.fixture
def api_for(entities: Entities) -> Callable[[Caller], TreeApi]:
    return lambda caller: TreeApi(caller, entities)


@pytest.fixture
def api(api_for: Callable[[Caller], TreeApi], finance: Caller) -> TreeApi:
    return api_for(finance)


async def chain(api: EntitiesApi, levels: int, name: str = "L") -> list[Entity]:
    """A chain of entities."""
    entities: list[Entity] = []
    for level in range(levels):
        entities.append(await api.create_entity(f"{name}{level + 1}", parent_id=entities[-1].id if entities else ""))
    return entities


async def published_moves(outbox_events: Events) -> list[tuple[str, str, str]]:
    """Entity, old parent and new parent of each EntityMoved event."""
    moved = [event.body for event in await outbox_events("entities") if event.type.endswith(".EntityMoved")]
    return [(body["entity_id"], body.get("old_parent_id", ""), body.get("new_parent_id", "")) for body in moved]


class TestMoveEntity:
    async def test_descendants_move_along(self, api: TreeApi, outbox_events: Events) -> None:
        top, middle, low = await chain(api, 3)
        other = await api.create_entity("OTHER")
        moved = await api.move(middle, other)
        assert (moved.id, moved.parent_id, moved.etag) == (middle.id, other.id, "2")
        assert shape(await api.tree(top)) == {"L1": []}
        assert shape(await api.tree(other)) == {"OTHER": [{"L2": [{"L3": []}]}]}
        assert (await api.get(low)).etag == "1"
        assert await published_moves(outbox_events) == [(middle.id, top.id, other.id)]

    async def test_root_becomes_child_and_child_becomes_root(self, api: TreeApi, outbox_events: Events) -> None:
        one, other = await api.create_entity("ONE"), await api.create_entity("OTHER")
        assert (await api.move(one, other)).parent_id == other.id
        assert (await api.move(one)).parent_id == ""
        assert await published_moves(outbox_events) == [(one.id, "", other.id), (one.id, other.id, "")]

    async def test_move_to_current_parent_changes_nothing(self, api: TreeApi, outbox_events: Events) -> None:
        top, low = await chain(api, 2)
        assert await api.move(low, top) == low
        assert await api.move(top) == top
        assert await published_moves(outbox_events) == []

    @pytest.mark.parametrize("below", [0, 1, 2])
    async def test_cycle_is_refused(self, api: TreeApi, below: int) -> None:
        entities = await chain(api, 3)
        error = await refusal(api.move(entities[0], entities[below]))
        assert (error.code, error.reason) == (StatusCode.FAILED_PRECONDITION, "ENTITY_CYCLE")
        assert error.metadata == {"entity_id": entities[0].id, "new_parent_id": entities[below].id}
        assert shape(await api.tree(entities[0])) == {"L1": [{"L2": [{"L3": []}]}]}

    async def test_depth_of_the_moved_tree_counts(self, api: TreeApi) -> None:
        deep, branch = await chain(api, DEPTH_MAX - 2, "D"), await chain(api, 3, "B")
        error = await refusal(api.move(branch[0], deep[-1]))
        assert (error.code, error.reason) == (StatusCode.FAILED_PRECONDITION, "ENTITY_TREE_TOO_DEEP")
        assert error.metadata == {"parent_id": deep[-1].id, "limit": str(DEPTH_MAX)}
        assert (await api.move(branch[1], deep[-1])).parent_id == deep[-1].id
        assert len(list(entities_in(await api.tree(deep[0])))) == DEPTH_MAX

    async def test_inactive_entity_cannot_move_or_become_parent(self, api: TreeApi) -> None:
        active, inactive = await api.create_entity("A"), await api.create_entity("I")
        await api.deactivate(inactive)
        for move in (api.move(active, inactive), api.move(inactive, active)):
            error = await refusal(move)
            assert (error.code, error.reason) == (StatusCode.FAILED_PRECONDITION, "ENTITY_STATE")
            assert error.metadata == {"entity_id": inactive.id, "state": "INACTIVE", "allowed": "ACTIVE"}

    async def test_unknown_entities_are_not_found(self, api: TreeApi) -> None:
        acme = await api.create_entity()
        for move in (api.move(acme, UNKNOWN_ID), api.move(UNKNOWN_ID, acme)):
            error = await refusal(move)
            assert (error.reason, error.metadata) == ("ENTITY_NOT_FOUND", {"entity_id": UNKNOWN_ID})

    async def test_stale_etag_is_refused(self, api: TreeApi) -> None:
        acme, other = await api.create_entity(), await api.create_entity("OTHER")
        assert (await refusal(api.move(acme, other, etag="7"))).reason == "ETAG_MISMATCH"
        assert (await api.move(acme, other, etag=acme.etag)).parent_id == other.id

    async def test_repeated_key_returns_same_response_and_refuses_another_body(
        self, api: TreeApi, outbox_events: Events
    ) -> None:
        acme, one, other = await api.create_entity(), await api.create_entity("ONE"), await api.create_entity("OTHER")
        first = await api.move(acme, one, request_id="key-1")
        await api.move(acme, other)
        assert await api.move(acme, one, request_id="key-1") == first
        assert (await api.get(acme)).parent_id == other.id
        assert (await refusal(api.move(acme, other, request_id="key-1"))).reason == "IDEMPOTENCY_MISMATCH"
        assert len(await published_moves(outbox_events)) == 2

    async def test_parent_can_be_deactivated_after_its_child_moved_away(self, api: TreeApi) -> None:
        top, low = await chain(api, 2)
        assert (await refusal(api.deactivate(top))).reason == "ENTITY_HAS_ACTIVE_CHILDREN"
        await api.move(low)
        assert (await api.deactivate(top)).state == Entity.INACTIVE


class TestAsOf:
    """The history is moved into the past, since tests can't wait for days."""

    async def test_past_tree(self, api: TreeApi, admin: Admin) -> None:
        one, other = await api.create_entity("ONE"), await api.create_entity("OTHER")
        child = await api.create_entity("CHILD", parent_id=one.id)
        await api.create_entity("GRANDCHILD", parent_id=child.id)
        await age(admin, api, days=20)
        await api.move(child, other)
        await age(admin, api, days=10)
        await api.create_entity("NEW", parent_id=other.id)
        assert shape(await api.tree_of(one, day(-11))) == {"ONE": [{"CHILD": [{"GRANDCHILD": []}]}]}
        assert shape(await api.tree_of(other, day(-11))) == {"OTHER": []}
        assert shape(await api.tree_of(one, day(-9))) == {"ONE": []}
        assert shape(await api.tree_of(other, day(-9))) == {"OTHER": [{"CHILD": [{"GRANDCHILD": []}]}]}
        now = {"OTHER": [{"CHILD": [{"GRANDCHILD": []}]}, {"NEW": []}]}
        assert shape(await api.tree_of(other, day(0))) == shape(await api.tree(other)) == now

    async def test_day_ends_in_the_time_zone_of_the_entity(self, api: TreeApi, admin: Admin) -> None:
        top = await api.create_entity("TOP", time_zone="Asia/Tokyo")
        child = await api.create_entity("CHILD", parent_id=top.id)
        await set_start(admin, top, datetime(2026, 1, 1, tzinfo=ZoneInfo("Asia/Tokyo")))
        await set_start(admin, child, datetime(2026, 3, 5, tzinfo=ZoneInfo("Asia/Tokyo")))
        assert shape(await api.tree_of(top, "2026-03-04")) == {"TOP": []}
        assert shape(await api.tree_of(top, "2026-03-05")) == {"TOP": [{"CHILD": []}]}
        await set_start(admin, child, datetime(2026, 3, 5, tzinfo=ZoneInfo("Asia/Tokyo")) - timedelta(microseconds=1))
        assert shape(await api.tree_of(top, "2026-03-04")) == {"TOP": [{"CHILD": []}]}

    async def test_parent_is_that_of_the_day(self, api: TreeApi, admin: Admin) -> None:
        one, other = await api.create_entity("ONE"), await api.create_entity("OTHER")
        child = await api.create_entity("CHILD", parent_id=one.id)
        await age(admin, api, days=10)
        await api.move(child, other)
        await api.update(child, display_name="New name")
        then = (await api.tree_of(one, day(-5))).children[0].entity
        assert (then.parent_id, then.display_name) == (one.id, "New name")

    async def test_max_depth_marks_truncated_entities(self, api: TreeApi, admin: Admin) -> None:
        top, middle, low = await chain(api, 3)
        await age(admin, api, days=10)
        await api.move(low, top)
        assert shape(await api.tree_of(top, day(-5), 1)) == {"L1": [{"L2…": []}]}
        assert shape(await api.tree(top, 1)) == {"L1": [{"L2": []}, {"L3": []}]}
        assert middle.parent_id == top.id

    async def test_day_before_creation_is_not_found(self, api: TreeApi) -> None:
        acme = await api.create_entity()
        error = await refusal(api.tree_of(acme, day(-2)))
        assert (error.reason, error.metadata) == ("ENTITY_NOT_FOUND", {"entity_id": acme.id})

    async def test_future_day_is_refused(self, api: TreeApi) -> None:
        west = await api.create_entity("WEST", time_zone="Pacific/Pago_Pago")
        east = await api.create_entity("EAST", time_zone="Pacific/Kiritimati")
        today = datetime.now(ZoneInfo("Pacific/Kiritimati")).date().isoformat()
        assert shape(await api.tree_of(east, today)) == {"EAST": []}
        error = await refusal(api.tree_of(west, today))
        assert (error.reason, error.rules) == ("INVALID_FIELDS", {"as_of_date": "date.future"})

    async def test_entities_outside_scope_are_left_out(
        self,
        api: TreeApi,
        api_for: Callable[[Caller], TreeApi],
        caller: Callable[..., Caller],
        admin: Admin,
    ) -> None:
        own, other = await api.create_entity("MINE"), await api.create_entity("OTHER")
        gone = await api.create_entity("GONE", parent_id=own.id)
        await api.create_entity("BELOW-GONE", parent_id=gone.id)
        await api.create_entity("STILL", parent_id=own.id)
        await age(admin, api, days=10)
        await api.move(gone, other)
        conny = api_for(caller(subject="conny", entity_scope=[own.id]))
        then = {"MINE": [{"GONE": [{"BELOW-GONE": []}]}, {"STILL": []}]}
        assert shape(await api.tree_of(own, day(-5))) == then
        assert shape(await conny.tree_of(own, day(-5))) == {"MINE": [{"STILL": []}]}
        assert (await refusal(conny.tree_of(gone, day(-5)))).reason == "ENTITY_NOT_FOUND"


def day(days: int) -> str:
    """The day `days` from today."""
    return (datetime.now(UTC) + timedelta(days=days)).date().isoformat()


async def age(admin: Admin, api: EntitiesApi, days: int) -> None:
    """Move the history of the tenant's entities into the past."""
    await admin.execute(
        "update entities.entity_history set start_time = start_time - $2 * interval '1 day',"
        " end_time = end_time - $2 * interval '1 day' where tenant_id = $1",
        api.caller.tenant_id,
        days,
    )


async def set_start(admin: Admin, entity: Entity, moment: datetime) -> None:
    await admin.execute(
        "update entities.entity_history set start_time = $2 where entity_id = $1", ids.ENTITY.parse(entity.id), moment
    )


class TestScopes:
    async def test_confined_caller_moves_within_the_scope(
        self, api: TreeApi, api_for: Callable[[Caller], TreeApi], caller: Callable[..., Caller]
    ) -> None:
        root = await api.create_entity("ROOT")
        own = await api.create_entity("MINE", parent_id=root.id)
        one, other = [await api.create_entity(code, parent_id=own.id) for code in ("ONE", "OTHER")]
        outside = await api.create_entity("OUT", parent_id=root.id)
        conny = api_for(caller(subject="conny", entity_scope=[own.id]))
        assert (await conny.move(one, other)).parent_id == other.id
        error = await refusal(conny.move(one))
        assert (error.reason, error.rules) == ("INVALID_FIELDS", {"new_parent_id": "scope.root"})
        for move in (conny.move(one, outside), conny.move(outside, one), conny.move(one, root)):
            assert (await refusal(move)).reason == "ENTITY_NOT_FOUND"

    async def test_other_tenant_finds_nothing(
        self, api: TreeApi, api_for: Callable[[Caller], TreeApi], caller: Callable[..., Caller]
    ) -> None:
        acme = await api.create_entity()
        other_tenant = api_for(caller(tenant=uuid4()))
        foreign = await other_tenant.create_entity("THEIRS")
        for move in (other_tenant.move(acme), other_tenant.move(acme, foreign), other_tenant.move(foreign, acme)):
            error = await refusal(move)
            assert (error.reason, error.metadata) == ("ENTITY_NOT_FOUND", {"entity_id": acme.id})
        today = datetime.now(UTC).date().isoformat()
        assert (await refusal(other_tenant.tree_of(acme, today))).reason == "ENTITY_NOT_FOUND"

    async def test_viewer_cannot_move(
        self, api: TreeApi, api_for: Callable[[Caller], TreeApi], caller: Callable[..., Caller]
    ) -> None:
        acme = await api.create_entity()
        assert (await refusal(api_for(caller("viewer")).move(acme))).reason == "PERMISSION_MISSING"


class TestConcurrentMoves:
    async def test_of_two_opposite_moves_one_succeeds(self, api: TreeApi) -> None:
        for number in range(10):
            one, other = await api.create_entity(f"ONE{number}"), await api.create_entity(f"OTHER{number}")
            results = await asyncio.gather(api.move(one, other), api.move(other, one), return_exceptions=True)
            moved = [each for each in results if isinstance(each, Entity)]
            error = [Refusal.of(each) for each in results if isinstance(each, aio.AioRpcError)]
            assert [each.reason for each in error] == ["ENTITY_CYCLE"]
            winner = other.id if moved[0].id == one.id else one.id
            assert len(list(entities_in(await api.tree(winner)))) == 2

    async def test_concurrent_creation_and_move_keep_the_depth_limit(self, api: TreeApi) -> None:
        deep = await chain(api, DEPTH_MAX - 2)
        for number in range(8):
            top, low = await chain(api, 2, f"B{number}-")
            calls = api.move(top, deep[-1]), api.create_entity(f"C{number}", parent_id=low.id)
            results = await asyncio.gather(*calls, return_exceptions=True)
            error = [Refusal.of(each).reason for each in results if isinstance(each, aio.AioRpcError)]
            assert error == ["ENTITY_TREE_TOO_DEEP"]

    @pytest.mark.parametrize("seed", range(3))
    async def test_random_moves_keep_forest_and_depth_limit(self, api: TreeApi, seed: int) -> None:
        random = Random(seed)  # noqa: S311 - test data, not a secret
        entities = [await api.create_entity(f"E{number}") for number in range(12)]
        deep = await chain(api, DEPTH_MAX - 3)

        async def shuffle() -> None:
            for number in range(8):
                one, other = random.choice(entities), random.choice([*entities, *deep[-2:]])
                call = (
                    api.create_entity(f"N{uuid4().hex[:8]}", parent_id=other.id)
                    if number == 4
                    else api.move(one, other)
                )
                try:
                    await call
                except aio.AioRpcError as error:
                    assert Refusal.of(error).reason in {"ENTITY_CYCLE", "ENTITY_TREE_TOO_DEEP"}

        await asyncio.gather(*(shuffle() for _ in range(6)))
        parents = await parents_of(api)
        assert max(steps_to_root(parents, entity_id) for entity_id in parents) <= DEPTH_MAX


async def parents_of(api: TreeApi) -> dict[str, str]:
    """The parent of each entity of the tenant."""
    response = await api.caller.call(api.entities_stub.ListEntities, pb.ListEntitiesRequest(page_size=1000))
    return {entity.id: entity.parent_id for entity in response.entities}


def steps_to_root(parents: dict[str, str], entity_id: str) -> int:
    """Number of levels from the root to the entity. Fails for a cycle."""
    path: list[str] = []
    while entity_id:
        assert entity_id not in path
        path.append(entity_id)
        entity_id = parents[entity_id]
    return len(path)
