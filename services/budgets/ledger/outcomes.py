"""Outcomes of postings, and their concealment for callers who may not see all budgets of the chain."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from eventing.outbox import OutboxRow
from kit.errors import BillingError
from kit.origin import Origin
from services.budgets import domain
from services.budgets.domain.balances import Balance
from services.budgets.domain.entries import EntryType
from services.budgets.domain.postings import Key, LedgerEvent, Posted, PostingRequest, Replayed
from services.budgets.domain.visibility import IsVisible
from services.budgets.errors.visibility import conceal as conceal_refusal

PostingOutcome = bytes | Replayed | BillingError
"""The reply to an accepted request, the stored reply to its key, or the error of a refused request."""


class ReplyCodec(Protocol):
    """Encodes and reads replies."""

    def to_reply(self, posted: Posted, /) -> bytes:
        """Return the serialized reply to an accepted request."""

    def ids_from_reply(self, entry_type: EntryType, reply: bytes, /) -> tuple[UUID, UUID]:
        """Return the ids of the budget and of the charge, refund or hold from the reply to a posting of this type."""

    def conceal_chain(self, entry_type: EntryType, reply: bytes, is_visible: IsVisible, /) -> bytes:
        """Return the reply without name, id and numbers of budgets above that the caller may not see."""


@dataclass(frozen=True, slots=True)
class LedgerCodec:
    """Encodes replies and events. `main.py` passes it in, so that the ledger does not depend on protobuf."""

    event: Callable[[Origin, LedgerEvent], OutboxRow]
    replies: ReplyCodec


def conceal(
    origin: Origin,
    requests: Sequence[PostingRequest],
    outcomes: list[PostingOutcome],
    balances: Mapping[Key, Balance],
    codec: LedgerCodec,
) -> list[PostingOutcome]:
    """Return the outcomes; for a caller with a scope, without name, id and numbers of budgets outside of it."""
    if origin.scope is None:
        return outcomes
    is_visible = domain.visibility.within(origin.scope, origin.tenant_id, balances)
    return [
        _conceal(request.entry_type, outcome, is_visible, codec.replies)
        for request, outcome in zip(requests, outcomes, strict=True)
    ]


def _conceal(
    entry_type: EntryType, outcome: PostingOutcome, is_visible: IsVisible, replies: ReplyCodec
) -> PostingOutcome:
    if isinstance(outcome, BillingError):
        return conceal_refusal(outcome, is_visible)
    if isinstance(outcome, Replayed):
        return Replayed(replies.conceal_chain(entry_type, outcome.reply, is_visible))
    return replies.conceal_chain(entry_type, outcome, is_visible)
