"""The licensing system: provisions what contracts grant, and says so.

It hears ContractActivated, ContractAmended, ContractRenewed, ContractTerminated and ContractExpired of the entities
service. Every tier is there but "unavailable", and up to 100,000 seats are: more, or that tier, is answered by
LicenseProvisioningFailed. A contract that grants neither tier nor seats is not answered.

Each contract has a license of its own. A successor gets one when it is activated, which may be long before the contract
that it renews has ended; that one's is taken back when the successor takes over, so that one license is left.

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

from deploy.simulators.telling import tell

SOURCE: Final = "/platform/licensing"
UNAVAILABLE: Final = "unavailable"
"""The tier that is not there."""
SEATS_MAX: Final = 100_000
_ENDED: Final = ("ContractTerminated", "ContractExpired", "ContractRenewed")
_HEARD: Final = ("ContractActivated", "ContractAmended", *_ENDED)
_STREAM: Final = "BILLING"
_ANSWERS: Final = UUID("4b6f7a52-51c6-4d0e-9d2b-6f0a4c1d7e90")
"""Namespace in which the id of an answer follows from that of the event: who is told twice answers the same."""
_AGAIN_S: Final = 0.5


def answer_to(name: str, event: Mapping[str, Any]) -> Message | None:
    """What the licensing system says to an event; None where there is nothing to say."""
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
    """Answer until cancelled, from the first event that is kept."""
    client = await nats.connect(url.split(","), name="simulator:licensing", max_reconnect_attempts=-1)
    try:
        jetstream = client.jetstream()
        await asyncio.gather(*(_answer_all(jetstream, name) for name in _HEARD))
    finally:
        await client.close()


async def _answer_all(jetstream: JetStreamContext, name: str) -> None:
    subject = f"billing.entities.v1.{name}.*"
    while True:
        try:
            heard = await jetstream.pull_subscribe(subject, durable=f"simulator_licensing_{name}", stream=_STREAM)
            while True:
                for message in await _some(heard):
                    await _answer(jetstream, name, message)
        except (NotFoundError, nats.errors.Error, TimeoutError) as error:  # no stream yet, or NATS is away
            print(f"{name}: {error!r}", flush=True)
            await asyncio.sleep(_AGAIN_S)


async def _some(heard: JetStreamContext.PullSubscription) -> list[Msg]:
    try:
        return await heard.fetch(16, timeout=5)
    except (NatsTimeout, TimeoutError):
        return []


async def _answer(jetstream: JetStreamContext, name: str, message: Msg) -> None:
    try:
        tenant_id = UUID(message.subject.rpartition(".")[2])
        answer = answer_to(name, json.loads(message.data))
        event_id = uuid5(_ANSWERS, (message.headers or {})["ce-id"])
    except (ValueError, KeyError, TypeError) as error:
        print(f"{message.subject}: {error!r}", flush=True)
        await message.term()
        return
    if answer is not None:
        await tell(jetstream, answer, tenant_id, SOURCE, event_id=event_id)
        print(f"{name} → {type(answer).__name__} {answer.contract_id}", flush=True)  # type: ignore[attr-defined]
    await message.ack()


if __name__ == "__main__":
    asyncio.run(run(os.environ["BILLING_NATS_URL"]))
