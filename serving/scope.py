"""Scopes of confined callers, resolved by the service that owns the trees of entities and departments.

A token names entities and departments; its scope also covers everything below them. Scopes are cached for a short time,
so that most calls of a confined caller need no further call.
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
    """Resolves the scope of a confined caller."""

    async def resolve(self, call: Call) -> Scope:
        """Return all entities and departments that the caller's token covers."""


class RemoteScopes:
    """Scopes resolved by the entities service."""

    def __init__(self, entities: ServiceClient) -> None:
        self._entities = entities
        self._stub = EntityServiceStub(entities.channel)
        self._cache: TtlCache[tuple[UUID, _Ids, _Ids], Scope] = TtlCache(_CACHE_SIZE, _CACHE_TTL_S)

    async def resolve(self, call: Call) -> Scope:
        """Return all entities and departments covered, at most 30 seconds old. Raises Unavailable."""
        scope_ids = scope_ids_of(call.principal)
        key = (call.tenant_id, *scope_ids)
        scope = self._cache.get(key)
        if scope is None:
            scope = await self._fetch(call, *scope_ids)
            self._cache.set(key, scope)
        return scope

    async def _fetch(self, call: Call, entity_ids: _Ids, department_ids: _Ids) -> Scope:
        request = ResolveScopeRequest(entity_ids=entity_ids, department_ids=department_ids)
        reply = await self._entities.call(self._stub.ResolveScope, request, call)
        return Scope(
            frozenset(map(ids.ENTITY.parse, reply.entity_ids)),
            frozenset(map(ids.DEPARTMENT.parse, reply.department_ids)),
        )


def scope_ids_of(principal: Principal) -> tuple[_Ids, _Ids]:
    """Return the entity ids and the department ids in the caller's token."""
    return principal.entity_scope or (), principal.department_scope or ()
