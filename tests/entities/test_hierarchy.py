from billing.entities.v1.entity_pb2 import Entity, EntityHierarchy

from kit import ids
from tests.entities.conftest import Desk
from tests.harness.callers import refusal


def shape(tree: EntityHierarchy) -> dict[str, object]:
    """The tree as nested codes."""
    return {f"{tree.entity.code}{'…' if tree.truncated else ''}": [shape(child) for child in tree.children]}


async def group(desk: Desk) -> dict[str, Entity]:
    """ROOT over B, A and C (founded in this order), A over A2 and A1, A1 over A11; and another group beside it."""
    found: dict[str, Entity] = {"ROOT": await desk.found("ROOT")}
    for code, parent in {"B": "ROOT", "A": "ROOT", "C": "ROOT", "A2": "A", "A1": "A", "A11": "A1"}.items():
        found[code] = await desk.found(code, parent_id=found[parent].id)
    await desk.found("OTHER")
    return found


class TestGetEntityHierarchy:
    async def test_the_whole_tree_ordered_by_code(self, desk: Desk) -> None:
        entities = await group(desk)
        tree = await desk.tree(entities["ROOT"])
        assert shape(tree) == {"ROOT": [{"A": [{"A1": [{"A11": []}]}, {"A2": []}]}, {"B": []}, {"C": []}]}
        assert tree.entity == entities["ROOT"]
        assert tree.children[0].entity == entities["A"]
        assert tree.children[0].etag == entities["A"].etag == "1"

    async def test_a_branch_of_it(self, desk: Desk) -> None:
        entities = await group(desk)
        assert shape(await desk.tree(entities["A"])) == {"A": [{"A1": [{"A11": []}]}, {"A2": []}]}
        assert shape(await desk.tree(entities["C"])) == {"C": []}

    async def test_a_depth_says_where_it_left_children_out(self, desk: Desk) -> None:
        entities = await group(desk)
        assert shape(await desk.tree(entities["ROOT"], 1)) == {"ROOT": [{"A…": []}, {"B": []}, {"C": []}]}
        two = {"ROOT": [{"A": [{"A1…": []}, {"A2": []}]}, {"B": []}, {"C": []}]}
        assert shape(await desk.tree(entities["ROOT"], 2)) == two
        assert await desk.tree(entities["ROOT"], 3) == await desk.tree(entities["ROOT"])
        assert await desk.tree(entities["ROOT"], 32) == await desk.tree(entities["ROOT"])

    async def test_deactivated_entities_stay_in_it(self, desk: Desk) -> None:
        entities = await group(desk)
        await desk.deactivate(entities["C"])
        assert (await desk.tree(entities["ROOT"])).children[2].entity.state == Entity.INACTIVE

    async def test_all_sixteen_levels(self, desk: Desk) -> None:
        codes = [f"L{level}" for level in range(1, 17)]
        parent_id = ""
        for code in codes:
            parent_id = (await desk.found(code, parent_id=parent_id)).id
        root_id = (await desk.tree(parent_id)).entity.parent_id
        for _ in range(14):
            root_id = (await desk.tree(root_id)).entity.parent_id
        tree, seen = await desk.tree(root_id), []
        seen.append(tree.entity.code)
        while tree.children:
            tree = tree.children[0]
            seen.append(tree.entity.code)
        assert seen == codes

    async def test_what_has_changed_since_it_was_read_is_seen_at_once(self, desk: Desk) -> None:
        entities = await group(desk)
        before = await desk.tree(entities["ROOT"])
        assert await desk.tree(entities["ROOT"]) == before
        changed = await desk.update(entities["A"], display_name="Another name", metadata={"team": "a"})
        after = await desk.tree(entities["ROOT"])
        assert (after.children[0].entity, after.children[0].etag) == (changed, "2")
        before.children[0].entity.CopyFrom(changed)
        before.children[0].etag = "2"
        assert after == before

    async def test_an_unknown_entity_is_not_found(self, desk: Desk) -> None:
        nobody = ids.ENTITY.format(ids.new())
        refused = await refusal(desk.tree(nobody))
        assert (refused.reason, refused.metadata) == ("ENTITY_NOT_FOUND", {"entity_id": nobody})
