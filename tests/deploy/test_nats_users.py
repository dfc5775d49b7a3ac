"""NATS users: each may publish its own events, receive those that it handles, and nothing else."""

import asyncio
import contextlib
import importlib
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from uuid import uuid4

import pytest
from billing.approvals.v1.events_pb2 import ApprovalApproved
from nats.aio.client import Client
from nats.errors import Error
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig
from outside.usage.v1.usage_pb2 import UsageRecorded

from deploy import nats_users
from deploy.local import servers
from deploy.local.servers import Nats, Running
from deploy.simulators import licensing, publishing, usage
from eventing import bus
from eventing.consumer import Handler
from eventing.subjects import STREAM, durable, inbox_prefix
from kit.settings import Settings
from tests.harness.observe import eventually

OWN_PACKAGES = {
    **{name: f"billing.{name}.v1" for name in nats_users.SERVICES},
    **{nats_users.system_user(name): f"platform.{name}.v1" for name in nats_users.OUTSIDE_SYSTEMS},
}
"""The package whose events each user may publish."""

every_user = pytest.mark.parametrize("name", OWN_PACKAGES)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running[Nats]]:
    """A server with all users."""
    with servers.nats(tmp_path_factory.mktemp("nats"), durable=False, users=nats_users.users()) as running:
        yield running


@dataclass(slots=True)
class Connection:
    """A connected user, and the errors that the server has sent to it."""

    client: Client
    errors: list[str] = field(default_factory=list)

    @property
    def jetstream(self) -> JetStreamContext:
        return self.client.jetstream(timeout=1)

    async def is_refused(self, subject: str) -> bool:
        """Publish; return whether the server refused it."""
        await self.client.publish(subject, b"{}", reply=self.client.new_inbox())
        await self._all_errors()
        return f'permissions violation for publish to "{subject}"'.lower() in "".join(self.errors)

    async def may_listen(self, subject: str) -> bool:
        """Subscribe; return whether the server accepted it."""
        await self.client.subscribe(subject)
        await self._all_errors()
        return f'permissions violation for subscription to "{subject}"'.lower() not in "".join(self.errors)

    async def _all_errors(self) -> None:
        """Wait for all errors so far: publish to a forbidden subject, whose error is the last to arrive."""
        last = f"forbidden.{uuid4().hex}"
        await self.client.publish(last, b"")

        async def has_arrived() -> bool:
            return last in "".join(self.errors)

        await eventually(has_arrived)


def own_consumers(name: str) -> set[str]:
    """The consumers that a user may use."""
    if name in nats_users.SERVICES:
        return set(nats_users.consumers_of(name))
    system = name.removeprefix(nats_users.system_user(""))
    return {nats_users.system_consumer(system, event) for event in nats_users.OUTSIDE_SYSTEMS[system]}


@contextlib.asynccontextmanager
async def connected(server: Running[Nats], name: str) -> AsyncIterator[Connection]:
    client = Client()
    connection = Connection(client)

    async def note(error: Exception) -> None:
        connection.errors.append(str(error).lower())

    url = server.server.url_as(name)
    await client.connect(url, inbox_prefix=inbox_prefix(name), error_cb=note, allow_reconnect=False)
    try:
        yield connection
    finally:
        await client.close()


@pytest.fixture(scope="module")
async def stream(server: Running[Nats]) -> AsyncIterator[JetStreamContext]:
    """The JetStream of the administrator, with the stream of all events."""
    async with connected(server, "admin") as admin:
        await bus.ensure_stream(admin.jetstream)
        yield admin.jetstream


async def count(stream: JetStreamContext) -> int:
    return (await stream.stream_info(STREAM)).state.messages


class TestPublishing:
    @every_user
    async def test_a_user_publishes_events_of_its_own_package_only(
        self, name: str, server: Running[Nats], stream: JetStreamContext
    ) -> None:
        tenant = uuid4().hex
        async with connected(server, name) as user:
            for package in {*OWN_PACKAGES.values(), "billing.disputes.v1", "other.v1"}:
                refused = await user.is_refused(f"{package}.Happened.{tenant}")
                assert refused == (package != OWN_PACKAGES[name]), package

    async def test_an_outside_system_can_not_approve(self, server: Running[Nats], stream: JetStreamContext) -> None:
        subject, before = f"{ApprovalApproved.DESCRIPTOR.full_name}.{uuid4().hex}", await count(stream)
        async with connected(server, "platform-usage") as usage_tracking:
            with pytest.raises((Error, TimeoutError)):
                await usage_tracking.jetstream.publish(subject, b"{}", timeout=1)
            assert f'permissions violation for publish to "{subject}"'.lower() in "".join(usage_tracking.errors)
        assert await count(stream) == before

    async def test_an_outside_system_publishes_its_events(
        self, server: Running[Nats], stream: JetStreamContext
    ) -> None:
        before = await count(stream)
        async with connected(server, "platform-usage") as usage_tracking:
            await publishing.publish(usage_tracking.jetstream, UsageRecorded(), uuid4(), usage.SOURCE)
        assert await count(stream) == before + 1


class TestReading:
    @every_user
    async def test_no_user_can_listen_to_others(
        self, name: str, server: Running[Nats], stream: JetStreamContext
    ) -> None:
        async with connected(server, name) as user:
            for subject in (">", "billing.>", "platform.>", "_INBOX.>", "_INBOX_admin.>", "$JS.>"):
                assert not await user.may_listen(subject)

    @every_user
    async def test_consumers_of_others_can_not_be_used(
        self, name: str, server: Running[Nats], stream: JetStreamContext
    ) -> None:
        async with connected(server, name) as user:
            for other in sorted(nats_users._all_consumers() - own_consumers(name)):
                assert await user.is_refused(f"$JS.API.CONSUMER.MSG.NEXT.{STREAM}.{other}")
                assert await user.is_refused(
                    f"$JS.API.CONSUMER.CREATE.{STREAM}.{other}.{OWN_PACKAGES[name]}.Happened.x"
                )
                assert await user.is_refused(f"$JS.API.CONSUMER.DELETE.{STREAM}.{other}")
                assert await user.is_refused(f"$JS.ACK.{STREAM}.{other}.1.1.1.1.0")

    @every_user
    async def test_the_stream_is_changed_by_its_administrator_only(
        self, name: str, server: Running[Nats], stream: JetStreamContext
    ) -> None:
        async with connected(server, name) as user:
            for action in ("DELETE", "PURGE", "UPDATE", "MSG.GET", "MSG.DELETE", "SNAPSHOT"):
                assert await user.is_refused(f"$JS.API.STREAM.{action}.{STREAM}")
            assert await user.is_refused("$JS.API.STREAM.CREATE.OTHER")
            assert await user.is_refused(f"$JS.API.CONSUMER.CREATE.{STREAM}.mine.billing.disputes.v1.DisputeOpened.x")

    @pytest.mark.parametrize("service", nats_users.SERVICES)
    async def test_a_service_receives_the_events_that_it_handles(
        self, service: str, server: Running[Nats], stream: JetStreamContext
    ) -> None:
        tenant = uuid4().hex
        async with connected(server, service) as user:
            for name, subject in nats_users.consumers_of(service).items():
                config = ConsumerConfig(ack_policy=AckPolicy.EXPLICIT)
                pull = await user.jetstream.pull_subscribe(subject, durable=name, stream=STREAM, config=config)
                await stream.publish(subject.replace("*", tenant), b"{}")
                (message, *_) = await pull.fetch(1, timeout=5)
                await message.ack_sync(timeout=5)
                assert (await user.jetstream.consumer_info(STREAM, name)).num_ack_pending == 0, name
                await stream.delete_consumer(STREAM, name)
            assert user.errors == []

    async def test_a_service_streams_its_own_events(
        self, server: Running[Nats], stream: JetStreamContext, settings: Callable[..., Settings]
    ) -> None:
        subject = f"billing.budgets.v1.BudgetAlertRaised.{uuid4().hex}"
        first = (await stream.publish(subject, b"first")).seq
        client, jetstream = await bus.connect(settings("budgets", nats_url=server.server.url_as("budgets")))
        events = bus.EventBus()
        events.set_connection(client, jetstream)
        async with asyncio.timeout(10), contextlib.aclosing(events.subscribe_after(subject, first - 1)) as messages:
            _, message = await anext(messages)
        assert message.data == b"first"
        await client.close()


@pytest.mark.parametrize("service", nats_users.SERVICES)
def test_permissions_cover_exactly_the_handlers_of_a_service(service: str) -> None:
    handlers: tuple[Handler, ...] = importlib.import_module(f"services.{service}.events.consumers").HANDLERS
    expected = {durable(f"{service}.{handler.name}"): handler.subject for handler in handlers}
    assert nats_users.consumers_of(service) == expected


def test_permissions_cover_the_events_of_the_licensing_simulator() -> None:
    events = {event.rpartition(".")[2] for event in nats_users.OUTSIDE_SYSTEMS["licensing"]}
    assert events == set(licensing._CONSUMED)
