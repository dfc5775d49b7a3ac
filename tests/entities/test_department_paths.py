"""Paths and descendants in the current tree of departments, as the store reads them."""

import time

import pytest

from kit import ids
from kit.origin import Origin
from services.entities import store
from tests.entities.tree_api import TreeApi, department_chain
from tests.harness.callers import Caller
from tests.harness.services import Entities, Served


@pytest.fixture
def api(entities: Entities, finance: Caller) -> TreeApi:
    return TreeApi(finance, entities)


async def test_paths_and_descendants_after_a_move(api: TreeApi, entities_served: Served[Entities]) -> None:
    acme = await api.create_entity("ACME")
    top, middle, low = await department_chain(api, acme, 3)
    other = await api.create_department(acme, "OTHER")
    await api.move_department(middle, other)
    top_id, low_id = ids.DEPARTMENT.parse(top.id), ids.DEPARTMENT.parse(low.id)
    async with entities_served.service.db.read(origin_of(api)) as tx:
        paths = await store.departments.find_paths(tx, [low_id, top_id, ids.new()])
        below = await store.departments.find_descendants(tx, ids.DEPARTMENT.parse(other.id))
    path = [ids.DEPARTMENT.parse(each.id) for each in (other, middle, low)]
    assert paths == {low_id: path, top_id: [top_id]}
    assert set(below) == set(path)


def origin_of(api: TreeApi) -> Origin:
    return Origin(tenant_id=api.caller.tenant_id, actor="alice", trace=api.caller.trace, deadline=time.monotonic() + 10)
