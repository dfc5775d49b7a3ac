"""Consumes events as an outside system does, and publishes the replies of a simulator."""

import asyncio
import json
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final, TypeAlias
from uuid import UUID, uuid5

import nats
from google.protobuf.message import Message
from nats.aio.msg import Msg
from nats.errors import TimeoutError as NatsTimeout
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from deploy.nats_users import system_consumer, system_user
from deploy.simulators.publishing import publish
from eventing.subjects import STREAM, inbox_prefix

Reply: TypeAlias = Callable[[str, Mapping[str, Any]], Message | None]
"""Returns the reply to an event, by its name and its body; None if it is ignored."""
_REPLIES: Final = UUID("4b6f7a52-51c6-4d0e-9d2b-6f0a4c1d7e90")
"""UUID namespace: the id of a reply is derived from that of the event, so that redelivery publishes no second reply."""
_RETRY_S: Final = 0.5


async def run(url: str, system: str, events: Collection[str], reply: Reply) -> None:
    """Consume these events of the entities service until cancelled, from the first stored one, and publish replies."""
    client = await nats.connect(
        url.split(","),
        name=f"simulator:{system}",
        inbox_prefix=inbox_prefix(system_user(system)),
        max_reconnect_attempts=-1,
    )
    try:
        jetstream = client.jetstream()
        await asyncio.gather(*(_consume(jetstream, system, name, reply) for name in events))
    finally:
        await client.close()


async def _consume(jetstream: JetStreamContext, system: str, name: str, reply: Reply) -> None:
    event = f"billing.entities.v1.{name}"
    while True:
        try:
            subscription = await jetstream.pull_subscribe(
                f"{event}.*", durable=system_consumer(system, event), stream=STREAM
            )
            while True:
                for message in await _fetch(subscription):
                    await _handle(jetstream, system, name, message, reply=reply)
        except (NotFoundError, nats.errors.Error, TimeoutError) as error:  # no stream yet, or NATS is unavailable
            print(f"{name}: {error!r}", flush=True)
            await asyncio.sleep(_RETRY_S)


async def _fetch(subscription: JetStreamContext.PullSubscription) -> list[Msg]:
    try:
        return await subscription.fetch(16, timeout=5)
    except (NatsTimeout, TimeoutError):
        return []


async def _handle(jetstream: JetStreamContext, system: str, name: str, message: Msg, *, reply: Reply) -> None:
    try:
        tenant_id = UUID(message.subject.rpartition(".")[2])
        answer = reply(name, json.loads(message.data))
        event_id = uuid5(_REPLIES, (message.headers or {})["ce-id"])
    except (ValueError, KeyError, TypeError) as error:
        print(f"{message.subject}: {error!r}", flush=True)
        await message.term()
        return
    if answer is not None:
        await publish(jetstream, answer, tenant_id, f"/platform/{system}", event_id=event_id)
        print(f"{name} → {type(answer).__name__}", flush=True)
    await message.ack()
