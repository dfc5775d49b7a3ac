"""Who changed what and when, out of the audit log of a service.

The log has rows of tables. What they are for callers stands with each table in models.py: `audited_as = ids.BUDGET`, or
a name where callers see no id. Secrets are never shown, whatever table they are in.
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
from kit.errors import InvalidFields, PermissionDenied, Violation
from kit.ids import KINDS, Kind
from kit.origin import Call
from serving.pages import SIZE_DEFAULT, Pages
from serving.timeline import Place, read_place, token_of

_ACTIONS = {"insert": pb.AuditEvent.CREATED, "update": pb.AuditEvent.CHANGED, "delete": pb.AuditEvent.DELETED}
_NO_NEWS = frozenset({"tenant_id", "id", "version", "create_time", "update_time"})
"""Columns that tell nothing beside the event itself."""
_SECRET = re.compile(r"secret|credential|password|passphrase|token|cipher|private|api_?key", re.IGNORECASE)
_HIDDEN = "(hidden)"
_KIND_OF_FIELD = {kind.field: kind for kind in KINDS.values()}


class AuditOutOfScope(PermissionDenied):
    """The log tells of the whole tenant, and the caller may see a part of it."""

    reason = "AUDIT_OUT_OF_SCOPE"

    def __init__(self) -> None:
        super().__init__("The audit log tells of the whole tenant; your token is confined to a part of it.")


class AuditRow(Base):
    """A change of one row."""

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


def audited() -> Mapping[str, Kind | str]:
    """What the rows of each table are for callers: things with an id of this kind, or of this name."""
    found = {row.__tablename__: getattr(row, "audited_as", None) for row in _rows(TenantRow)}
    return {table: what for table, what in found.items() if what is not None}


def _rows(above: type[TenantRow]) -> Iterator[type[TenantRow]]:
    for row in above.__subclasses__():
        if "__tablename__" in vars(row):
            yield row
        yield from _rows(row)


class AuditServicer:
    """The audit log of one service."""

    service = pb.DESCRIPTOR.services_by_name["AuditService"]

    def __init__(self, name: str, db: Database, pages: Pages) -> None:
        self._name = name
        self._db = db
        self._pages = pages
        self._audited = audited()

    async def ListAuditEvents(self, request: pb.ListAuditEventsRequest, call: Call) -> pb.ListAuditEventsResponse:
        if call.principal.confined:
            raise AuditOutOfScope
        after = read_place(self._pages, request, call.method, call.tenant_id)
        size = request.page_size or SIZE_DEFAULT
        wanted = self._narrowed(request)
        if after is not None:
            wanted = self._continued(wanted, after)
        async with self._db.read(call) as tx:
            rows = await tx.rows(wanted.limit(size + 1))
        reply = pb.ListAuditEventsResponse(audit_events=map(self._event, rows[:size]))
        if len(rows) > size:
            last = Place(rows[size - 1].create_time, self._name, rows[size - 1].position)
            reply.next_page_token = token_of(self._pages, last, request, call.method, call.tenant_id)
        return reply

    def _narrowed(self, request: pb.ListAuditEventsRequest) -> Select[*tuple[Any, ...]]:
        """The query for what the filters leave; raises InvalidFields."""
        # As text, so that numbers keep all their digits.
        before, after = cast(AuditRow.before, Text).label("before"), cast(AuditRow.after, Text).label("after")
        columns = [column for name, column in AuditRow.__mapper__.columns.items() if name not in {"before", "after"}]
        wanted: Select[*tuple[Any, ...]] = select(*columns, before, after)
        if request.resource_id:
            kind, id = _parsed(request.resource_id)
            wanted = wanted.where(AuditRow.resource_id == id)
            if kind is not None:
                wanted = wanted.where(AuditRow.resource_table.in_(self._tables(kind)))
        if request.resource_type:
            tables = [table for table, what in self._audited.items() if _type_of(what) == request.resource_type]
            wanted = wanted.where(AuditRow.resource_table.in_(tables))
        if request.actor:
            wanted = wanted.where(AuditRow.actor == request.actor)
        if request.HasField("since_time"):
            wanted = wanted.where(AuditRow.create_time >= time_from_proto(request.since_time))
        if request.HasField("until_time"):
            wanted = wanted.where(AuditRow.create_time < time_from_proto(request.until_time))
        return wanted.order_by(AuditRow.create_time.desc(), AuditRow.position.desc())

    def _tables(self, kind: Kind) -> list[str]:
        return [table for table, what in self._audited.items() if what is kind]

    def _continued(self, wanted: Select[*tuple[Any, ...]], after: Place) -> Select[*tuple[Any, ...]]:
        """What comes after a line that may be of another service."""
        if after.service == self._name:
            here = tuple_(AuditRow.create_time, AuditRow.position)
            return wanted.where(here < tuple_(after.time, after.position))
        if after.service < self._name:
            return wanted.where(AuditRow.create_time <= after.time)
        return wanted.where(AuditRow.create_time < after.time)

    def _event(self, row: Row[*tuple[Any, ...]]) -> pb.AuditEvent:
        what = self._audited.get(row.resource_table, row.resource_table)
        return pb.AuditEvent(
            service=self._name,
            event_id=str(row.position),
            resource_type=_type_of(what),
            resource_id=what.format(row.resource_id) if isinstance(what, Kind) else row.resource_id.hex,
            action=_ACTIONS[row.action],
            actor=row.actor,
            change_time=time_to_proto(row.create_time),
            trace_id=row.trace_id,
            changes=_changes(row, what),
        )


def _parsed(resource_id: str) -> tuple[Kind | None, UUID]:
    prefix, _, digits = resource_id.rpartition("_")
    if not prefix:
        return None, UUID(digits)
    kind = KINDS.get(prefix)
    if kind is None:
        raise InvalidFields([Violation("resource_id", f"nothing has an id that begins with {prefix}_", "id.kind")])
    return kind, kind.parse(resource_id, "resource_id")


def _type_of(what: Kind | str) -> str:
    return what.name.replace(" ", "_") if isinstance(what, Kind) else what


def _changes(row: Row[*tuple[Any, ...]], what: Kind | str) -> Iterator[pb.AuditEvent.Change]:
    """What is another value now, in the order of the fields' names."""
    before, after = _values(row.before), _values(row.after)
    for field in sorted({*before, *after} - _NO_NEWS):
        was, became = before.get(field), after.get(field)
        if was != became:
            yield pb.AuditEvent.Change(field=field, before=_text(field, was, what), after=_text(field, became, what))


def _values(recorded: str | None) -> dict[str, Any]:
    """The columns; numbers as texts, with all their digits."""
    values: dict[str, Any] = json.loads(recorded or "{}", parse_float=str, parse_int=str)
    return values


def _text(field: str, value: Any, what: Kind | str) -> str | None:
    if value is None:
        return None
    if _SECRET.search(field):
        return _HIDDEN
    if not isinstance(value, str):
        return json.dumps(_without_secrets(value), ensure_ascii=False)
    kind = what if field == "parent_id" else _KIND_OF_FIELD.get(field)
    return kind.format(ids.uuid_of(value)) if isinstance(kind, Kind) else value


def _without_secrets(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _HIDDEN if _SECRET.search(name) else _without_secrets(item) for name, item in value.items()}
    return [_without_secrets(item) for item in value] if isinstance(value, list) else value
