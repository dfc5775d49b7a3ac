"""On whose behalf something is done: what a transaction, an event and a call to another service carry along."""

import time
from dataclasses import dataclass
from uuid import UUID

from kit.auth import Principal, Scope
from kit.telemetry import Trace


@dataclass(slots=True, kw_only=True)
class Origin:
    """The tenant, the actor, the trace and the time left of a piece of work."""

    tenant_id: UUID
    actor: str
    trace: Trace
    deadline: float
    """When it must have ended, by `time.monotonic()`."""
    scope: Scope | None = None
    """What a confined caller may see; None: the whole tenant."""

    def remaining_s(self) -> float:
        """Seconds left until the deadline, not below zero."""
        return max(0.0, self.deadline - time.monotonic())


@dataclass(slots=True, kw_only=True)
class Call(Origin):
    """One RPC under way."""

    method: str
    """Full name, "billing.budgets.v1.LedgerService/Charge"."""
    principal: Principal
    key: str = ""
    """The caller's key for this request (`request_id`); empty where none was given."""
    fingerprint: bytes = b""
    """Digest of the input and its principal, kept with the key."""
