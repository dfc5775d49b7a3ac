"""Trees of entities."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import Final, TypeAlias
from uuid import UUID

from billing.entities.v1.entity_pb2 import EntityHierarchy

from kit import ids
from services.entities import convert
from services.entities.models.entities import EntityColumns
from services.entities.store.trees import Place

_KNOWN_MAX: Final = 25_000

_Stamp: TypeAlias = tuple[UUID, int, datetime]
"""Tenant, version and time of the last change: an entity that has the same is the same."""


class KnownEntities:
    """Entities that were converted before, serialised: by the thousands, their columns are not read again and again.

    One is known by its version, so whatever changes it makes it unknown. The oldest are forgotten first.
    """

    def __init__(self) -> None:
        self._known: dict[UUID, tuple[_Stamp, bytes]] = {}

    def find(self, tenant_id: UUID, places: Iterable[Place]) -> dict[UUID, bytes]:
        """Those of the entities that are known, by id."""
        known = ((place, self._known.get(place.id)) for place in places)
        return {
            place.id: found[1]
            for place, found in known
            if found and found[0] == (tenant_id, place.version, place.update_time)
        }

    def learn(self, tenant_id: UUID, rows: Iterable[EntityColumns]) -> dict[UUID, bytes]:
        """The entities of these rows, by id."""
        learned = {
            row.id: (
                (tenant_id, row.version, row.update_time),
                convert.entities.to_proto(row).SerializeToString(),
            )
            for row in rows
        }
        for id in learned:
            self._known.pop(id, None)
        self._known |= learned
        for id in list(islice(self._known, max(0, len(self._known) - _KNOWN_MAX))):
            del self._known[id]
        return {id: entity for id, (_, entity) in learned.items()}


def to_proto(places: Sequence[Place], entities: Mapping[UUID, bytes]) -> EntityHierarchy:
    """The tree out of its places, in which parents stand before their children and the first one is the top."""
    top = EntityHierarchy()
    nodes: dict[UUID, EntityHierarchy] = {}
    for place in places:
        node = nodes[place.id] = nodes[place.parent_id].children.add() if place.parent_id in nodes else top
        node.truncated = place.truncated
        entity = node.entity
        entity.ParseFromString(entities[place.id])
        entity.parent_id = ids.ENTITY.format_optional(place.parent_id)
        node.etag = entity.etag
    return top
