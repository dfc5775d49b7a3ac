"""The audit log as its readers see it."""

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from billing.audit.v1.audit_service_pb2 import AuditEvent, ListAuditEventsRequest, ListAuditEventsResponse
from billing.entities.v1.entity_pb2 import Entity
from google.protobuf.timestamp_pb2 import Timestamp
from grpc import StatusCode

from kit import ids
from serving.audit import audited_tables
from serving.pages import Pages
from serving.timeline import Position, encode_position
from tests.contract import contract
from tests.contract.source import SERVICES
from tests.entities.entities_api import EntitiesApi
from tests.harness.callers import Caller, refusal
from tests.harness.services import Entities, Served


class Auditor:
    """A caller who reads the audit log of the entities service."""

    def __init__(self, other: Caller, stubs: Entities) -> None:
        self.caller, self.stub = other, stubs.audit

    async def list_page(self, **fields: Any) -> ListAuditEventsResponse:
        return await self.caller.call(self.stub.ListAuditEvents, ListAuditEventsRequest(**fields))

    async def list(self, **filters: Any) -> list[AuditEvent]:
        return list((await self.list_page(page_size=1000, **filters)).audit_events)

    async def list_by_pages(self, page_size: int, **filters: Any) -> AsyncIterator[AuditEvent]:
        """Yield the events of all pages."""
        token = ""
        while True:
            page = await self.list_page(page_size=page_size, page_token=token, **filters)
            assert len(page.audit_events) <= page_size
            for event in page.audit_events:
                yield event
            token = page.next_page_token
            if not token:
                return


@pytest.fixture
def auditor_of(entities: Entities) -> Callable[[Caller], Auditor]:
    return lambda other: Auditor(other, entities)


@pytest.fixture
def auditor(auditor_of: Callable[[Caller], Auditor], caller: Callable[..., Caller]) -> Auditor:
    return auditor_of(caller("auditor", subject="ada"))


@pytest.fixture
def position_of(entities_served: Served[Entities], tenant: UUID) -> Callable[[AuditEvent], Position]:
    """Returns the position of an event in the list of all services."""
    seal = Pages(entities_served.settings).seal(tenant)
    return lambda event: Position(event.change_time.ToDatetime(tzinfo=UTC), event.service, seal.unseal(event.event_id))


def change(event: AuditEvent, field: str) -> tuple[str | None, str | None]:
    """The values of a field before and after the change."""
    (change_of_field,) = (change for change in event.changes if change.field == field)
    return (
        change_of_field.before if change_of_field.HasField("before") else None,
        change_of_field.after if change_of_field.HasField("after") else None,
    )


async def _entity_with_history(api: EntitiesApi) -> Entity:
    entity = await api.create_entity(tax_id="DE136695976", metadata={"team": "a", "api_token": "t0p-s3cret"})
    return await api.update(entity, display_name="Acme")


class TestEvents:
    async def test_events_have_actor_change_and_trace_newest_first(self, api: EntitiesApi, auditor: Auditor) -> None:
        entity = await _entity_with_history(api)
        changed, created = await auditor.list(resource_id=entity.id)
        assert (created.action, changed.action) == (AuditEvent.CREATED, AuditEvent.CHANGED)
        for event in (created, changed):
            assert (event.service, event.resource_type, event.resource_id) == ("entities", "entity", entity.id)
            assert (event.actor, event.trace_id) == ("alice", api.caller.trace.trace_id)
        assert [(each.field, each.before, each.after) for each in changed.changes] == [("display_name", "", "Acme")]
        assert abs((changed.change_time.ToDatetime(tzinfo=UTC) - datetime.now(UTC)).total_seconds()) < 60

    async def test_creation_shows_all_fields(self, api: EntitiesApi, auditor: Auditor) -> None:
        top = await api.create_entity("TOP")
        entity = await api.create_entity("SUB", parent_id=top.id, tax_rate_bp=1900)
        (created,) = await auditor.list(resource_id=entity.id)
        assert change(created, "code") == (None, "SUB")
        assert change(created, "parent_id") == (None, top.id), "an id is shown as callers know it"
        assert change(created, "tax_rate_bp") == (None, "1900")
        assert not {"id", "tenant_id", "version", "create_time", "update_time"} & {it.field for it in created.changes}

    async def test_secret_is_never_shown(self, api: EntitiesApi, auditor: Auditor) -> None:
        entity = await _entity_with_history(api)
        events = await auditor.list(resource_id=entity.id)
        assert change(events[-1], "metadata")[1] == '{"team": "a", "api_token": "(hidden)"}'
        assert "t0p-s3cret" not in str(events)

    async def test_numbers_keep_all_digits(self, api: EntitiesApi, auditor: Auditor) -> None:
        await api.set_rates("2026-03-01 EUR/USD 1.234567890123")
        (event,) = await auditor.list(resource_type="exchange_rate")
        assert change(event, "rate") == (None, "1.234567890123")


class TestFilters:
    async def test_filters_by_resource_kind_actor_and_time(
        self,
        api: EntitiesApi,
        api_for: Callable[[Caller], EntitiesApi],
        caller: Callable[..., Caller],
        auditor: Auditor,
    ) -> None:
        entity = await api.create_entity()
        between = Timestamp()
        between.FromDatetime((await auditor.list())[0].change_time.ToDatetime())
        between.nanos += 1000
        department = await api_for(caller("finance", subject="bob")).create_department(entity)
        bobs = [department.id, ids.DEPARTMENT.parse(department.id).hex]
        assert [event.resource_id for event in await auditor.list(resource_type="department")] == [department.id]
        assert department.id in [event.resource_id for event in await auditor.list(actor="bob")]
        until, since = await auditor.list(until_time=between), await auditor.list(since_time=between)
        assert {event.actor for event in until} == {"alice"}
        assert {event.actor for event in since} == {"bob"}
        assert {event.resource_id for event in until + since} >= {entity.id, department.id}
        for resource_id in bobs:
            (change_of_field,) = await auditor.list(resource_id=resource_id)
            assert change_of_field.resource_id == department.id
        assert not await auditor.list(resource_id=department.id, actor="alice")
        assert not await auditor.list(resource_id="ent_" + bobs[1]), "of another kind"
        assert not await auditor.list(resource_id="bud_" + "0" * 32), "of another service"
        assert not await auditor.list(resource_type="unheard_of")

    async def test_id_of_unknown_kind_is_refused(self, auditor: Auditor) -> None:
        error = await refusal(auditor.list_page(resource_id="xyz_" + "0" * 32))
        assert (error.reason, list(error.fields)) == ("INVALID_FIELDS", ["resource_id"])


class TestPages:
    async def test_pages_list_each_event_once_despite_new_ones(self, api: EntitiesApi, auditor: Auditor) -> None:
        entity = await api.create_entity()
        for number in range(7):
            await api.update(entity, display_name=f"Acme {number}")
        expected = [event.event_id for event in await auditor.list()]
        walked = []
        async for event in auditor.list_by_pages(3):
            walked.append(event.event_id)
            await api.update(entity, display_name=f"Acme {event.event_id}")
        assert walked == expected

    async def test_simultaneous_changes_have_the_same_order_in_the_list_of_all_services(
        self, api: EntitiesApi, auditor: Auditor, position_of: Callable[[AuditEvent], Position]
    ) -> None:
        await api.set_rates("2026-03-01 EUR/USD 1.2", "2026-03-02 EUR/USD 1.3", "2026-03-03 EUR/USD 1.4")
        positions = [position_of(event) for event in await auditor.list()]
        assert len({position.time for position in positions}) == 1
        assert positions == sorted(positions, key=lambda position: position.sort_key)
        assert [position_of(event) async for event in auditor.list_by_pages(1)] == positions

    @pytest.mark.parametrize(("service", "count"), [("billing", 1), ("zebras", 0)])
    async def test_list_continues_after_an_event_of_another_service(
        self,
        api: EntitiesApi,
        auditor: Auditor,
        entities_served: Served[Entities],
        position_of: Callable[[AuditEvent], Position],
        service: str,
        count: int,
    ) -> None:
        """Simultaneous events of several services are sorted by the name of the service."""
        await api.set_rates("2026-03-01 EUR/USD 1.2")
        (event,) = await auditor.list()
        start = Position(position_of(event).time, service, 10**9)
        method = "billing.audit.v1.AuditService/ListAuditEvents"
        pages = Pages(entities_served.settings)
        token = encode_position(pages, start, ListAuditEventsRequest(), method, api.caller.tenant_id)
        assert len(await auditor.list(page_token=token)) == count

    async def test_token_of_other_filters_is_refused(self, api: EntitiesApi, auditor: Auditor) -> None:
        await _entity_with_history(api)
        token = (await auditor.list_page(page_size=1)).next_page_token
        for fields in ({"actor": "alice"}, {"page_token": ("B" if token[0] == "A" else "A") + token[1:]}):
            error = await refusal(auditor.list_page(**{"page_token": token, **fields}))
            assert error.reason == "PAGE_TOKEN_INVALID"


class TestAccess:
    async def test_other_tenant_sees_nothing(
        self, api: EntitiesApi, auditor_of: Callable[[Caller], Auditor], caller: Callable[..., Caller]
    ) -> None:
        entity = await api.create_entity()
        other_tenant = auditor_of(caller("auditor", tenant=UUID(int=7)))
        assert not await other_tenant.list(resource_id=entity.id)
        assert not [event for event in await other_tenant.list() if event.trace_id == api.caller.trace.trace_id]

    async def test_confined_caller_and_caller_without_permission_are_refused(
        self, api: EntitiesApi, auditor_of: Callable[[Caller], Auditor], caller: Callable[..., Caller]
    ) -> None:
        entity = await api.create_entity()
        confined = await refusal(auditor_of(caller("auditor", entity_scope=[entity.id])).list_page())
        assert (confined.code, confined.reason) == (StatusCode.PERMISSION_DENIED, "TENANT_SCOPE_REQUIRED")
        viewer = await refusal(auditor_of(caller("viewer")).list_page())
        assert (viewer.reason, viewer.metadata["permission"]) == ("PERMISSION_MISSING", "audit.read")


async def test_every_audited_table_has_a_name(admin: "asyncpg.Pool[asyncpg.Record]") -> None:
    for service in SERVICES:
        contract.modules(service, "models")
    tables = await admin.fetch(
        "select c.relname from pg_trigger t join pg_class c on c.oid = t.tgrelid where t.tgname = c.relname || '_audit'"
    )
    assert {row["relname"] for row in tables} <= audited_tables().keys()
