"""NATS JetStream: the connection, the stream that stores all events, and subscriptions of a single process."""

import asyncio
import json
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Final
from uuid import uuid4

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy, RetentionPolicy, StorageType, StreamConfig
from nats.js.errors import BadRequestError

from eventing.subjects import STREAM, inbox_prefix
from kit.errors import Unavailable
from kit.settings import Settings
from kit.telemetry import log

_SUBJECTS: Final = ("billing.>", "platform.>")
"""Events of our services, and events of outside systems."""
_RETENTION_S: Final = 30 * 24 * 3600
_DUPLICATE_WINDOW_S: Final = 600
_QUEUE_MAX: Final = 1000
_BATCH: Final = 64
_RETRY_S: Final = 1.0


_STORED: Final = b"$JS.ACK."
"""Start of the reply subject of messages that are stored in a stream."""
_STATUS: Final = re.compile(rb"NATS/1\.0 |(?s:.*)\r\n[ \t]*Status[ \t]*:")
"""Headers with which the server sends a status instead of a message."""


class _Client(Client):
    """A client to which publishers can send no message that it can't read, or mistakes for a status of the server.

    Bytes that are not UTF-8 in a subject would end the loop that reads the connection, and a stored message with a
    status would never be acknowledged, so it would be delivered for ever. Consumers reject what is left of them.
    """

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        if headers and bytes(reply).startswith(_STORED) and _STATUS.match(headers):
            headers = b""
        readable = bytes(subject).decode(errors="replace").encode()
        await super()._process_msg(sid, readable, reply, data, headers)


async def connect(settings: Settings) -> tuple[Client, JetStreamContext]:
    """Connect to NATS and create the stream. The client reconnects by itself, without a limit of attempts."""
    client = _Client()
    await client.connect(
        settings.nats_url.split(","),
        name=settings.service,
        inbox_prefix=inbox_prefix(settings.service),
        max_reconnect_attempts=-1,
        reconnect_time_wait=0.5,  # type: ignore[arg-type]  # annotated as int, works with fractions
        connect_timeout=2,
        pending_size=-1,
        error_cb=_log_error,
    )
    jetstream = client.jetstream()
    await ensure_stream(jetstream)
    return client, jetstream


async def ensure_stream(jetstream: JetStreamContext) -> None:
    """Create the stream of all events. To an existing stream only missing subjects are added."""
    config = StreamConfig(
        name=STREAM,
        subjects=list(_SUBJECTS),
        storage=StorageType.FILE,
        retention=RetentionPolicy.LIMITS,
        max_age=_RETENTION_S,
        duplicate_window=_DUPLICATE_WINDOW_S,
    )
    try:
        await jetstream.add_stream(config)
    except BadRequestError as error:
        log.warning("stream exists with another configuration", error=error)
        await _add_missing_subjects(jetstream)


async def _add_missing_subjects(jetstream: JetStreamContext) -> None:
    """Add our subjects to the stream; keep the configuration of operators, including their own subjects."""
    current = (await jetstream.stream_info(STREAM)).config
    subjects = current.subjects or []
    missing = [subject for subject in _SUBJECTS if subject not in subjects]
    if not missing:
        return
    try:
        await jetstream.update_stream(current.evolve(subjects=[*subjects, *missing]))
    except TimeoutError:  # the server does not reply to calls that are not permitted
        log.error("the stream lacks subjects; its administrator must add them", missing=missing)


async def _log_error(error: Exception) -> None:
    log.warning("NATS error", error=error)


class EventBus:
    """Subscriptions of this process alone; unlike a Consumer, they don't share events among replicas.

    Calls wait until `set_connection` was called.
    """

    def __init__(self, *, pull_s: float = 30.0, heartbeat_s: float = 2.0) -> None:
        """`pull_s` is how long the server answers one pull request, with heartbeats in between while it is idle."""
        self._connected = asyncio.Event()
        self._pull_s = pull_s
        self._heartbeat_s = heartbeat_s

    def set_connection(self, client: Client, jetstream: JetStreamContext) -> None:
        """Use this connection from now on."""
        self._client, self._jetstream = client, jetstream
        self._connected.set()

    async def subscribe(self, subject: str) -> AsyncGenerator[Msg, None]:
        """Yield messages of the subject that are published from now on, at most once each.

        Messages are lost while NATS is down or when they are published faster than they are read.
        """
        await self._connected.wait()
        messages: asyncio.Queue[Msg] = asyncio.Queue(_QUEUE_MAX)
        subscription = await self._client.subscribe(subject, cb=messages.put)
        try:
            while True:
                yield await messages.get()
        finally:
            with suppress(nats.errors.Error):
                await subscription.unsubscribe()

    async def last_sequence(self) -> int:
        """Return the sequence of the last event in the stream, 0 if there is none. Raises Unavailable."""
        await self._connected.wait()
        try:
            return (await self._jetstream.stream_info(STREAM)).state.last_seq
        except (nats.errors.Error, TimeoutError) as error:
            log.warning("stream not available", error=error)
            raise Unavailable("The stream of events") from None

    async def subscribe_after(self, subject: str, sequence: int | None) -> AsyncGenerator[tuple[int, Msg], None]:
        """Yield the events of the subject after a sequence of the stream, in order, each once, without end.

        Each event comes with its sequence in the stream. Events that are no longer stored are skipped. With None, only
        events that are published from now on are yielded. If the stream was lost and recreated, its last sequence is
        below `sequence`: then all of its events are yielded.
        """
        await self._connected.wait()
        while True:
            try:
                state = (await self._jetstream.stream_info(STREAM)).state
                if sequence is None:
                    sequence = state.last_seq
                elif sequence > state.last_seq:
                    sequence = 0
                async with aclosing(self._pull(subject, sequence)) as events:
                    async for number, message in events:
                        yield number, message
                        sequence = number
            except (nats.errors.Error, TimeoutError) as error:
                log.warning("subscription interrupted", subject=subject, error=error)
            await asyncio.sleep(_RETRY_S)

    async def _pull(self, subject: str, sequence: int) -> AsyncGenerator[tuple[int, Msg], None]:
        """Yield the events after a sequence in order, and return as soon as one may have been lost.

        Written by hand, since neither consumer of nats-py fits. Its ordered push consumer starts at sequence 1 when it
        is reset before its first message, and stays silent after the stream was created anew. The `fetch` of its pull
        consumer reports a lost message, a deleted consumer and a silent server as a timeout, like an idle stream.

        The consumer belongs to this call; the server deletes it when it is no longer used. Its messages have
        consecutive numbers. A missing number, a reconnect, silence, or any status but "no messages" ends the call.
        """
        name, inbox = uuid4().hex, self._client.new_inbox()
        messages: asyncio.Queue[Msg] = asyncio.Queue()  # bounded by the batch that is requested
        reconnects = self._client.stats["reconnects"]
        subscription = await self._client.subscribe(inbox, cb=messages.put)
        try:
            await self._jetstream.add_consumer(STREAM, self._consumer(name, subject, sequence + 1))
            expected, requested = 1, 0
            while reconnects == self._client.stats["reconnects"]:
                if requested == 0:
                    next_messages = f"$JS.API.CONSUMER.MSG.NEXT.{STREAM}.{name}"
                    await self._client.publish(next_messages, self._pull_request(), reply=inbox)
                    requested = _BATCH
                async with asyncio.timeout(2.5 * self._heartbeat_s):
                    message = await messages.get()
                headers = message.headers or {}
                status = headers.get("Status")
                if status == "408" and headers.get("Nats-Pending-Messages") == str(requested):
                    requested = 0
                elif status is None and message.metadata.sequence.consumer == expected:
                    expected, requested = expected + 1, requested - 1
                    yield message.metadata.sequence.stream, message
                elif status != "100":
                    return
        finally:
            with suppress(nats.errors.Error):
                await subscription.unsubscribe()

    def _pull_request(self) -> bytes:
        nanoseconds = {"expires": int(self._pull_s * 10**9), "idle_heartbeat": int(self._heartbeat_s * 10**9)}
        return json.dumps({"batch": _BATCH, **nanoseconds}).encode()

    def _consumer(self, name: str, subject: str, start: int) -> ConsumerConfig:
        return ConsumerConfig(
            name=name,
            filter_subject=subject,
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=start,
            ack_policy=AckPolicy.NONE,
            inactive_threshold=2 * self._pull_s,
            mem_storage=True,
            num_replicas=1,
        )
