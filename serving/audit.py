"""AuditService, implemented by every service: lists the changes in the audit log of its schema.

The log records rows of tables. `audited_as` on each model names the resource to which a row belongs: the kind of its id
(`ids.BUDGET`), or a plain name if the API has no id for it. Values of secret columns are hidden, whatever the table.
"""

import json
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from billing.audit.v1 import audit_service_pb2 as pb
from sqlalchemy import BigInteger, DateTime, Row, Select, Text, Uuid, cast, select, tuple_
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from contract.values import time_from_proto, time_to_proto
from kit import ids
from kit.db import Base, Database, TenantRow
from kit.errors import InvalidFields, Violation
from kit.ids import KINDS, Kind
from kit.origin import Call
from serving.pages import SIZE_DEFAULT, Pages
from serving.sealing import Seal
from serving.timeline import Position, decode_position, encode_position

_ACTIONS = {"insert": pb.AuditEvent.CREATED, "update": pb.AuditEvent.CHANGED, "delete": pb.AuditEvent.DELETED}
_HOUSEKEEPING_COLUMNS = frozenset({"tenant_id", "id", "version", "create_time", "update_time"})
"""Columns that are not listed as changes: the event itself has this information."""
_SECRET = re.compile(r"secret|credential|password|passphrase|token|cipher|private|api_?key", re.IGNORECASE)
_HIDDEN = "(hidden)"
_KIND_OF_FIELD = {kind.field: kind for kind in KINDS.values()}


class AuditRow(Base):
    """A change of one row of a table."""

    __tablename__ = "audit_log"

    position: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    tenant_id: Mapped[UUID] = mapped_column(Uuid)
    resource_table: Mapped[str] = mapped_column(Text)
    resource_id: Mapped[UUID] = mapped_column(Uuid)
    action: Mapped[str] = mapped_column(Text)
    actor: Mapped[str] = mapped_column(Text)
    trace_id: Mapped[str] = mapped_column(Text)
    before: Mapped[Any | None] = mapped_column(JSONB)
    after: Mapped[Any | None] = mapped_column(JSONB)
    create_time: Mapped[datetime] = mapped_column(DateTime(timezone=True))


def audited_tables() -> Mapping[str, Kind | str]:
    """Return the audited tables of this process with the resource that their rows belong to: kind of id, or name."""
    tables = {model.__tablename__: getattr(model, "audited_as", None) for model in _models(TenantRow)}
    return {table: resource for table, resource in tables.items() if resource is not None}


def _models(base: type[TenantRow]) -> Iterator[type[TenantRow]]:
    for model in base.__subclasses__():
        if "__tablename__" in vars(model):
            yield model
        yield from _models(model)


class AuditServicer:
    """Implements AuditService for one service."""

    service = pb.DESCRIPTOR.services_by_name["AuditService"]

    def __init__(self, name: str, db: Database, pages: Pages) -> None:
        self._name = name
        self._db = db
        self._pages = pages
        self._resources = audited_tables()

    async def ListAuditEvents(self, request: pb.ListAuditEventsRequest, call: Call) -> pb.ListAuditEventsResponse:
        position = decode_position(self._pages, request, call.method, call.tenant_id)
        size = request.page_size or SIZE_DEFAULT
        query = self._query(request)
        if position is not None:
            query = self._query_after(query, position)
        async with self._db.read(call) as tx:
            rows = await tx.rows(query.limit(size + 1))
        seal = self._pages.seal(call.tenant_id)
        reply = pb.ListAuditEventsResponse(audit_events=(self._event(row, seal) for row in rows[:size]))
        if len(rows) > size:
            last = Position(rows[size - 1].create_time, self._name, rows[size - 1].position)
            reply.next_page_token = encode_position(self._pages, last, request, call.method, call.tenant_id)
        return reply

    def _query(self, request: pb.ListAuditEventsRequest) -> Select[*tuple[Any, ...]]:
        """Return the query for the filters of the request. Raises InvalidFields."""
        # As text, since parsing JSON numbers as floats would lose digits.
        before, after = cast(AuditRow.before, Text).label("before"), cast(AuditRow.after, Text).label("after")
        columns = [column for name, column in AuditRow.__mapper__.columns.items() if name not in {"before", "after"}]
        query: Select[*tuple[Any, ...]] = select(*columns, before, after)
        if request.resource_id:
            kind, id = _parse_id(request.resource_id)
            query = query.where(AuditRow.resource_id == id)
            if kind is not None:
                query = query.where(AuditRow.resource_table.in_(self._tables(kind)))
        if request.resource_type:
            tables = [table for table, res in self._resources.items() if _type_of(res) == request.resource_type]
            query = query.where(AuditRow.resource_table.in_(tables))
        if request.actor:
            query = query.where(AuditRow.actor == request.actor)
        if request.HasField("since_time"):
            query = query.where(AuditRow.create_time >= time_from_proto(request.since_time))
        if request.HasField("until_time"):
            query = query.where(AuditRow.create_time < time_from_proto(request.until_time))
        return query.order_by(AuditRow.create_time.desc(), AuditRow.position.desc())

    def _tables(self, kind: Kind) -> list[str]:
        return [table for table, resource in self._resources.items() if resource is kind]

    def _query_after(self, query: Select[*tuple[Any, ...]], position: Position) -> Select[*tuple[Any, ...]]:
        """Continue the query after a position, which may be an event of another service."""
        if position.service == self._name:
            row_position = tuple_(AuditRow.create_time, AuditRow.position)
            return query.where(row_position < tuple_(position.time, position.number))
        if position.service < self._name:
            return query.where(AuditRow.create_time <= position.time)
        return query.where(AuditRow.create_time < position.time)

    def _event(self, row: Row[*tuple[Any, ...]], seal: Seal) -> pb.AuditEvent:
        resource = self._resources.get(row.resource_table, row.resource_table)
        return pb.AuditEvent(
            service=self._name,
            event_id=seal.seal(row.position),
            resource_type=_type_of(resource),
            resource_id=resource.format(row.resource_id) if isinstance(resource, Kind) else row.resource_id.hex,
            action=_ACTIONS[row.action],
            actor=row.actor,
            change_time=time_to_proto(row.create_time),
            trace_id=row.trace_id,
            changes=_changes(row, resource),
        )


def _parse_id(resource_id: str) -> tuple[Kind | None, UUID]:
    prefix, _, digits = resource_id.rpartition("_")
    if not prefix:
        return None, UUID(digits)
    kind = KINDS.get(prefix)
    if kind is None:
        raise InvalidFields([Violation("resource_id", f"no resource has ids that begin with {prefix}_", "id.kind")])
    return kind, kind.parse(resource_id, "resource_id")


def _type_of(resource: Kind | str) -> str:
    return resource.name.replace(" ", "_") if isinstance(resource, Kind) else resource


def _changes(row: Row[*tuple[Any, ...]], resource: Kind | str) -> Iterator[pb.AuditEvent.Change]:
    """Yield the fields whose value changed, ordered by name."""
    before, after = _values(row.before), _values(row.after)
    for field in sorted({*before, *after} - _HOUSEKEEPING_COLUMNS):
        old, new = before.get(field), after.get(field)
        if old != new:
            yield pb.AuditEvent.Change(
                field=field, before=_text(field, old, resource), after=_text(field, new, resource)
            )


def _values(columns: str | None) -> dict[str, Any]:
    """Parse the columns of an audit record; numbers as text, with all their digits."""
    values: dict[str, Any] = json.loads(columns or "{}", parse_float=str, parse_int=str)
    return values


def _text(field: str, value: Any, resource: Kind | str) -> str | None:
    if value is None:
        return None
    if _SECRET.search(field):
        return _HIDDEN
    if not isinstance(value, str):
        return json.dumps(_without_secrets(value), ensure_ascii=False)
    kind = resource if field == "parent_id" else _KIND_OF_FIELD.get(field)
    return kind.format(ids.uuid_of(value)) if isinstance(kind, Kind) else value


def _without_secrets(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _HIDDEN if _SECRET.search(name) else _without_secrets(item) for name, item in value.items()}
    return [_without_secrets(item) for item in value] if isinstance(value, list) else value
