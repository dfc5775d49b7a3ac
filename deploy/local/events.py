"""Follow the events of our services and of outside systems."""

import asyncio
import json

import nats
from nats.aio.msg import Msg
from nats.js.api import ConsumerConfig, DeliverPolicy
from nats.js.errors import NotFoundError

from eventing.subjects import STREAM


async def follow(url: str, *, from_start: bool) -> None:
    """Print each event on one line: time, subject, trace id, body. Starts now or at the first stored event."""
    client = await nats.connect(url.split(","), max_reconnect_attempts=-1)
    policy = DeliverPolicy.ALL if from_start else DeliverPolicy.NEW
    try:
        subscription = await client.jetstream().subscribe(
            ">", stream=STREAM, ordered_consumer=True, config=ConsumerConfig(deliver_policy=policy)
        )
    except NotFoundError:
        raise RuntimeError("no event has been published yet") from None
    try:
        async for message in subscription.messages:
            print(_line(message), flush=True)
    except asyncio.CancelledError:
        await client.close()
        raise


def _line(message: Msg) -> str:
    time = message.metadata.timestamp.isoformat(timespec="milliseconds")
    traceparent = (message.headers or {}).get("traceparent", "").split("-")
    trace_id = traceparent[1] if len(traceparent) > 1 else "-"
    try:
        body = json.dumps(json.loads(message.data), ensure_ascii=False)
    except ValueError:
        body = repr(message.data)
    return f"{time} {message.subject} {trace_id} {body}"
