"""The simulated user management, asked as the entities service asks it."""

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
class Asked:
    """The directory, and a token for it."""

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
async def asked(keys: Keys, settings: Callable[..., Settings], tenant: UUID, tmp_path: Path) -> AsyncIterator[Asked]:
    users = Users.sample(tmp_path / "state.json")
    server, address = await directory.start("127.0.0.1:0", users, keys.service_jwks)
    token = ServiceTokens(settings("entities", audience=AUDIENCE)).token(tenant)
    async with aio.insecure_channel(address) as channel:
        yield Asked(users, DirectoryServiceStub(channel), token)
    await server.stop(None)


def test_every_manager_of_the_sample_is_one_of_its_users(tmp_path: Path) -> None:
    users = Users.sample(tmp_path / "none")
    for user_id, person in users._people.items():
        chain = [user.user_id for user in users.managers(uuid4(), user_id)]
        assert bool(chain) == bool(person["manager_user_id"])
        assert user_id == "grace" or chain[-1] == "grace"


async def test_groups_are_told_page_by_page(asked: Asked) -> None:
    assert (
        await asked.group("engineering") == ["dave", "erin", "priya"] == await asked.group("engineering", page_size=2)
    )


async def test_what_is_not_there_is_not_found(asked: Asked) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await asked.group("nobody")
    assert refused.value.code() is StatusCode.NOT_FOUND


async def test_a_token_for_ourselves_or_of_nobody_is_refused(
    asked: Asked, settings: Callable[..., Settings], tenant: UUID
) -> None:
    """And ours for it is none for our services, since it is meant for somebody else."""
    for token in ("", "a.b.c", ServiceTokens(settings("entities")).token(tenant)):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await asked.stub.GetUser(
                GetUserRequest(user_id="erin"), metadata=(("authorization", f"Bearer {token}"),), timeout=5
            )
        assert refused.value.code() is StatusCode.UNAUTHENTICATED


async def test_who_leaves_leaves_one_tenant_and_it_is_said(
    asked: Asked, jetstream: JetStreamContext, told: PublishedEvents, tenant: UUID
) -> None:
    await directory.deactivate(jetstream, asked.users, tenant, "erin")
    event = await told.first(UserDeactivated)
    assert event.user_id == "erin"
    validation.check(event)
    user = await asked.stub.GetUser(GetUserRequest(user_id="erin"), metadata=asked.metadata, timeout=5)
    assert (user.active, user.manager_user_id) == (False, "grace")
    elsewhere = asked.users.find(uuid4(), "erin")
    assert elsewhere is not None
    assert elsewhere.active
    asked.users.set_active(tenant, "erin", active=True)
    assert (await asked.stub.GetUser(GetUserRequest(user_id="erin"), metadata=asked.metadata, timeout=5)).active


def test_nobody_can_leave_who_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="grace"):
        Users.sample(tmp_path / "state.json").set_active(uuid4(), "nobody", active=False)
