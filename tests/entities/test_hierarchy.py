from billing.entities.v1.entity_pb2 import Entity, EntityHierarchy

from kit import ids
from tests.entities.entities_api import EntitiesApi
from tests.harness.callers import refusal


def shape(tree: EntityHierarchy) -> dict[str, object]:
    """The tree as nested codes."""
    return {f"{tree.entity.code}{'…' if tree.truncated else ''}": [shape(child) for child in tree.children]}


async def group(api: EntitiesApi) -> dict[str, Entity]:
    """ROOT with children B, A and C (created in this order), A with A2 and A1, A1 with A11; and another root."""
    entities: dict[str, Entity] = {"ROOT": await api.create_entity("ROOT")}
    for code, parent in {"B": "ROOT", "A": "ROOT", "C": "ROOT", "A2": "A", "A1": "A", "A11": "A1"}.items():
        entities[code] = await api.create_entity(code, parent_id=entities[parent].id)
    await api.create_entity("OTHER")
    return entities


class TestGetEntityHierarchy:
    async def test_whole_tree_is_sorted_by_code(self, api: EntitiesApi) -> None:
        entities = await group(api)
        tree = await api.tree(entities["ROOT"])
        assert shape(tree) == {"ROOT": [{"A": [{"A1": [{"A11": []}]}, {"A2": []}]}, {"B": []}, {"C": []}]}
        assert tree.entity == entities["ROOT"]
        assert tree.children[0].entity == entities["A"]
        assert tree.children[0].etag == entities["A"].etag == "1"

    async def test_subtree(self, api: EntitiesApi) -> None:
        entities = await group(api)
        assert shape(await api.tree(entities["A"])) == {"A": [{"A1": [{"A11": []}]}, {"A2": []}]}
        assert shape(await api.tree(entities["C"])) == {"C": []}

    async def test_max_depth_marks_truncated_entities(self, api: EntitiesApi) -> None:
        entities = await group(api)
        assert shape(await api.tree(entities["ROOT"], 1)) == {"ROOT": [{"A…": []}, {"B": []}, {"C": []}]}
        two = {"ROOT": [{"A": [{"A1…": []}, {"A2": []}]}, {"B": []}, {"C": []}]}
        assert shape(await api.tree(entities["ROOT"], 2)) == two
        assert await api.tree(entities["ROOT"], 3) == await api.tree(entities["ROOT"])
        assert await api.tree(entities["ROOT"], 32) == await api.tree(entities["ROOT"])

    async def test_inactive_entities_are_included(self, api: EntitiesApi) -> None:
        entities = await group(api)
        await api.deactivate(entities["C"])
        assert (await api.tree(entities["ROOT"])).children[2].entity.state == Entity.INACTIVE

    async def test_all_sixteen_levels(self, api: EntitiesApi) -> None:
        codes = [f"L{level}" for level in range(1, 17)]
        parent_id = ""
        for code in codes:
            parent_id = (await api.create_entity(code, parent_id=parent_id)).id
        root_id = (await api.tree(parent_id)).entity.parent_id
        for _ in range(14):
            root_id = (await api.tree(root_id)).entity.parent_id
        tree, codes_on_path = await api.tree(root_id), []
        codes_on_path.append(tree.entity.code)
        while tree.children:
            tree = tree.children[0]
            codes_on_path.append(tree.entity.code)
        assert codes_on_path == codes

    async def test_changes_are_visible_immediately(self, api: EntitiesApi) -> None:
        entities = await group(api)
        before = await api.tree(entities["ROOT"])
        assert await api.tree(entities["ROOT"]) == before
        changed = await api.update(entities["A"], display_name="Another name", metadata={"team": "a"})
        after = await api.tree(entities["ROOT"])
        assert (after.children[0].entity, after.children[0].etag) == (changed, "2")
        before.children[0].entity.CopyFrom(changed)
        before.children[0].etag = "2"
        assert after == before

    async def test_unknown_entity_is_not_found(self, api: EntitiesApi) -> None:
        unknown_id = ids.ENTITY.format(ids.new())
        error = await refusal(api.tree(unknown_id))
        assert (error.reason, error.metadata) == ("ENTITY_NOT_FOUND", {"entity_id": unknown_id})
