"""Scopes of confined callers, resolved from the own database."""

from kit import ids
from kit.auth import Scope
from kit.db import Database
from kit.errors import InvalidFields, TokenInvalid
from kit.origin import Call
from services.entities import service
from serving.scope import scope_ids_of


class LocalScopes:
    """Resolves scopes from the own tables; other services call ResolveScope."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def resolve(self, call: Call) -> Scope:
        """Return the entities and departments that the caller's token covers. Raises TokenInvalid for malformed ids."""
        entities, departments = scope_ids_of(call.principal)
        try:
            entity_ids, department_ids = map(ids.ENTITY.parse, entities), map(ids.DEPARTMENT.parse, departments)
            named = list(entity_ids), list(department_ids)
        except InvalidFields:
            raise TokenInvalid from None
        async with self._db.read(call) as tx:
            return await service.scopes.resolve(tx, *named)
