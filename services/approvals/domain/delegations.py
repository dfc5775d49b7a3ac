"""Who decides for whom. Pure."""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

CHAIN_MAX: Final = 5
"""So many delegations in a row are followed."""
LENGTH_MAX: Final = timedelta(days=400)


class DelegationState(StrEnum):
    """Delegation.State."""

    SCHEDULED = "SCHEDULED"
    ACTIVE = "ACTIVE"
    ENDED = "ENDED"


def state_at(start: datetime, over: datetime, now: datetime) -> DelegationState:
    """Where a delegation stands that is good from `start` and over at `over`."""
    if now >= over:
        return DelegationState.ENDED
    return DelegationState.ACTIVE if start <= now else DelegationState.SCHEDULED


def acts_for(user_id: str, delegators: Mapping[str, Iterable[str]]) -> frozenset[str]:
    """All for whom a user decides: who delegated to them, who delegated to those, and so on, up to 5 in a row.

    `delegators` has those who delegated to each. A circle ends where it began: nobody decides for themselves.
    """
    found: set[str] = set()
    nearest = {user_id}
    for _ in range(CHAIN_MAX):
        nearest = {away for one in nearest for away in delegators.get(one, ())} - found - {user_id}
        if not nearest:
            break
        found |= nearest
    return frozenset(found)


def flaws(delegator: str, delegate: str, start: datetime, end: datetime, now: datetime) -> list[tuple[str, str]]:
    """What is wrong with a delegation: the field, and why."""
    found = []
    if delegate == delegator:
        found.append(("delegate", "must be somebody else than the delegator"))
    if end <= max(start, now):
        found.append(("end_time", "must be later than it begins, and later than now"))
    elif end - start > LENGTH_MAX:
        found.append(("end_time", f"must be at most {LENGTH_MAX.days} days after it begins"))
    return found
