"""Scopes of confined callers, resolved from this service's own tables."""

from kit import ids
from kit.auth import Scope
from kit.db import Database
from kit.errors import InvalidFields, TokenInvalid
from kit.origin import Call
from services.entities import service
from serving.scope import scope_ids_of


class LocalScopes:
    """Resolves scopes from this service's own tables; other services call ResolveScope."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def resolve(self, call: Call) -> Scope:
        """Return the entities and departments that the caller's token covers. Raises TokenInvalid for malformed ids."""
        entities, departments = scope_ids_of(call.principal)
        try:
            entity_ids = [ids.ENTITY.parse(text) for text in entities]
            department_ids = [ids.DEPARTMENT.parse(text) for text in departments]
        except InvalidFields:
            raise TokenInvalid from None
        async with self._db.read(call) as tx:
            return await service.scopes.resolve(tx, entity_ids, department_ids)
