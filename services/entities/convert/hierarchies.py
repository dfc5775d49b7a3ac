"""Conversion of entity trees."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import Final, TypeAlias
from uuid import UUID

from billing.entities.v1.entity_pb2 import EntityHierarchy

from kit import ids
from services.entities import convert
from services.entities.domain.entities import HierarchyNode
from services.entities.models.entities import EntityColumns

_CACHE_SIZE: Final = 25_000

_Revision: TypeAlias = tuple[UUID, int, datetime]
"""Tenant, version and update time of an entity; its content is the same as long as these are."""


class EntityMessageCache:
    """Serialized Entity messages; saves reading and converting the columns of large trees again.

    An entry is valid for one version of the entity. The oldest entries are dropped first.
    """

    def __init__(self) -> None:
        self._entries: dict[UUID, tuple[_Revision, bytes]] = {}

    def find(self, tenant_id: UUID, nodes: Iterable[HierarchyNode]) -> dict[UUID, bytes]:
        """Return the cached messages of the nodes, by entity id."""
        entries = ((node, self._entries.get(node.id)) for node in nodes)
        return {
            node.id: entry[1]
            for node, entry in entries
            if entry and entry[0] == (tenant_id, node.version, node.update_time)
        }

    def add(self, tenant_id: UUID, rows: Iterable[EntityColumns]) -> dict[UUID, bytes]:
        """Convert the rows, cache their messages and return them by entity id."""
        added = {
            row.id: ((tenant_id, row.version, row.update_time), convert.entities.to_proto(row).SerializeToString())
            for row in rows
        }
        for id in added:
            self._entries.pop(id, None)
        self._entries |= added
        for id in list(islice(self._entries, max(0, len(self._entries) - _CACHE_SIZE))):
            del self._entries[id]
        return {id: message for id, (_, message) in added.items()}


def to_proto(nodes: Sequence[HierarchyNode], messages: Mapping[UUID, bytes]) -> EntityHierarchy:
    """Build the tree from its nodes and the serialized entities; parents come before children, the root is first."""
    root = EntityHierarchy()
    trees: dict[UUID, EntityHierarchy] = {}
    for node in nodes:
        tree = trees[node.id] = trees[node.parent_id].children.add() if node.parent_id in trees else root
        tree.truncated = node.truncated
        entity = tree.entity
        entity.ParseFromString(messages[node.id])
        entity.parent_id = ids.ENTITY.format_optional(node.parent_id)
        tree.etag = entity.etag
    return root
