"""Simulator of the licensing system: provisions and releases the licenses of contracts.

It consumes ContractActivated, ContractAmended, ContractRenewed, ContractTerminated and ContractExpired of the entities
service. Every tier is available except "unavailable", with at most 100,000 seats; otherwise it publishes
LicenseProvisioningFailed. It ignores contracts without tier and seats.

Each contract has its own license. A renewal gets one when it is activated, possibly long before the previous contract
ends; the license of the previous contract is released when the renewal takes effect.

`python -m deploy.simulators.licensing`, with BILLING_NATS_URL; `make up` starts it.
"""

import asyncio
import json
import os
from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID, uuid5

import nats
from google.protobuf.message import Message
from nats.aio.msg import Msg
from nats.errors import TimeoutError as NatsTimeout
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError
from outside.licensing.v1.licensing_pb2 import LicenseProvisioned, LicenseProvisioningFailed, LicenseReleased

from deploy.nats_users import system_consumer, system_user
from deploy.simulators.publishing import publish
from eventing.subjects import STREAM, inbox_prefix

SOURCE: Final = "/platform/licensing"
UNAVAILABLE: Final = "unavailable"
"""The tier that can't be provisioned."""
SEATS_MAX: Final = 100_000
_ENDED: Final = ("ContractTerminated", "ContractExpired", "ContractRenewed")
_CONSUMED: Final = ("ContractActivated", "ContractAmended", *_ENDED)
_REPLIES: Final = UUID("4b6f7a52-51c6-4d0e-9d2b-6f0a4c1d7e90")
"""UUID namespace: the id of a reply is derived from that of the event, so that redelivery publishes no second reply."""
_RETRY_S: Final = 0.5


def reply_to(name: str, event: Mapping[str, Any]) -> Message | None:
    """Return the event with which the licensing system replies; None if it ignores the event."""
    contract_id, tier, seats = str(event["contract_id"]), str(event.get("license_tier", "")), int(event.get("seats", 0))
    license_id = f"lic-{contract_id.removeprefix('con_')}"
    if name in _ENDED:
        return LicenseReleased(contract_id=contract_id, license_id=license_id)
    if not tier and not seats:
        return None
    reason = ""
    if tier == UNAVAILABLE:
        reason = f"The tier {tier!r} is not offered."
    elif seats > SEATS_MAX:
        reason = f"A license has {SEATS_MAX} seats at most."
    if reason:
        return LicenseProvisioningFailed(contract_id=contract_id, reason=reason, tier=tier, seats=seats)
    return LicenseProvisioned(contract_id=contract_id, license_id=license_id, tier=tier, seats=seats)


async def run(url: str) -> None:
    """Consume events until cancelled, from the first stored one."""
    client = await nats.connect(
        url.split(","),
        name="simulator:licensing",
        inbox_prefix=inbox_prefix(system_user("licensing")),
        max_reconnect_attempts=-1,
    )
    try:
        jetstream = client.jetstream()
        await asyncio.gather(*(_consume(jetstream, name) for name in _CONSUMED))
    finally:
        await client.close()


async def _consume(jetstream: JetStreamContext, name: str) -> None:
    event = f"billing.entities.v1.{name}"
    while True:
        try:
            subscription = await jetstream.pull_subscribe(
                f"{event}.*", durable=system_consumer("licensing", event), stream=STREAM
            )
            while True:
                for message in await _fetch(subscription):
                    await _handle(jetstream, name, message)
        except (NotFoundError, nats.errors.Error, TimeoutError) as error:  # no stream yet, or NATS is unavailable
            print(f"{name}: {error!r}", flush=True)
            await asyncio.sleep(_RETRY_S)


async def _fetch(subscription: JetStreamContext.PullSubscription) -> list[Msg]:
    try:
        return await subscription.fetch(16, timeout=5)
    except (NatsTimeout, TimeoutError):
        return []


async def _handle(jetstream: JetStreamContext, name: str, message: Msg) -> None:
    try:
        tenant_id = UUID(message.subject.rpartition(".")[2])
        reply = reply_to(name, json.loads(message.data))
        event_id = uuid5(_REPLIES, (message.headers or {})["ce-id"])
    except (ValueError, KeyError, TypeError) as error:
        print(f"{message.subject}: {error!r}", flush=True)
        await message.term()
        return
    if reply is not None:
        await publish(jetstream, reply, tenant_id, SOURCE, event_id=event_id)
        print(f"{name} → {type(reply).__name__} {reply.contract_id}", flush=True)  # type: ignore[attr-defined]
    await message.ack()


if __name__ == "__main__":
    asyncio.run(run(os.environ["BILLING_NATS_URL"]))
