"""Managers of departments: checked with user management, and replaced when they are deactivated."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from uuid import UUID, uuid4

import asyncpg
import pytest
from billing.entities.v1.department_pb2 import Department
from billing.entities.v1.events_pb2 import DepartmentManagerChanged
from grpc import StatusCode
from nats.js import JetStreamContext
from outside.users.v1.events_pb2 import UserDeactivated

from deploy.local import servers
from deploy.simulators import directory
from deploy.simulators.directory import Users
from deploy.simulators.publishing import publish
from eventing import bus
from kit.db import Database
from kit.settings import Settings
from services.entities.main import compose
from tests.entities.entities_api import EntitiesApi
from tests.harness.callers import Caller, refusal
from tests.harness.databases import Copy
from tests.harness.events import Replica
from tests.harness.observe import OutboxEvent, eventually, outbox_events
from tests.harness.services import Entities, Served, served
from tests.harness.tokens import Keys

HANDLER = "replace_deactivated_manager"


@dataclass
class Managed:
    """The entities service with user management, on their own servers."""

    served: Served[Entities]
    users: Users
    jetstream: JetStreamContext
    admin: "asyncpg.Pool[asyncpg.Record]"
    address: str


@pytest.fixture(scope="module")
async def managed(
    settings: Callable[..., Settings],
    fresh_database: Callable[[], Awaitable[Copy]],
    keys: Keys,
    open_databases: list[Database],
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Managed]:
    users = Users.sample(tmp_path_factory.mktemp("users") / "state.json")
    server, address = await directory.start("127.0.0.1:0", users, keys.service_jwks)
    copy = await fresh_database()
    with servers.nats(tmp_path_factory.mktemp("nats"), durable=False) as nats:
        service_settings = settings("entities", database=copy, nats_url=nats.url, addresses={"users": address})
        client, jetstream = await bus.connect(service_settings)
        async with (
            asyncpg.create_pool(copy.admin_url, min_size=1) as admin,
            served(service_settings, compose, Entities) as entities,
        ):
            open_databases.append(entities.service.db)
            yield Managed(entities, users, jetstream, admin, address)
        await client.close()
    await server.stop(None)


@pytest.fixture
def api(managed: Managed, finance: Caller) -> EntitiesApi:
    """EntitiesApi of the service with user management."""
    return EntitiesApi(finance, managed.served.stubs)


@pytest.fixture
def manager_changes(managed: Managed, tenant: UUID) -> Callable[[], Awaitable[list[OutboxEvent]]]:
    """The DepartmentManagerChanged events in the outbox."""

    async def find() -> list[OutboxEvent]:
        events = await outbox_events(managed.admin, "entities", tenant)
        return [event for event in events if event.type == DepartmentManagerChanged.DESCRIPTOR.full_name]

    return find


class TestManagerCheck:
    async def test_active_user_is_accepted(self, api: EntitiesApi) -> None:
        department = await api.create_department(await api.create_entity(), manager_user_id="erin")
        assert (await api.update_department(department, manager_user_id="sam")).manager_user_id == "sam"
        assert (await api.update_department(department, manager_user_id="")).manager_user_id == ""
        assert (await api.update_department(department, name="Machines")).name == "Machines"

    async def test_unknown_user_is_refused(self, api: EntitiesApi) -> None:
        entity = await api.create_entity()
        error = await refusal(api.create_department(entity, manager_user_id="nobody"))
        assert (error.code, error.reason) == (StatusCode.NOT_FOUND, "MANAGER_NOT_FOUND")
        assert error.metadata == {"manager_user_id": "nobody"}
        department = await api.create_department(entity)
        assert (
            await refusal(api.update_department(department, manager_user_id="nobody"))
        ).reason == "MANAGER_NOT_FOUND"
        assert (await api.department(department)).manager_user_id == ""

    async def test_deactivated_user_is_refused(self, api: EntitiesApi, managed: Managed, tenant: UUID) -> None:
        managed.users.set_active(tenant, "erin", active=False)
        error = await refusal(api.create_department(await api.create_entity(), manager_user_id="erin"))
        assert (error.code, error.reason) == (StatusCode.FAILED_PRECONDITION, "MANAGER_INACTIVE")

    async def test_repeated_request_returns_same_response_after_deactivation(
        self, api: EntitiesApi, managed: Managed, tenant: UUID
    ) -> None:
        entity = await api.create_entity()
        first = await api.create_department(entity, manager_user_id="erin", request_id="k")
        managed.users.set_active(tenant, "erin", active=False)
        assert await api.create_department(entity, manager_user_id="erin", request_id="k") == first

    async def test_unavailable_user_management_only_blocks_new_managers(
        self,
        settings: Callable[..., Settings],
        fresh_database: Callable[[], Awaitable[Copy]],
        finance: Caller,
        open_databases: list[Database],
    ) -> None:
        service_settings = settings("entities", database=await fresh_database(), addresses={"users": "127.0.0.1:1"})
        async with served(service_settings, compose, Entities) as entities:
            api = EntitiesApi(finance, entities.stubs)
            department = await api.create_department(await api.create_entity())
            error = await refusal(api.update_department(department, manager_user_id="erin"))
            assert (error.code, error.reason) == (StatusCode.UNAVAILABLE, "UNAVAILABLE")
            assert (await api.update_department(department, name="Machines")).name == "Machines"

    async def test_without_user_management_every_user_is_accepted(self, entities: Entities, finance: Caller) -> None:
        api = EntitiesApi(finance, entities)
        assert (
            await api.create_department(await api.create_entity(), manager_user_id="anybody")
        ).manager_user_id == "anybody"


class TestDeactivatedManager:
    async def _deactivate_user(self, managed: Managed, tenant: UUID, user_id: str) -> None:
        await directory.deactivate(managed.jetstream, managed.users, tenant, user_id)

    async def _managed_by(self, api: EntitiesApi, departments: list[Department], user_id: str) -> None:
        async def check() -> bool:
            return {(await api.department(department)).manager_user_id for department in departments} == {user_id}

        await eventually(check)

    async def test_manager_of_the_user_takes_over_the_departments(
        self,
        api: EntitiesApi,
        managed: Managed,
        tenant: UUID,
        manager_changes: Callable[[], Awaitable[list[OutboxEvent]]],
    ) -> None:
        entity = await api.create_entity()
        managed_departments = [await api.create_department(entity, code, manager_user_id="erin") for code in ("A", "B")]
        other = await api.create_department(entity, "C", manager_user_id="sam")
        await self._deactivate_user(managed, tenant, "erin")
        await self._managed_by(api, managed_departments, "grace")
        await self._managed_by(api, [other], "sam")
        events = await manager_changes()
        assert [event.body["department_id"] for event in events] == [
            department.id for department in managed_departments
        ]
        for event in events:
            assert event.body["old_manager_user_id"] == "erin"
            assert event.body["new_manager_user_id"] == "grace"
            assert event.actor == "/platform/users"

    async def test_inactive_managers_are_skipped(self, api: EntitiesApi, managed: Managed, tenant: UUID) -> None:
        department = await api.create_department(await api.create_entity(), manager_user_id="dave")
        managed.users.set_active(tenant, "erin", active=False)
        await self._deactivate_user(managed, tenant, "dave")
        await self._managed_by(api, [department], "grace")

    async def test_without_active_manager_the_department_has_none(
        self,
        api: EntitiesApi,
        managed: Managed,
        tenant: UUID,
        manager_changes: Callable[[], Awaitable[list[OutboxEvent]]],
    ) -> None:
        department = await api.create_department(await api.create_entity(), manager_user_id="grace")
        await self._deactivate_user(managed, tenant, "grace")
        await self._managed_by(api, [department], "")
        assert [event.body.get("new_manager_user_id", "") for event in await manager_changes()] == [""]

    async def test_departments_of_other_tenants_stay(
        self, api: EntitiesApi, managed: Managed, tenant: UUID, caller: Callable[..., Caller]
    ) -> None:
        managed_departments = await api.create_department(await api.create_entity(), manager_user_id="erin")
        elsewhere = EntitiesApi(caller("finance", tenant=uuid4()), managed.served.stubs)
        other = await elsewhere.create_department(await elsewhere.create_entity(), manager_user_id="erin")
        await self._deactivate_user(managed, tenant, "erin")
        await self._managed_by(api, [managed_departments], "grace")
        assert (await elsewhere.department(other)).manager_user_id == "erin"

    async def test_repeated_event_has_no_effect_on_a_reactivated_user(
        self,
        api: EntitiesApi,
        managed: Managed,
        tenant: UUID,
        manager_changes: Callable[[], Awaitable[list[OutboxEvent]]],
    ) -> None:
        department = await api.create_department(await api.create_entity(), manager_user_id="erin")
        handle_event = self._event_handler(managed, tenant, "erin")
        managed.users.set_active(tenant, "erin", active=False)
        await asyncio.gather(handle_event(), handle_event())
        await handle_event()
        assert [event.body["new_manager_user_id"] for event in await manager_changes()] == ["grace"]
        managed.users.set_active(tenant, "erin", active=True)
        await api.update_department(department, manager_user_id="erin")
        await handle_event()
        assert (await api.department(department)).manager_user_id == "erin"

    async def test_event_without_user_has_no_effect(
        self,
        api: EntitiesApi,
        managed: Managed,
        tenant: UUID,
        manager_changes: Callable[[], Awaitable[list[OutboxEvent]]],
    ) -> None:
        await api.create_department(await api.create_entity())
        with pytest.raises(Exception, match="user_id"):
            await self._event_handler(managed, tenant, "")()
        assert not await manager_changes()

    async def test_without_user_management_the_department_has_no_manager(
        self, entities_served: Served[Entities], finance: Caller, tenant: UUID
    ) -> None:
        api = EntitiesApi(finance, entities_served.stubs)
        department = await api.create_department(await api.create_entity(), manager_user_id="erin")
        settings = entities_served.settings
        client, jetstream = await bus.connect(settings)
        await publish(jetstream, UserDeactivated(user_id="erin"), tenant, "/platform/users")
        await self._managed_by(api, [department], "")
        await client.close()

    def _event_handler(self, managed: Managed, tenant: UUID, user_id: str) -> Callable[[], Awaitable[None]]:
        """Return a function that passes the same event to the consumer each time."""
        replica, event_id = Replica(managed.served.service, "entities", tenant, actor=""), uuid4()
        return lambda: replica.handle(UserDeactivated(user_id=user_id), event_id)
