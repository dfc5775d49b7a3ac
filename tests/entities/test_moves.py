"""Entities are moved: what is refused, what is told, and what the tree was before."""

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
from tests.entities.conftest import Desk
from tests.entities.tree_desk import TreeDesk, each, shape
from tests.harness.callers import Caller, Refusal, refusal
from tests.harness.outside import OutboxEvent
from tests.harness.services import Entities

Admin: TypeAlias = "asyncpg.Pool[asyncpg.Record]"
Events: TypeAlias = Callable[..., Awaitable[list[OutboxEvent]]]
NOBODY = ids.ENTITY.format(ids.new())
DEPTH_MAX = 16


@pytest.fixture
def desk_of(entities: Entities) -> Callable[[Caller], TreeDesk]:
    return lambda who: TreeDesk(who, entities)


@pytest.fixture
def desk(desk_of: Callable[[Caller], TreeDesk], finance: Caller) -> TreeDesk:
    return desk_of(finance)


async def chain(desk: Desk, levels: int, name: str = "L") -> list[Entity]:
    """Entities each below the one before."""
    found: list[Entity] = []
    for level in range(levels):
        found.append(await desk.found(f"{name}{level + 1}", parent_id=found[-1].id if found else ""))
    return found


async def told(outbox_events: Events) -> list[tuple[str, str, str]]:
    """Which entity was moved from where to where."""
    moved = [event.body for event in await outbox_events("entities") if event.type.endswith(".EntityMoved")]
    return [(body["entity_id"], body.get("old_parent_id", ""), body.get("new_parent_id", "")) for body in moved]


class TestMoveEntity:
    async def test_it_takes_all_below_it_along(self, desk: TreeDesk, outbox_events: Events) -> None:
        top, middle, low = await chain(desk, 3)
        other = await desk.found("OTHER")
        moved = await desk.move(middle, other)
        assert (moved.id, moved.parent_id, moved.etag) == (middle.id, other.id, "2")
        assert shape(await desk.tree(top)) == {"L1": []}
        assert shape(await desk.tree(other)) == {"OTHER": [{"L2": [{"L3": []}]}]}
        assert (await desk.get(low)).etag == "1"
        assert await told(outbox_events) == [(middle.id, top.id, other.id)]

    async def test_a_root_comes_below_another_and_a_child_becomes_a_root(
        self, desk: TreeDesk, outbox_events: Events
    ) -> None:
        one, other = await desk.found("ONE"), await desk.found("OTHER")
        assert (await desk.move(one, other)).parent_id == other.id
        assert (await desk.move(one)).parent_id == ""
        assert await told(outbox_events) == [(one.id, "", other.id), (one.id, other.id, "")]

    async def test_where_it_is_already_it_stays_as_it_is(self, desk: TreeDesk, outbox_events: Events) -> None:
        top, low = await chain(desk, 2)
        assert await desk.move(low, top) == low
        assert await desk.move(top) == top
        assert await told(outbox_events) == []

    @pytest.mark.parametrize("below", [0, 1, 2])
    async def test_it_never_comes_below_itself(self, desk: TreeDesk, below: int) -> None:
        entities = await chain(desk, 3)
        refused = await refusal(desk.move(entities[0], entities[below]))
        assert (refused.code, refused.reason) == (StatusCode.FAILED_PRECONDITION, "ENTITY_CYCLE")
        assert refused.metadata == {"entity_id": entities[0].id, "new_parent_id": entities[below].id}
        assert shape(await desk.tree(entities[0])) == {"L1": [{"L2": [{"L3": []}]}]}

    async def test_the_lowest_of_what_is_moved_counts_for_the_depth(self, desk: TreeDesk) -> None:
        deep, branch = await chain(desk, DEPTH_MAX - 2, "D"), await chain(desk, 3, "B")
        refused = await refusal(desk.move(branch[0], deep[-1]))
        assert (refused.code, refused.reason) == (StatusCode.FAILED_PRECONDITION, "ENTITY_TREE_TOO_DEEP")
        assert refused.metadata == {"parent_id": deep[-1].id, "limit": str(DEPTH_MAX)}
        assert (await desk.move(branch[1], deep[-1])).parent_id == deep[-1].id
        assert len(list(each(await desk.tree(deep[0])))) == DEPTH_MAX

    async def test_an_inactive_entity_neither_moves_nor_takes_others(self, desk: TreeDesk) -> None:
        active, inactive = await desk.found("A"), await desk.found("I")
        await desk.deactivate(inactive)
        for move in (desk.move(active, inactive), desk.move(inactive, active)):
            refused = await refusal(move)
            assert (refused.code, refused.reason) == (StatusCode.FAILED_PRECONDITION, "ENTITY_STATE")
            assert refused.metadata == {"entity_id": inactive.id, "state": "INACTIVE", "allowed": "ACTIVE"}

    async def test_unknown_entities_are_not_found(self, desk: TreeDesk) -> None:
        acme = await desk.found()
        for move in (desk.move(acme, NOBODY), desk.move(NOBODY, acme)):
            refused = await refusal(move)
            assert (refused.reason, refused.metadata) == ("ENTITY_NOT_FOUND", {"entity_id": NOBODY})

    async def test_an_etag_of_before_is_refused(self, desk: TreeDesk) -> None:
        acme, other = await desk.found(), await desk.found("OTHER")
        assert (await refusal(desk.move(acme, other, etag="7"))).reason == "ETAG_MISMATCH"
        assert (await desk.move(acme, other, etag=acme.etag)).parent_id == other.id

    async def test_a_key_is_answered_the_same_and_not_for_another_body(
        self, desk: TreeDesk, outbox_events: Events
    ) -> None:
        acme, one, other = await desk.found(), await desk.found("ONE"), await desk.found("OTHER")
        first = await desk.move(acme, one, request_id="key-1")
        await desk.move(acme, other)
        assert await desk.move(acme, one, request_id="key-1") == first
        assert (await desk.get(acme)).parent_id == other.id
        assert (await refusal(desk.move(acme, other, request_id="key-1"))).reason == "IDEMPOTENCY_MISMATCH"
        assert len(await told(outbox_events)) == 2

    async def test_a_deactivated_parent_is_free_of_what_was_moved_away(self, desk: TreeDesk) -> None:
        top, low = await chain(desk, 2)
        assert (await refusal(desk.deactivate(top))).reason == "ENTITY_HAS_ACTIVE_CHILDREN"
        await desk.move(low)
        assert (await desk.deactivate(top)).state == Entity.INACTIVE


class TestAsOf:
    """Moves are put days into the past, since no test waits for days."""

    async def test_the_tree_as_it_was(self, desk: TreeDesk, admin: Admin) -> None:
        one, other = await desk.found("ONE"), await desk.found("OTHER")
        child = await desk.found("CHILD", parent_id=one.id)
        await desk.found("GRANDCHILD", parent_id=child.id)
        await age(admin, desk, days=20)
        await desk.move(child, other)
        await age(admin, desk, days=10)
        await desk.found("NEW", parent_id=other.id)
        assert shape(await desk.tree_of(one, day(-11))) == {"ONE": [{"CHILD": [{"GRANDCHILD": []}]}]}
        assert shape(await desk.tree_of(other, day(-11))) == {"OTHER": []}
        assert shape(await desk.tree_of(one, day(-9))) == {"ONE": []}
        assert shape(await desk.tree_of(other, day(-9))) == {"OTHER": [{"CHILD": [{"GRANDCHILD": []}]}]}
        now = {"OTHER": [{"CHILD": [{"GRANDCHILD": []}]}, {"NEW": []}]}
        assert shape(await desk.tree_of(other, day(0))) == shape(await desk.tree(other)) == now

    async def test_the_end_of_the_day_counts_in_the_zone_of_the_entity(self, desk: TreeDesk, admin: Admin) -> None:
        top = await desk.found("TOP", time_zone="Asia/Tokyo")
        child = await desk.found("CHILD", parent_id=top.id)
        await set_start(admin, top, datetime(2026, 1, 1, tzinfo=ZoneInfo("Asia/Tokyo")))
        await set_start(admin, child, datetime(2026, 3, 5, tzinfo=ZoneInfo("Asia/Tokyo")))
        assert shape(await desk.tree_of(top, "2026-03-04")) == {"TOP": []}
        assert shape(await desk.tree_of(top, "2026-03-05")) == {"TOP": [{"CHILD": []}]}
        await set_start(admin, child, datetime(2026, 3, 5, tzinfo=ZoneInfo("Asia/Tokyo")) - timedelta(microseconds=1))
        assert shape(await desk.tree_of(top, "2026-03-04")) == {"TOP": [{"CHILD": []}]}

    async def test_the_parent_shown_is_the_one_of_then(self, desk: TreeDesk, admin: Admin) -> None:
        one, other = await desk.found("ONE"), await desk.found("OTHER")
        child = await desk.found("CHILD", parent_id=one.id)
        await age(admin, desk, days=10)
        await desk.move(child, other)
        await desk.update(child, display_name="New name")
        then = (await desk.tree_of(one, day(-5))).children[0].entity
        assert (then.parent_id, then.display_name) == (one.id, "New name")

    async def test_a_depth_says_where_it_left_children_out(self, desk: TreeDesk, admin: Admin) -> None:
        top, middle, low = await chain(desk, 3)
        await age(admin, desk, days=10)
        await desk.move(low, top)
        assert shape(await desk.tree_of(top, day(-5), 1)) == {"L1": [{"L2…": []}]}
        assert shape(await desk.tree(top, 1)) == {"L1": [{"L2": []}, {"L3": []}]}
        assert middle.parent_id == top.id

    async def test_before_it_was_founded_it_is_not_found(self, desk: TreeDesk) -> None:
        acme = await desk.found()
        refused = await refusal(desk.tree_of(acme, day(-2)))
        assert (refused.reason, refused.metadata) == ("ENTITY_NOT_FOUND", {"entity_id": acme.id})

    async def test_a_day_that_has_not_begun_is_refused(self, desk: TreeDesk) -> None:
        west = await desk.found("WEST", time_zone="Pacific/Pago_Pago")
        east = await desk.found("EAST", time_zone="Pacific/Kiritimati")
        today = datetime.now(ZoneInfo("Pacific/Kiritimati")).date().isoformat()
        assert shape(await desk.tree_of(east, today)) == {"EAST": []}
        refused = await refusal(desk.tree_of(west, today))
        assert (refused.reason, refused.rules) == ("INVALID_FIELDS", {"as_of_date": "date.future"})

    async def test_what_a_confined_caller_may_not_see_today_is_left_out(
        self,
        desk: TreeDesk,
        desk_of: Callable[[Caller], TreeDesk],
        caller: Callable[..., Caller],
        admin: Admin,
    ) -> None:
        mine, other = await desk.found("MINE"), await desk.found("OTHER")
        gone = await desk.found("GONE", parent_id=mine.id)
        await desk.found("BELOW-GONE", parent_id=gone.id)
        await desk.found("STILL", parent_id=mine.id)
        await age(admin, desk, days=10)
        await desk.move(gone, other)
        conny = desk_of(caller(subject="conny", entity_scope=[mine.id]))
        then = {"MINE": [{"GONE": [{"BELOW-GONE": []}]}, {"STILL": []}]}
        assert shape(await desk.tree_of(mine, day(-5))) == then
        assert shape(await conny.tree_of(mine, day(-5))) == {"MINE": [{"STILL": []}]}
        assert (await refusal(conny.tree_of(gone, day(-5)))).reason == "ENTITY_NOT_FOUND"


def day(days: int) -> str:
    """So many days from today."""
    return (datetime.now(UTC) + timedelta(days=days)).date().isoformat()


async def age(admin: Admin, desk: Desk, days: int) -> None:
    """Put all that the tenant's entities went through so many days back."""
    await admin.execute(
        "update entities.entity_history set start_time = start_time - $2 * interval '1 day',"
        " end_time = end_time - $2 * interval '1 day' where tenant_id = $1",
        desk.who.tenant_id,
        days,
    )


async def set_start(admin: Admin, entity: Entity, moment: datetime) -> None:
    await admin.execute(
        "update entities.entity_history set start_time = $2 where entity_id = $1", ids.ENTITY.parse(entity.id), moment
    )


class TestScopes:
    async def test_a_confined_caller_moves_within_what_the_token_covers(
        self, desk: TreeDesk, desk_of: Callable[[Caller], TreeDesk], caller: Callable[..., Caller]
    ) -> None:
        root = await desk.found("ROOT")
        mine = await desk.found("MINE", parent_id=root.id)
        one, other = [await desk.found(code, parent_id=mine.id) for code in ("ONE", "OTHER")]
        outside = await desk.found("OUT", parent_id=root.id)
        conny = desk_of(caller(subject="conny", entity_scope=[mine.id]))
        assert (await conny.move(one, other)).parent_id == other.id
        refused = await refusal(conny.move(one))
        assert (refused.reason, refused.rules) == ("INVALID_FIELDS", {"new_parent_id": "scope.root"})
        for move in (conny.move(one, outside), conny.move(outside, one), conny.move(one, root)):
            assert (await refusal(move)).reason == "ENTITY_NOT_FOUND"

    async def test_another_tenant_finds_nothing(
        self, desk: TreeDesk, desk_of: Callable[[Caller], TreeDesk], caller: Callable[..., Caller]
    ) -> None:
        acme = await desk.found()
        stranger = desk_of(caller(tenant=uuid4()))
        theirs = await stranger.found("THEIRS")
        for move in (stranger.move(acme), stranger.move(acme, theirs), stranger.move(theirs, acme)):
            refused = await refusal(move)
            assert (refused.reason, refused.metadata) == ("ENTITY_NOT_FOUND", {"entity_id": acme.id})
        today = datetime.now(UTC).date().isoformat()
        assert (await refusal(stranger.tree_of(acme, today))).reason == "ENTITY_NOT_FOUND"

    async def test_a_viewer_moves_nothing(
        self, desk: TreeDesk, desk_of: Callable[[Caller], TreeDesk], caller: Callable[..., Caller]
    ) -> None:
        acme = await desk.found()
        assert (await refusal(desk_of(caller("viewer")).move(acme))).reason == "PERMISSION_MISSING"


class TestAtTheSameTime:
    async def test_of_two_opposite_moves_one_wins(self, desk: TreeDesk) -> None:
        for number in range(10):
            one, other = await desk.found(f"ONE{number}"), await desk.found(f"OTHER{number}")
            done = await asyncio.gather(desk.move(one, other), desk.move(other, one), return_exceptions=True)
            moved = [each for each in done if isinstance(each, Entity)]
            refused = [Refusal.of(each) for each in done if isinstance(each, aio.AioRpcError)]
            assert [each.reason for each in refused] == ["ENTITY_CYCLE"]
            winner = other.id if moved[0].id == one.id else one.id
            assert len(list(each(await desk.tree(winner)))) == 2

    async def test_what_is_founded_below_and_a_move_do_not_make_a_tree_too_deep_together(self, desk: TreeDesk) -> None:
        deep = await chain(desk, DEPTH_MAX - 2)
        for number in range(8):
            top, low = await chain(desk, 2, f"B{number}-")
            calls = desk.move(top, deep[-1]), desk.found(f"C{number}", parent_id=low.id)
            done = await asyncio.gather(*calls, return_exceptions=True)
            refused = [Refusal.of(each).reason for each in done if isinstance(each, aio.AioRpcError)]
            assert refused == ["ENTITY_TREE_TOO_DEEP"]

    @pytest.mark.parametrize("seed", range(3))
    async def test_random_moves_leave_a_forest_as_deep_as_it_may_be(self, desk: TreeDesk, seed: int) -> None:
        random = Random(seed)  # noqa: S311 - which moves, not a secret
        entities = [await desk.found(f"E{number}") for number in range(12)]
        deep = await chain(desk, DEPTH_MAX - 3)

        async def shuffle() -> None:
            for number in range(8):
                one, other = random.choice(entities), random.choice([*entities, *deep[-2:]])
                call = desk.found(f"N{uuid4().hex[:8]}", parent_id=other.id) if number == 4 else desk.move(one, other)
                try:
                    await call
                except aio.AioRpcError as error:
                    assert Refusal.of(error).reason in {"ENTITY_CYCLE", "ENTITY_TREE_TOO_DEEP"}

        await asyncio.gather(*(shuffle() for _ in range(6)))
        parents = await parents_of(desk)
        assert max(steps_to_root(parents, entity_id) for entity_id in parents) <= DEPTH_MAX


async def parents_of(desk: TreeDesk) -> dict[str, str]:
    """The parent of each entity of the tenant."""
    listed = await desk.who.call(desk.entities_stub.ListEntities, pb.ListEntitiesRequest(page_size=1000))
    return {entity.id: entity.parent_id for entity in listed.entities}


def steps_to_root(parents: dict[str, str], entity_id: str) -> int:
    """How many levels lead down to the entity; the test fails where they lead round in a circle."""
    seen: list[str] = []
    while entity_id:
        assert entity_id not in seen
        seen.append(entity_id)
        entity_id = parents[entity_id]
    return len(seen)
