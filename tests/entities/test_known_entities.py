"""What is remembered of entities, and when it is not."""

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from billing.entities.v1.entity_pb2 import Entity

from services.entities import convert
from services.entities.convert.hierarchies import KnownEntities
from services.entities.models.entities import EntityRow
from services.entities.store.trees import Place
from tests.contract.test_conversion import filled

ME, SOMEBODY_ELSE = UUID(int=1), UUID(int=2)


def row(number: int, **changed: Any) -> EntityRow:
    made = filled(EntityRow)
    for name, value in {"id": UUID(int=number), "parent_id": None, **changed}.items():
        setattr(made, name, value)
    return made


def place(of: EntityRow) -> Place:
    return Place(of.id, of.parent_id, of.version, of.update_time, truncated=False)


def test_the_same_version_is_known() -> None:
    known, one = KnownEntities(), row(1)
    assert known.find(ME, [place(one)]) == {}
    learned = known.learn(ME, [one])
    assert known.find(ME, [place(one), place(row(2))]) == learned
    assert Entity.FromString(learned[one.id]) == convert.entities.to_proto(one)


def test_another_version_time_or_tenant_is_not() -> None:
    known, one = KnownEntities(), row(1)
    known.learn(ME, [one])
    later = one.update_time + timedelta(microseconds=1)
    for other in (place(one)._replace(version=one.version + 1), place(one)._replace(update_time=later)):
        assert known.find(ME, [other]) == {}
    assert known.find(SOMEBODY_ELSE, [place(one)]) == {}


def test_the_newest_version_takes_the_place_of_the_one_before() -> None:
    known, old = KnownEntities(), row(1, code="OLD")
    known.learn(ME, [old])
    new = row(1, code="NEW", version=old.version + 1)
    known.learn(ME, [new])
    assert known.find(ME, [place(old)]) == {}
    assert Entity.FromString(known.find(ME, [place(new)])[new.id]).code == "NEW"


def test_the_oldest_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert.hierarchies, "_KNOWN_MAX", 3)
    known, rows = KnownEntities(), [row(number) for number in range(5)]
    known.learn(ME, rows[:3])
    known.learn(ME, [rows[0]])  # is the newest now
    assert len(known.learn(ME, rows[3:])) == 2
    assert known.find(ME, map(place, rows)).keys() == {rows[0].id, rows[3].id, rows[4].id}
