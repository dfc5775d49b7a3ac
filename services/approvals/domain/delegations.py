"""Delegations: states, inputs, and the users on whose behalf a delegate decides. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

CHAIN_MAX: Final = 5
"""Maximum number of delegations in a chain."""
LENGTH_MAX: Final = timedelta(days=400)


class DelegationState(StrEnum):
    """Delegation.State."""

    SCHEDULED = "SCHEDULED"
    ACTIVE = "ACTIVE"
    ENDED = "ENDED"


@dataclass(frozen=True, slots=True, kw_only=True)
class DelegationDraft:
    """Input of CreateDelegation."""

    delegator: str
    """Empty: the caller."""
    delegate: str
    start_time: datetime | None
    """None: now."""
    end_time: datetime
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DelegationFilter:
    """Filter of ListDelegations; fields that are empty or None don't filter."""

    delegator: str = ""
    delegate: str = ""
    state: DelegationState | None = None


def state_at(start_time: datetime, end_time: datetime, now: datetime) -> DelegationState:
    """Return the state of a delegation at `now`. `end_time` is exclusive."""
    if now >= end_time:
        return DelegationState.ENDED
    return DelegationState.ACTIVE if start_time <= now else DelegationState.SCHEDULED


def acts_for(user_id: str, delegators: Mapping[str, Iterable[str]], *, without: str = "") -> frozenset[str]:
    """Return all users on whose behalf a user decides, through chains of up to CHAIN_MAX delegations.

    `delegators` contains the delegators of each delegate. In a cycle, a user never decides on their own behalf.
    Chains that pass through or begin with the user `without` don't count.
    """
    result: set[str] = set()
    nearest = {user_id}
    for _ in range(CHAIN_MAX):
        nearest = {delegator for delegate in nearest for delegator in delegators.get(delegate, ())} - result
        nearest -= {user_id, without}
        if not nearest:
            break
        result |= nearest
    return frozenset(result)


def violations(
    delegator: str, delegate: str, start_time: datetime, end_time: datetime, now: datetime
) -> list[tuple[str, str]]:
    """Return the violations of a new delegation: field and description of each."""
    result = []
    if delegate == delegator:
        result.append(("delegate", "must not be the delegator"))
    if end_time <= max(start_time, now):
        result.append(("end_time", "must be after start_time and in the future"))
    elif end_time - start_time > LENGTH_MAX:
        result.append(("end_time", f"must be at most {LENGTH_MAX.days} days after start_time"))
    return result
