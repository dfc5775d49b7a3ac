"""Subscriptions of one process: current messages, and the events of the stream without gap or duplicate."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import nats
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import StreamConfig

from deploy.local import servers
from eventing import bus
from eventing.bus import EventBus
from eventing.subjects import STREAM
from kit import tasks
from kit.db import Database
from kit.errors import Unavailable
from kit.settings import Settings
from serving.server import Service, serving
from tests.harness.observe import eventually
from tests.kit.conftest import NoScopes

Publish = Callable[..., Awaitable[int]]


@pytest.fixture
def subject(tenant: UUID) -> str:
    return f"billing.probe.v1.Probed.{tenant.hex}"


@pytest.fixture
async def client(kit_settings: Callable[..., Settings]) -> AsyncIterator[Client]:
    """A connection that the test may break."""
    client, _ = await bus.connect(kit_settings())
    yield client
    await client.close()


@pytest.fixture
def event_bus(client: Client) -> EventBus:
    """A connected bus."""
    return connected(client)


def connected(client: Client, **options: float) -> EventBus:
    event_bus = EventBus(**options)
    event_bus.set_connection(client, client.jetstream())
    return event_bus


@pytest.fixture
def publish(jetstream: JetStreamContext, subject: str) -> Publish:
    """Publishes numbered events; returns the sequence of the last one."""

    async def publish(*numbers: int, to: str = subject) -> int:
        sequence = 0
        for number in numbers:
            sequence = (await jetstream.publish(to, str(number).encode())).seq
        return sequence

    return publish


async def take(events: AsyncGenerator[tuple[int, Msg], None], count: int) -> list[int]:
    """Return the numbers of the next events; their sequences must rise."""
    taken = [await asyncio.wait_for(anext(events), 15) for _ in range(count)]
    sequences = [sequence for sequence, _ in taken]
    assert sequences == sorted(set(sequences))
    return [int(message.data) for _, message in taken]


class TestSubscribeAfter:
    async def test_stored_events_come_first_then_new_ones(
        self, event_bus: EventBus, publish: Publish, subject: str
    ) -> None:
        first = await publish(1)
        await publish(2, 3)
        async with aclosing(event_bus.subscribe_after(subject, first)) as events:
            assert await take(events, 2) == [2, 3]
            await publish(4)
            assert await take(events, 1) == [4]

    async def test_events_of_other_subjects_are_left_out(
        self, event_bus: EventBus, publish: Publish, subject: str
    ) -> None:
        first = await publish(1)
        await publish(2, to=f"billing.probe.v1.Probed.{uuid4().hex}")
        await publish(3)
        async with aclosing(event_bus.subscribe_after(subject, first)) as events:
            assert await take(events, 1) == [3]

    async def test_without_a_sequence_only_new_events_come(
        self, event_bus: EventBus, publish: Publish, subject: str
    ) -> None:
        await publish(1, 2)
        async with aclosing(event_bus.subscribe_after(subject, None)) as events:
            taken = asyncio.ensure_future(take(events, 1))
            for number in range(3, 1000):
                await publish(number)
                if (await asyncio.wait({taken}, timeout=0.05))[0]:
                    break
            assert (await taken)[0] >= 3

    async def test_last_sequence_is_where_the_next_event_follows(
        self, event_bus: EventBus, publish: Publish, subject: str
    ) -> None:
        sequence = await publish(1)
        assert await event_bus.last_sequence() == sequence
        await publish(2)
        async with aclosing(event_bus.subscribe_after(subject, sequence)) as events:
            assert await take(events, 1) == [2]

    async def test_last_sequence_is_unavailable_without_a_connection(self, event_bus: EventBus, client: Client) -> None:
        await client.close()
        with pytest.raises(Unavailable):
            await event_bus.last_sequence()

    async def test_deleted_events_are_skipped(
        self, event_bus: EventBus, publish: Publish, subject: str, jetstream: JetStreamContext
    ) -> None:
        first = await publish(1)
        last = await publish(2, 3, 4)
        await jetstream.purge_stream(STREAM, subject=subject, seq=last)
        async with aclosing(event_bus.subscribe_after(subject, first)) as events:
            assert await take(events, 1) == [4]

    async def test_more_than_a_batch_comes_in_order(self, event_bus: EventBus, publish: Publish, subject: str) -> None:
        first = await publish(0)
        await publish(*range(1, 300))
        async with aclosing(event_bus.subscribe_after(subject, first)) as events:
            assert await take(events, 299) == list(range(1, 300))

    async def test_no_event_is_lost_by_a_reconnect(
        self, event_bus: EventBus, publish: Publish, subject: str, client: Client
    ) -> None:
        first = await publish(0)
        async with aclosing(event_bus.subscribe_after(subject, first)) as events:
            taken = asyncio.ensure_future(take(events, 200))
            for number in range(1, 201):
                await publish(number)
                if number == 100:
                    await client.force_reconnect()
            assert await asyncio.wait_for(taken, 30) == list(range(1, 201))
        assert client.stats["reconnects"] == 1

    async def test_a_message_that_does_not_arrive_is_requested_again(
        self, publish: Publish, subject: str, client: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put, lost = asyncio.Queue.put, list[bytes]()

        async def lose_some(queue: asyncio.Queue[Any], message: Any) -> None:
            if isinstance(message, Msg) and message.data in {b"2", b"5"} and message.data not in lost:
                lost.append(message.data)
            else:
                await put(queue, message)

        monkeypatch.setattr(asyncio.Queue, "put", lose_some)
        event_bus = connected(client, pull_s=1.0, heartbeat_s=0.4)
        first = await publish(0)
        await publish(1, 2, 3)
        async with aclosing(event_bus.subscribe_after(subject, first)) as events:
            assert await take(events, 3) == [1, 2, 3], "noticed by the number of the next message"
            await publish(4, 5)
            assert await take(events, 2) == [4, 5], "noticed at the end of the request"
        assert lost == [b"2", b"5"]

    async def test_a_deleted_consumer_is_created_again(
        self, event_bus: EventBus, publish: Publish, subject: str, jetstream: JetStreamContext
    ) -> None:
        first = await publish(0)
        await publish(1)
        async with aclosing(event_bus.subscribe_after(subject, first)) as events:
            assert await take(events, 1) == [1]
            consumers = await jetstream.consumers_info(STREAM)
            (own,) = [info for info in consumers if info.config.filter_subject == subject]
            taken = asyncio.ensure_future(take(events, 1))
            await jetstream.delete_consumer(STREAM, own.name)
            await publish(2)
            assert await asyncio.wait_for(taken, 4) == [2], "sooner than by a missing heartbeat"

    async def test_a_cancelled_subscription_leaves_nothing_behind(
        self, event_bus: EventBus, subject: str, client: Client
    ) -> None:
        async def read() -> None:
            async for _ in event_bus.subscribe_after(subject, 0):
                pass

        before = len(client._subs)
        for _ in range(5):
            reading = asyncio.create_task(read())
            await asyncio.sleep(0.05)
            await asyncio.wait_for(tasks.cancel_and_wait(reading), 5)

        async def all_unsubscribed() -> bool:
            return len(client._subs) <= before + 1  # one receives the replies to requests

        await eventually(all_unsubscribed)


class TestRecovery:
    async def test_all_events_of_a_stream_that_was_created_anew_come(
        self, kit_settings: Callable[..., Settings], tmp_path: Path
    ) -> None:
        with servers.nats(tmp_path, durable=False) as server:
            client, jetstream = await bus.connect(kit_settings(nats_url=server.url))
            event_bus, subject = connected(client), f"billing.probe.v1.Probed.{uuid4().hex}"
            for number in range(5):
                await jetstream.publish(subject, str(number).encode())
            async with aclosing(event_bus.subscribe_after(subject, 3)) as events:
                assert await take(events, 2) == [3, 4]
                taken = asyncio.ensure_future(take(events, 2))
                await jetstream.delete_stream(STREAM)
                await bus.ensure_stream(jetstream)
                for number in (10, 11):
                    await jetstream.publish(subject, str(number).encode())
                assert await asyncio.wait_for(taken, 20) == [10, 11]
            await client.close()

    async def test_events_continue_after_a_restart_of_the_server(
        self, kit_settings: Callable[..., Settings], tmp_path: Path
    ) -> None:
        with servers.nats(tmp_path, durable=True) as server:
            client, jetstream = await bus.connect(kit_settings(nats_url=server.url))
            event_bus, subject = connected(client), f"billing.probe.v1.Probed.{uuid4().hex}"
            async with aclosing(event_bus.subscribe_after(subject, 0)) as events:
                await jetstream.publish(subject, b"1")
                assert await take(events, 1) == [1]
                taken = asyncio.ensure_future(take(events, 1))
                await asyncio.to_thread(server.stop)
                await asyncio.to_thread(server.start)

                async def published() -> bool:
                    try:
                        await jetstream.publish(subject, b"2", headers={"Nats-Msg-Id": "two"}, timeout=1)
                    except nats.errors.Error:
                        return False
                    return True

                await eventually(published)
                assert await asyncio.wait_for(taken, 20) == [2]
            await client.close()


class TestStream:
    async def test_missing_subjects_are_added_and_other_settings_stay(
        self, kit_settings: Callable[..., Settings], tmp_path: Path
    ) -> None:
        with servers.nats(tmp_path, durable=False) as server:
            operator = await nats.connect(server.url)
            config = StreamConfig(name=STREAM, subjects=["billing.>", "theirs.>"], max_age=3600)
            await operator.jetstream().add_stream(config)
            await operator.jetstream().publish("billing.probe.v1.Probed.x", b"1")
            for _ in range(2):
                client, jetstream = await bus.connect(kit_settings(nats_url=server.url))
                stream = await jetstream.stream_info(STREAM)
                assert stream.config.subjects == ["billing.>", "theirs.>", "platform.>"]
                assert (stream.config.max_age, stream.state.messages) == (3600, 1)
                await client.close()
            await operator.jetstream().publish("platform.usage.v1.UsageRecorded.x", b"2")
            await operator.close()

    async def test_events_of_outside_systems_are_stored(self, jetstream: JetStreamContext, tenant: UUID) -> None:
        subject = f"platform.usage.v1.UsageRecorded.{tenant.hex}"
        assert (await jetstream.publish(subject, b"1")).stream == STREAM


class TestSubscribe:
    async def test_every_process_receives_new_messages_only(
        self, event_bus: EventBus, publish: Publish, subject: str, kit_settings: Callable[..., Settings]
    ) -> None:
        other_client, _ = await bus.connect(kit_settings())
        other = connected(other_client)
        await publish(1)
        received: list[list[int]] = [[], []]

        async def receive(process: EventBus, into: list[int]) -> None:
            async for message in process.subscribe(subject):
                into.append(int(message.data))  # noqa: PERF401 - one by one is the point

        processes = zip((event_bus, other), received, strict=True)
        receiving = [asyncio.create_task(receive(process, into)) for process, into in processes]

        async def both_received() -> bool:
            await publish(2)
            return all(received)

        await eventually(both_received)
        assert {number for into in received for number in into} == {2}
        await asyncio.wait_for(tasks.cancel_and_wait(*receiving), 5)
        await other_client.close()

    async def test_it_waits_for_the_connection(self, client: Client, publish: Publish, subject: str) -> None:
        late = EventBus()
        first = asyncio.ensure_future(anext(late.subscribe(subject)))
        await asyncio.sleep(0)
        late.set_connection(client, client.jetstream())

        async def received() -> bool:
            await publish(1)
            return first.done()

        await eventually(received)
        assert (await first).data == b"1"


class TestServed:
    async def test_the_bus_of_a_service_is_connected_while_it_serves(
        self, kit_settings: Callable[..., Settings], publish: Publish, subject: str
    ) -> None:
        settings, event_bus = kit_settings(), EventBus()
        service = Service(db=Database(settings), scopes=NoScopes(), servicers=[], bus=event_bus)
        first = await publish(1)
        async with serving(settings, service), aclosing(event_bus.subscribe_after(subject, first - 1)) as events:
            assert await take(events, 1) == [1]
