"""Records of a change in audit log and outbox, with actor and trace."""

from collections.abc import Awaitable, Callable
from uuid import UUID

from billing.entities.v1.events_pb2 import EntityCreated, EntityDeactivated

from kit import ids
from tests.entities.entities_api import EntitiesApi
from tests.harness.callers import refusal
from tests.harness.observe import AuditRow, OutboxEvent, PublishedEvents


async def test_audit_log_has_actor_and_change(
    api: EntitiesApi, audit_rows: Callable[[str], Awaitable[list[AuditRow]]]
) -> None:
    entity = await api.create_entity(tax_id="DE111111125")
    await api.update(entity, tax_id="DE136695976")
    department = await api.create_department(entity)
    await api.update_department(department, manager_user_id="bob")
    await api.deactivate(entity)
    rows = await audit_rows("entities")
    assert [(row.table, row.action) for row in rows] == [
        ("billing_entities", "insert"),
        ("billing_entities", "update"),
        ("departments", "insert"),
        ("department_history", "insert"),
        ("departments", "update"),
        ("billing_entities", "update"),
    ]
    assert {row.actor for row in rows} == {"alice"}
    assert {row.trace_id for row in rows} == {api.caller.trace.trace_id}
    changed = rows[1]
    assert changed.id == ids.ENTITY.parse(entity.id)
    assert changed.before is not None
    assert changed.after is not None
    assert {field for field in changed.after if changed.after[field] != changed.before[field]} == {
        "tax_id", "version", "update_time",
    }  # fmt: skip
    assert (changed.before["tax_id"], changed.after["tax_id"]) == ("DE111111125", "DE136695976")


async def test_refused_call_leaves_no_record(
    api: EntitiesApi,
    audit_rows: Callable[[str], Awaitable[list[AuditRow]]],
    outbox_events: Callable[[str], Awaitable[list[OutboxEvent]]],
) -> None:
    entity = await api.create_entity()
    await refusal(api.create_entity())
    await refusal(api.update(entity, tax_id="1", etag="7"))
    await refusal(api.create_department(entity, parent_id=ids.DEPARTMENT.format(UUID(int=1))))
    assert len(await audit_rows("entities")) == 1
    assert len(await outbox_events("entities")) == 1


async def test_events_have_actor_and_trace(
    api: EntitiesApi, outbox_events: Callable[[str], Awaitable[list[OutboxEvent]]], published_events: PublishedEvents
) -> None:
    entity = await api.create_entity()
    await api.deactivate(entity)
    events = await outbox_events("entities")
    assert [event.type for event in events] == [
        "billing.entities.v1.EntityCreated",
        "billing.entities.v1.EntityDeactivated",
    ]
    assert events[0].body == {"entity_id": entity.id, "code": "ACME", "currency_code": "EUR"}
    assert {event.actor for event in events} == {"alice"}
    assert {event.traceparent.split("-")[1] for event in events} == {api.caller.trace.trace_id}
    await published_events.first(EntityDeactivated)
    headers = published_events.headers(EntityCreated)
    assert (headers["ce-id"], headers["ce-actor"]) == (str(events[0].id), "alice")
    assert headers["traceparent"] == events[0].traceparent
