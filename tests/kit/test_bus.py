"""What a process hears over NATS: news for each process, and the events of a stream without gap or duplicate."""

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
from eventing.bus import Bus
from kit import tasks
from kit.db import Database
from kit.errors import Unavailable
from kit.settings import Settings
from serving.server import Service, serving
from tests.harness.observe import eventually
from tests.kit.conftest import NoScopes

Say = Callable[..., Awaitable[int]]


@pytest.fixture
def subject(tenant: UUID) -> str:
    return f"billing.probe.v1.Told.{tenant.hex}"


@pytest.fixture
async def client(kit_settings: Callable[..., Settings]) -> AsyncIterator[Client]:
    """A connection that this test may break."""
    client, _ = await bus.connect(kit_settings())
    yield client
    await client.close()


@pytest.fixture
def there(client: Client) -> Bus:
    """A bus that is connected."""
    there = Bus()
    there.connected(client, client.jetstream())
    return there


@pytest.fixture
def say(jetstream: JetStreamContext, subject: str) -> Say:
    """Publishes numbered events, and gives the sequence of the last one."""

    async def publish(*numbers: int, to: str = subject) -> int:
        told = 0
        for number in numbers:
            told = (await jetstream.publish(to, str(number).encode())).seq
        return told

    return publish


async def some(following: AsyncGenerator[tuple[int, Msg], None], count: int) -> list[int]:
    """The next so many events; their sequences must rise."""
    heard = [await asyncio.wait_for(anext(following), 15) for _ in range(count)]
    sequences = [sequence for sequence, _ in heard]
    assert sequences == sorted(set(sequences))
    return [int(message.data) for _, message in heard]


class TestFollow:
    async def test_it_begins_after_a_sequence_and_goes_on_with_what_is_said(
        self, there: Bus, say: Say, subject: str
    ) -> None:
        first = await say(1)
        await say(2, 3)
        async with aclosing(there.follow(subject, first)) as following:
            assert await some(following, 2) == [2, 3]
            await say(4)
            assert await some(following, 1) == [4]

    async def test_only_its_own_subject_is_heard(self, there: Bus, say: Say, subject: str) -> None:
        first = await say(1)
        await say(2, to=f"billing.probe.v1.Told.{uuid4().hex}")
        await say(3)
        async with aclosing(there.follow(subject, first)) as following:
            assert await some(following, 1) == [3]

    async def test_without_a_sequence_only_what_is_new(self, there: Bus, say: Say, subject: str) -> None:
        await say(1, 2)
        async with aclosing(there.follow(subject, None)) as following:
            next_ = asyncio.ensure_future(some(following, 1))
            for number in range(3, 1000):
                await say(number)
                if (await asyncio.wait({next_}, timeout=0.05))[0]:
                    break
            assert (await next_)[0] >= 3

    async def test_the_newest_is_where_the_next_one_follows(self, there: Bus, say: Say, subject: str) -> None:
        said = await say(1)
        assert await there.newest() == said
        await say(2)
        async with aclosing(there.follow(subject, said)) as following:
            assert await some(following, 1) == [2]

    async def test_the_newest_is_not_known_while_there_is_no_connection(self, there: Bus, client: Client) -> None:
        await client.close()
        with pytest.raises(Unavailable):
            await there.newest()

    async def test_what_is_pruned_is_passed_over(
        self, there: Bus, say: Say, subject: str, jetstream: JetStreamContext
    ) -> None:
        first = await say(1)
        kept = await say(2, 3, 4)
        await jetstream.purge_stream(bus.STREAM, subject=subject, seq=kept)
        async with aclosing(there.follow(subject, first)) as following:
            assert await some(following, 1) == [4]

    async def test_more_than_a_batch_comes_in_order(self, there: Bus, say: Say, subject: str) -> None:
        first = await say(0)
        await say(*range(1, 300))
        async with aclosing(there.follow(subject, first)) as following:
            assert await some(following, 299) == list(range(1, 300))

    async def test_a_connection_that_breaks_costs_nothing(
        self, there: Bus, say: Say, subject: str, client: Client
    ) -> None:
        first = await say(0)
        async with aclosing(there.follow(subject, first)) as following:
            heard = asyncio.ensure_future(some(following, 200))
            for number in range(1, 201):
                await say(number)
                if number == 100:
                    await client.force_reconnect()
            assert await asyncio.wait_for(heard, 30) == list(range(1, 201))
        assert client.stats["reconnects"] == 1

    async def test_a_message_that_is_lost_on_the_way_is_asked_for_again(
        self, there: Bus, say: Say, subject: str, client: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        taken, lost = asyncio.Queue.put, list[bytes]()

        async def put(queue: asyncio.Queue[Any], message: Any) -> None:
            if isinstance(message, Msg) and message.data in {b"2", b"5"} and message.data not in lost:
                lost.append(message.data)
            else:
                await taken(queue, message)

        monkeypatch.setattr(asyncio.Queue, "put", put)
        monkeypatch.setattr(bus, "_PULL_S", 1.0)
        monkeypatch.setattr(bus, "_HEARTBEAT_S", 0.4)
        first = await say(0)
        await say(1, 2, 3)
        async with aclosing(there.follow(subject, first)) as following:
            assert await some(following, 3) == [1, 2, 3], "the next one shows that there was another"
            await say(4, 5)
            assert await some(following, 2) == [4, 5], "and so does the end of the request, where none follows"
        assert lost == [b"2", b"5"]

    async def test_a_consumer_that_is_gone_is_made_again(
        self, there: Bus, say: Say, subject: str, jetstream: JetStreamContext
    ) -> None:
        first = await say(0)
        await say(1)
        async with aclosing(there.follow(subject, first)) as following:
            assert await some(following, 1) == [1]
            consumers = await jetstream.consumers_info(bus.STREAM)
            (mine,) = [info for info in consumers if info.config.filter_subject == subject]
            next_ = asyncio.ensure_future(some(following, 1))
            await jetstream.delete_consumer(bus.STREAM, mine.name)
            await say(2)
            assert await asyncio.wait_for(next_, 4) == [2], "sooner than silence would tell"

    async def test_nobody_stays_behind_when_it_is_left(
        self, there: Bus, say: Say, subject: str, client: Client
    ) -> None:
        async def follow() -> None:
            async for _ in there.follow(subject, 0):
                pass

        before = len(client._subs)
        for _ in range(5):
            following = asyncio.create_task(follow())
            await asyncio.sleep(0.05)
            await asyncio.wait_for(tasks.end(following), 5)

        async def as_before() -> bool:
            return len(client._subs) <= before + 1  # one is for the answers to our requests

        await eventually(as_before)


class TestFollowThroughLoss:
    async def test_a_stream_that_is_lost_and_made_again_is_told_from_its_beginning(
        self, kit_settings: Callable[..., Settings], tmp_path: Path
    ) -> None:
        with servers.nats(tmp_path, durable=False) as server:
            client, jetstream = await bus.connect(kit_settings(nats_url=server.url))
            there, subject = Bus(), f"billing.probe.v1.Told.{uuid4().hex}"
            there.connected(client, jetstream)
            for number in range(5):
                await jetstream.publish(subject, str(number).encode())
            async with aclosing(there.follow(subject, 3)) as following:
                assert await some(following, 2) == [3, 4]
                next_ = asyncio.ensure_future(some(following, 2))
                await jetstream.delete_stream(bus.STREAM)
                await bus.ensure_stream(jetstream)
                for number in (10, 11):
                    await jetstream.publish(subject, str(number).encode())
                heard = [await asyncio.wait_for(next_, 20)]
            assert heard == [[10, 11]]
            await client.close()

    async def test_a_server_that_starts_again_is_followed_on(
        self, kit_settings: Callable[..., Settings], tmp_path: Path
    ) -> None:
        with servers.nats(tmp_path, durable=True) as server:
            client, jetstream = await bus.connect(kit_settings(nats_url=server.url))
            there, subject = Bus(), f"billing.probe.v1.Told.{uuid4().hex}"
            there.connected(client, jetstream)
            async with aclosing(there.follow(subject, 0)) as following:
                await jetstream.publish(subject, b"1")
                assert await some(following, 1) == [1]
                next_ = asyncio.ensure_future(some(following, 1))
                await asyncio.to_thread(server.stop)
                await asyncio.to_thread(server.start)

                async def said() -> bool:
                    try:
                        await jetstream.publish(subject, b"2", headers={"Nats-Msg-Id": "two"}, timeout=1)
                    except nats.errors.Error:
                        return False
                    return True

                await eventually(said)
                assert await asyncio.wait_for(next_, 20) == [2]
            await client.close()


class TestSubjects:
    async def test_a_stream_of_before_takes_what_outside_systems_say_and_keeps_its_other_settings(
        self, kit_settings: Callable[..., Settings], tmp_path: Path
    ) -> None:
        with servers.nats(tmp_path, durable=False) as server:
            before = await nats.connect(server.url)
            settings = StreamConfig(name=bus.STREAM, subjects=["billing.>", "theirs.>"], max_age=3600)
            await before.jetstream().add_stream(settings)
            await before.jetstream().publish("billing.probe.v1.Told.x", b"1")
            for _ in range(2):
                client, jetstream = await bus.connect(kit_settings(nats_url=server.url))
                there = await jetstream.stream_info(bus.STREAM)
                assert there.config.subjects == ["billing.>", "theirs.>", "platform.>"]
                assert (there.config.max_age, there.state.messages) == (3600, 1)
                await client.close()
            await before.jetstream().publish("platform.usage.v1.UsageRecorded.x", b"2")
            await before.close()

    async def test_what_outside_systems_say_is_kept_from_the_start(
        self, jetstream: JetStreamContext, tenant: UUID
    ) -> None:
        subject = f"platform.usage.v1.UsageRecorded.{tenant.hex}"
        assert (await jetstream.publish(subject, b"1")).stream == bus.STREAM


class TestListen:
    async def test_every_process_hears_it_and_only_from_now_on(
        self, there: Bus, say: Say, subject: str, kit_settings: Callable[..., Settings]
    ) -> None:
        other_client, other_jetstream = await bus.connect(kit_settings())
        other = Bus()
        other.connected(other_client, other_jetstream)
        await say(1)
        heard: list[list[int]] = [[], []]

        async def listen(who: Bus, into: list[int]) -> None:
            async for message in who.listen(subject):
                into.append(int(message.data))  # noqa: PERF401 - one by one is the point

        listening = [asyncio.create_task(listen(who, into)) for who, into in zip((there, other), heard, strict=True)]

        async def both_heard() -> bool:
            await say(2)
            return all(heard)

        await eventually(both_heard)
        assert {number for into in heard for number in into} == {2}
        await asyncio.wait_for(tasks.end(*listening), 5)
        await other_client.close()

    async def test_who_listens_before_there_is_a_connection_waits_for_it(
        self, client: Client, say: Say, subject: str
    ) -> None:
        late = Bus()
        first = asyncio.ensure_future(anext(late.listen(subject)))
        await asyncio.sleep(0)
        late.connected(client, client.jetstream())

        async def heard() -> bool:
            await say(1)
            return first.done()

        await eventually(heard)
        assert (await first).data == b"1"


class TestServed:
    async def test_the_bus_of_a_service_is_connected_while_it_is_served(
        self, kit_settings: Callable[..., Settings], say: Say, subject: str
    ) -> None:
        settings, parts = kit_settings(), Bus()
        service = Service(db=Database(settings), scopes=NoScopes(), servicers=[], bus=parts)
        first = await say(1)
        async with serving(settings, service), aclosing(parts.follow(subject, first - 1)) as following:
            assert await some(following, 1) == [1]
