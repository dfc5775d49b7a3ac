"""The cache of serialized entities: which entries are valid."""

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from billing.entities.v1.entity_pb2 import Entity

from services.entities import convert
from services.entities.convert.hierarchies import EntityMessageCache
from services.entities.domain.entities import HierarchyNode
from services.entities.models.entities import EntityRow
from tests.contract.test_conversion import new_samples

TENANT, OTHER_TENANT = UUID(int=1), UUID(int=2)


def row(number: int, **values: Any) -> EntityRow:
    entity = new_samples().row(EntityRow)
    for name, value in {"id": UUID(int=number), "parent_id": None, **values}.items():
        setattr(entity, name, value)
    return entity


def node(entity: EntityRow) -> HierarchyNode:
    return HierarchyNode(entity.id, entity.parent_id, entity.version, entity.update_time, truncated=False)


def test_same_version_is_found() -> None:
    cache, entity = EntityMessageCache(), row(1)
    assert cache.find(TENANT, [node(entity)]) == {}
    messages = cache.add(TENANT, [entity])
    assert cache.find(TENANT, [node(entity), node(row(2))]) == messages
    assert Entity.FromString(messages[entity.id]) == convert.entities.to_proto(entity)


def test_other_version_update_time_or_tenant_is_not_found() -> None:
    cache, entity = EntityMessageCache(), row(1)
    cache.add(TENANT, [entity])
    later = entity.update_time + timedelta(microseconds=1)
    for other in (node(entity)._replace(version=entity.version + 1), node(entity)._replace(update_time=later)):
        assert cache.find(TENANT, [other]) == {}
    assert cache.find(OTHER_TENANT, [node(entity)]) == {}


def test_new_version_replaces_the_old_one() -> None:
    cache, old = EntityMessageCache(), row(1, code="OLD")
    cache.add(TENANT, [old])
    new = row(1, code="NEW", version=old.version + 1)
    cache.add(TENANT, [new])
    assert cache.find(TENANT, [node(old)]) == {}
    assert Entity.FromString(cache.find(TENANT, [node(new)])[new.id]).code == "NEW"


def test_full_cache_drops_the_oldest_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert.hierarchies, "_CACHE_SIZE", 3)
    cache, rows = EntityMessageCache(), [row(number) for number in range(5)]
    cache.add(TENANT, rows[:3])
    cache.add(TENANT, [rows[0]])  # makes it the newest
    assert len(cache.add(TENANT, rows[3:])) == 2
    assert cache.find(TENANT, map(node, rows)).keys() == {rows[0].id, rows[3].id, rows[4].id}
