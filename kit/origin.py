"""Origin of work: on whose behalf it is done, in which trace, and until when."""

import time
from dataclasses import dataclass
from uuid import UUID

from kit.auth import Principal, Scope
from kit.telemetry import Trace


@dataclass(slots=True, kw_only=True)
class Origin:
    """Tenant, actor, trace and deadline of a piece of work; passed to transactions, events and calls to services."""

    tenant_id: UUID
    actor: str
    """Subject of the caller's token, or `service:<name>`; written to the audit log."""
    trace: Trace
    deadline: float
    """In seconds of `time.monotonic()`."""
    scope: Scope | None = None
    """What a confined caller may access; None for the whole tenant."""

    def remaining_s(self) -> float:
        """Return the seconds left until the deadline, at least zero."""
        return max(0.0, self.deadline - time.monotonic())


@dataclass(slots=True, kw_only=True)
class Call(Origin):
    """The origin of an RPC."""

    method: str
    """Full name, "billing.budgets.v1.LedgerService/Charge"."""
    principal: Principal
    key: str = ""
    """Idempotency key (`request_id`); empty if the caller sent none."""
    fingerprint: bytes = b""
    """Digest of the input and its sender, stored with the key."""
