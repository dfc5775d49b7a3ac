"""What a confined caller's token covers, asked of the service that knows the trees.

A token names entities and departments; it covers what lies below them as well. The answer is remembered
for a short while, so that a confined caller costs one call now and then.
"""

from typing import Protocol, TypeAlias
from uuid import UUID

from billing.entities.v1.entity_service_pb2 import ResolveScopeRequest
from billing.entities.v1.entity_service_pb2_grpc import EntityServiceStub

from kit import ids
from kit.auth import Principal, Scope
from kit.cache import TtlCache
from kit.origin import Call
from serving.clients import ServiceClient

_CACHE_SIZE = 10_000
_CACHE_TTL_S = 30.0

_Ids: TypeAlias = tuple[str, ...]


class Scopes(Protocol):
    """Resolves what a confined caller may see."""

    async def resolve(self, call: Call) -> Scope:
        """All entities and departments that the caller's token covers."""


class RemoteScopes:
    """Scopes as the entities service resolves them."""

    def __init__(self, entities: ServiceClient) -> None:
        self._entities = entities
        self._stub = EntityServiceStub(entities.channel)
        self._cache: TtlCache[tuple[UUID, _Ids, _Ids], Scope] = TtlCache(_CACHE_SIZE, _CACHE_TTL_S)

    async def resolve(self, call: Call) -> Scope:
        """All entities and departments covered, at most half a minute old; raises Unavailable."""
        named = named_by(call.principal)
        key = (call.tenant_id, *named)
        scope = self._cache.get(key)
        if scope is None:
            scope = await self._ask(call, *named)
            self._cache.set(key, scope)
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
