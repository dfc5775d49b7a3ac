"""Simulator of the licensing system: provisions and releases the licenses of contracts.

It consumes ContractActivated, ContractAmended, ContractRenewed, ContractTerminated and ContractExpired of the entities
service. Every tier is available except "unavailable", with at most 100,000 seats; otherwise it publishes
LicenseProvisioningFailed. It ignores contracts without tier and seats.

Each contract has its own license. A renewal gets one when it is activated, possibly long before the previous contract
ends; the license of the previous contract is released when the renewal takes effect.

`python -m deploy.simulators.licensing`, with BILLING_NATS_URL; `make up` starts it.
"""

import asyncio
import os
from collections.abc import Mapping
from typing import Any, Final

from google.protobuf.message import Message
from outside.licensing.v1.licensing_pb2 import LicenseProvisioned, LicenseProvisioningFailed, LicenseReleased

from deploy.simulators import replying

SOURCE: Final = "/platform/licensing"
UNAVAILABLE: Final = "unavailable"
"""The tier that can't be provisioned."""
SEATS_MAX: Final = 100_000
_ENDED: Final = ("ContractTerminated", "ContractExpired", "ContractRenewed")
_CONSUMED: Final = ("ContractActivated", "ContractAmended", *_ENDED)


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
    await replying.run(url, "licensing", _CONSUMED, reply_to)


if __name__ == "__main__":
    asyncio.run(run(os.environ["BILLING_NATS_URL"]))
