"""NATS JetStream: the connection and the stream that holds our events."""

import nats
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import RetentionPolicy, StorageType, StreamConfig
from nats.js.errors import BadRequestError

from kit.settings import Settings
from kit.telemetry import log

STREAM = "BILLING"
_KEPT_S = 30 * 24 * 3600
_DUPLICATES_S = 600


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
    """Make the stream of all billing events, or leave the one that is there."""
    config = StreamConfig(
        name=STREAM,
        subjects=["billing.>"],
        storage=StorageType.FILE,
        retention=RetentionPolicy.LIMITS,
        max_age=_KEPT_S,
        duplicate_window=_DUPLICATES_S,
    )
    try:
        await jetstream.add_stream(config)
    except BadRequestError as error:
        log.warning("the stream is there with another configuration", error=str(error))


async def _tell(error: Exception) -> None:
    log.warning("nats", error=repr(error)[:300])
