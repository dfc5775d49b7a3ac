"""What a confined caller's token covers, asked of the service that knows the trees.

A token names entities and departments; it covers what lies below them as well. The answer is remembered
for a short while, so that a confined caller costs one call now and then.
"""

import time
from typing import Protocol
from uuid import UUID

from billing.entities.v1.entity_service_pb2 import ResolveScopeRequest
from billing.entities.v1.entity_service_pb2_grpc import EntityServiceStub

from kit import ids
from kit.auth import Principal, Scope
from kit.origin import Call
from serving.clients import ServiceClient

_REMEMBERED_S = 30.0
_REMEMBERED_MAX = 10_000


class Scopes(Protocol):
    """Resolves what a confined caller may see."""

    async def resolve(self, call: Call) -> Scope:
        """All entities and departments that the caller's token covers."""


class RemoteScopes:
    """Scopes as the entities service resolves them."""

    def __init__(self, entities: ServiceClient) -> None:
        self._entities = entities
        self._stub = EntityServiceStub(entities.channel)
        self._known: dict[tuple[UUID, tuple[str, ...], tuple[str, ...]], tuple[float, Scope]] = {}

    async def resolve(self, call: Call) -> Scope:
        """All entities and departments covered, at most half a minute old; raises Unavailable."""
        named = named_by(call.principal)
        key = (call.tenant_id, *named)
        known_until, scope = self._known.get(key, (0.0, Scope()))
        if known_until < time.monotonic():
            scope = await self._ask(call, *named)
            if len(self._known) >= _REMEMBERED_MAX:
                self._known.clear()
            self._known[key] = (time.monotonic() + _REMEMBERED_S, scope)
        return scope

    async def _ask(self, call: Call, entity_ids: tuple[str, ...], department_ids: tuple[str, ...]) -> Scope:
        request = ResolveScopeRequest(entity_ids=entity_ids, department_ids=department_ids)
        covered = await self._entities.call(self._stub.ResolveScope, request, call)
        return Scope(
            frozenset(map(ids.ENTITY.parse, covered.entity_ids)),
            frozenset(map(ids.DEPARTMENT.parse, covered.department_ids)),
        )


def named_by(principal: Principal) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The entities and the departments that the token names."""
    return principal.entity_scope or (), principal.department_scope or ()
