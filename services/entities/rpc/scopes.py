"""What a confined caller may see."""

from kit import ids
from kit.auth import Scope
from kit.db import Database
from kit.errors import InvalidFields, TokenInvalid
from kit.origin import Call
from services.entities import service
from serving.scope import named_by


class LocalScopes:
    """What a confined caller may see, out of our own tables: for this service what ResolveScope is for the others."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def resolve(self, call: Call) -> Scope:
        """All entities and departments that the caller's token covers; raises TokenInvalid where it names no ids."""
        entities, departments = named_by(call.principal)
        try:
            entity_ids, department_ids = map(ids.ENTITY.parse, entities), map(ids.DEPARTMENT.parse, departments)
            named = list(entity_ids), list(department_ids)
        except InvalidFields:
            raise TokenInvalid from None
        async with self._db.read(call) as tx:
            return await service.entities.resolve_scope(tx, *named)
