"""NATS JetStream: the connection, the stream that holds our events, and what a process hears for itself."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from uuid import uuid4

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy, RetentionPolicy, StorageType, StreamConfig
from nats.js.errors import BadRequestError

from kit.errors import Unavailable
from kit.settings import Settings
from kit.telemetry import log

STREAM = "BILLING"
_SUBJECTS = ("billing.>", "platform.>")
"""What we say, and what outside systems say."""
_KEPT_S = 30 * 24 * 3600
_DUPLICATES_S = 600
_HEARD_MAX = 1000
_BATCH = 64
_HEARTBEAT_S = 2.0
_SILENCE_S = 2.5 * _HEARTBEAT_S
_PULL_S = 30.0
_AGAIN_S = 1.0


async def connect(settings: Settings) -> tuple[Client, JetStreamContext]:
    """A connection that comes back by itself for ever, with the stream in place."""
    client = await nats.connect(
        settings.nats_url.split(","),
        name=settings.service,
        max_reconnect_attempts=-1,
        reconnect_time_wait=0.5,
        connect_timeout=2,
        pending_size=-1,
        error_cb=_tell,
    )
    jetstream = client.jetstream()
    await ensure_stream(jetstream)
    return client, jetstream


async def ensure_stream(jetstream: JetStreamContext) -> None:
    """Make the stream of all events, or leave the one that is there but for subjects that it lacks."""
    config = StreamConfig(
        name=STREAM,
        subjects=list(_SUBJECTS),
        storage=StorageType.FILE,
        retention=RetentionPolicy.LIMITS,
        max_age=_KEPT_S,
        duplicate_window=_DUPLICATES_S,
    )
    try:
        await jetstream.add_stream(config)
    except BadRequestError as error:
        log.warning("the stream is there with another configuration", error=str(error))
        await _complete_subjects(jetstream)


async def _complete_subjects(jetstream: JetStreamContext) -> None:
    """Have the stream take all of our subjects; what operators changed of it, also subjects of theirs, stays."""
    there = (await jetstream.stream_info(STREAM)).config
    subjects = there.subjects or []
    missing = [subject for subject in _SUBJECTS if subject not in subjects]
    if missing:
        await jetstream.update_stream(there.evolve(subjects=[*subjects, *missing]))


async def _tell(error: Exception) -> None:
    log.warning("nats", error=repr(error)[:300])


class Bus:
    """What a process hears over NATS; until it is connected, listeners wait."""

    def __init__(self) -> None:
        self._there = asyncio.Event()

    def connected(self, client: Client, jetstream: JetStreamContext) -> None:
        """Let those who wait begin."""
        self._client, self._jetstream = client, jetstream
        self._there.set()

    async def listen(self, subject: str) -> AsyncGenerator[Msg, None]:
        """Every message of a subject from now on, in each process that listens.

        At most once: what is said while NATS is away, or faster than it is taken, is not heard.
        """
        await self._there.wait()
        heard: asyncio.Queue[Msg] = asyncio.Queue(_HEARD_MAX)
        subscription = await self._client.subscribe(subject, cb=heard.put)
        try:
            while True:
                yield await heard.get()
        finally:
            with suppress(nats.errors.Error):
                await subscription.unsubscribe()

    async def newest(self) -> int:
        """The sequence of the newest event of all, 0 before the first; raises Unavailable while NATS is away."""
        await self._there.wait()
        try:
            return (await self._jetstream.stream_info(STREAM)).state.last_seq
        except (nats.errors.Error, TimeoutError) as error:
            log.warning("the stream does not answer", error=repr(error)[:300])
            raise Unavailable("The stream of events") from None

    async def follow(self, subject: str, after: int | None) -> AsyncGenerator[tuple[int, Msg], None]:
        """The events of a subject with their sequence in the stream, in order, each once, without end.

        From the first after the sequence `after` that is still kept; None: from what is said next. A sequence that
        the stream has not reached is of one that was lost and made again: all is told then.
        """
        await self._there.wait()
        while True:
            try:
                state = (await self._jetstream.stream_info(STREAM)).state
                after = state.last_seq if after is None else after if after <= state.last_seq else 0
                async with aclosing(self._pulled(subject, after)) as pulled:
                    async for sequence, message in pulled:
                        yield sequence, message
                        after = sequence
            except (nats.errors.Error, TimeoutError) as error:
                log.warning("following is interrupted", subject=subject, error=repr(error)[:300])
            await asyncio.sleep(_AGAIN_S)

    async def _pulled(self, subject: str, after: int) -> AsyncGenerator[tuple[int, Msg], None]:
        """The events after a sequence, until one may have been lost on the way.

        The consumer is ours alone and goes when nobody pulls. It numbers what it sends: a number that is missing, a
        connection made anew, silence or any word but "nothing now" mean that we begin again after the last one seen.
        """
        name, inbox = uuid4().hex, self._client.new_inbox()
        heard: asyncio.Queue[Msg] = asyncio.Queue()  # of one batch at most
        reconnects = self._client.stats["reconnects"]
        subscription = await self._client.subscribe(inbox, cb=heard.put)
        try:
            await self._jetstream.add_consumer(STREAM, _from(after + 1, subject, name))
            expected, left = 1, 0
            while reconnects == self._client.stats["reconnects"]:
                if left == 0:
                    await self._client.publish(f"$JS.API.CONSUMER.MSG.NEXT.{STREAM}.{name}", _pull(), reply=inbox)
                    left = _BATCH
                async with asyncio.timeout(_SILENCE_S):
                    message = await heard.get()
                headers = message.headers or {}
                status = headers.get("Status")
                if status == "408" and headers.get("Nats-Pending-Messages") == str(left):
                    left = 0
                elif status is None and message.metadata.sequence.consumer == expected:
                    expected, left = expected + 1, left - 1
                    yield message.metadata.sequence.stream, message
                elif status != "100":
                    return
        finally:
            with suppress(nats.errors.Error):
                await subscription.unsubscribe()


def _pull() -> bytes:
    nanoseconds = {"expires": int(_PULL_S * 10**9), "idle_heartbeat": int(_HEARTBEAT_S * 10**9)}
    return json.dumps({"batch": _BATCH, **nanoseconds}).encode()


def _from(sequence: int, subject: str, name: str) -> ConsumerConfig:
    return ConsumerConfig(
        name=name,
        filter_subject=subject,
        deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
        opt_start_seq=sequence,
        ack_policy=AckPolicy.NONE,
        inactive_threshold=2 * _PULL_S,
        mem_storage=True,
        num_replicas=1,
    )
