"""The simulator of user management, called as the entities service calls it."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid4

import grpc
import pytest
from grpc import StatusCode, aio
from nats.js import JetStreamContext
from outside.users.v1.directory_service_pb2 import GetUserRequest, ListGroupMembersRequest
from outside.users.v1.directory_service_pb2_grpc import DirectoryServiceStub
from outside.users.v1.events_pb2 import UserDeactivated

from clients.directory import AUDIENCE
from contract import validation
from deploy.simulators import directory
from deploy.simulators.directory import Users
from kit.auth import ServiceTokens
from kit.settings import Settings
from tests.harness.observe import PublishedEvents
from tests.harness.tokens import Keys


@dataclass
class Client:
    """The simulator, and a token for it."""

    users: Users
    stub: DirectoryServiceStub
    token: str

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self.token}"),)

    async def group(self, group_id: str, page_size: int = 0) -> list[str]:
        """All members, page by page."""
        members, token = [], ""
        while True:
            request = ListGroupMembersRequest(group_id=group_id, page_size=page_size, page_token=token)
            page = await self.stub.ListGroupMembers(request, metadata=self.metadata, timeout=5)
            members += [user.user_id for user in page.users]
            token = page.next_page_token
            if not token:
                return members


@pytest.fixture
async def client(keys: Keys, settings: Callable[..., Settings], tenant: UUID, tmp_path: Path) -> AsyncIterator[Client]:
    users = Users.sample(tmp_path / "state.json")
    server, address = await directory.start("127.0.0.1:0", users, keys.service_jwks)
    token = ServiceTokens(settings("entities", audience=AUDIENCE)).token(tenant)
    async with aio.insecure_channel(address) as channel:
        yield Client(users, DirectoryServiceStub(channel), token)
    await server.stop(None)


def test_every_manager_in_users_json_is_a_user(tmp_path: Path) -> None:
    users = Users.sample(tmp_path / "none")
    for user_id, fields in users._users.items():
        chain = [user.user_id for user in users.managers(uuid4(), user_id)]
        assert bool(chain) == bool(fields["manager_user_id"])
        assert user_id == "grace" or chain[-1] == "grace"


async def test_group_members_are_paged(client: Client) -> None:
    assert (
        await client.group("engineering") == ["dave", "erin", "priya"] == await client.group("engineering", page_size=2)
    )


async def test_unknown_group_is_not_found(client: Client) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await client.group("nobody")
    assert error.value.code() is StatusCode.NOT_FOUND


async def test_token_for_another_audience_is_rejected(
    client: Client, settings: Callable[..., Settings], tenant: UUID
) -> None:
    for token in ("", "a.b.c", ServiceTokens(settings("entities")).token(tenant)):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await client.stub.GetUser(
                GetUserRequest(user_id="erin"), metadata=(("authorization", f"Bearer {token}"),), timeout=5
            )
        assert error.value.code() is StatusCode.UNAUTHENTICATED


async def test_deactivation_is_published_and_limited_to_the_tenant(
    client: Client, jetstream: JetStreamContext, outside_events: PublishedEvents, tenant: UUID
) -> None:
    await directory.deactivate(jetstream, client.users, tenant, "erin")
    event = await outside_events.first(UserDeactivated)
    assert event.user_id == "erin"
    validation.check(event)
    user = await client.stub.GetUser(GetUserRequest(user_id="erin"), metadata=client.metadata, timeout=5)
    assert (user.active, user.manager_user_id) == (False, "grace")
    other_tenant = client.users.find(uuid4(), "erin")
    assert other_tenant is not None
    assert other_tenant.active
    client.users.set_active(tenant, "erin", active=True)
    assert (await client.stub.GetUser(GetUserRequest(user_id="erin"), metadata=client.metadata, timeout=5)).active


def test_deactivating_an_unknown_user_raises(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="grace"):
        Users.sample(tmp_path / "state.json").set_active(uuid4(), "nobody", active=False)
