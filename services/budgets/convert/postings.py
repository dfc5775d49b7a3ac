"""Conversion of charges and refunds to postings, and of postings to replies."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final
from uuid import UUID

from billing.budgets.v1 import ledger_service_pb2 as pb
from billing.budgets.v1.charge_pb2 import Charge, Refund
from billing.budgets.v1.hold_pb2 import Hold
from google.protobuf.message import Message

from contract.values import (
    date_text,
    money_fields,
    money_from_proto,
    money_or_none,
    money_to_proto,
    time_fields,
    time_or_none,
    time_to_proto,
)
from kit import idempotency, ids
from kit.errors import BillingError
from kit.money import Money
from kit.origin import Call
from services.budgets import convert
from services.budgets.domain.balances import Balance
from services.budgets.domain.entries import EntryType
from services.budgets.domain.postings import Posted, PostingRequest, Replayed

CHARGE: Final = "billing.budgets.v1.LedgerService/Charge"
"""The method under which keys of charges are stored, those of a batch as well."""


def charge_from_proto(request: pb.ChargeRequest, call: Call) -> PostingRequest:
    """Parse ChargeRequest, alone or in a batch."""
    return PostingRequest(
        entry_type=EntryType.CHARGE,
        budget_id=ids.BUDGET.parse(request.id),
        amount=money_from_proto(request.amount),
        request_key=(call.tenant_id, CHARGE, request.request_id),
        fingerprint=call.fingerprint or idempotency.fingerprint(request, call.actor),
        description=request.description,
        reference=request.reference,
        charge_time=time_or_none(request, "charge_time"),
    )


def refund_from_proto(request: pb.RefundChargeRequest, call: Call) -> PostingRequest:
    """Parse RefundChargeRequest."""
    return PostingRequest(
        entry_type=EntryType.REFUND,
        budget_id=ids.BUDGET.parse(request.id),
        charge_id=ids.ENTRY.parse(request.charge_id, "charge_id"),
        amount=money_or_none(request, "amount"),
        request_key=(call.tenant_id, call.method, call.key),
        fingerprint=call.fingerprint,
        description=request.reason,
    )


def to_reply(posted: Posted) -> bytes:
    """Return the serialized reply to an accepted request: a Charge, a Refund or a Hold."""
    return _REPLIES.get(posted.entry.entry_type, _hold)(posted).SerializeToString()


def charge_to_proto(posted: Posted) -> Charge:
    """Return the charge that was just accepted."""
    entry = posted.entry
    terms = entry.chain[0].terms
    fields: dict[str, Any] = {
        "id": ids.ENTRY.format(entry.id),
        "request_id": entry.request_id or "",
        "budget_id": ids.BUDGET.format(terms.id),
        "amount": money_fields(entry.amount, terms.currency),
        "verdict": entry.verdict,
        "chain": chain_fields(posted.before, posted.after),
        "description": entry.description,
        "reference": entry.reference,
        "actor": entry.actor,
        "charge_time": time_fields(entry.charge_time),
        "create_time": time_fields(entry.create_time),
    }
    if entry.original:
        fields["original_amount"] = money_fields(entry.original.amount, entry.original.currency)
        fields["rate"] = convert.numbers.rate_text(entry.rate)
        fields["rate_date"] = date_text(entry.rate_date)
    return Charge(**fields)


def _refund(posted: Posted) -> Refund:
    entry, refund, charged = posted.entry, posted.refund, posted.charged
    if refund is None or charged is None:
        raise ValueError("the posting is not a refund")
    currency = refund.amount.currency
    refundable = charged.amount.amount - charged.refunded - refund.amount.amount
    return Refund(
        id=ids.ENTRY.format(entry.id),
        request_id=entry.request_id or "",
        budget_id=ids.BUDGET.format(charged.budget_id),
        charge_id=ids.ENTRY.format(charged.id),
        amount=money_to_proto(refund.amount),
        original_amount=money_to_proto(refund.original) if refund.original.currency != currency else None,
        refundable=money_to_proto(Money(refundable, currency)),
        chain=chain_fields(posted.before, posted.after),
        reason=entry.description,
        actor=entry.actor,
        create_time=time_to_proto(entry.create_time),
    )


def _hold(posted: Posted) -> Message:
    if posted.hold is None:
        raise ValueError("the posting has not changed a hold")
    return convert.holds.to_proto(posted.hold)


_REPLIES: Final[Mapping[EntryType, Callable[[Posted], Message]]] = {
    EntryType.CHARGE: charge_to_proto,
    EntryType.REFUND: _refund,
}


def chain_fields(before: Sequence[Balance], after: Sequence[Balance], hidden: Collection[UUID] = ()) -> list[Any]:
    """Return the fields of ChainBudget messages; those of `hidden` budgets have only `out_of_scope`.

    One constructor builds the whole reply from them: building and copying each message would take four times as long,
    on every charge.
    """
    return [
        _HIDDEN if hidden and balance.terms.id in hidden else _chain_budget(balance, after_it)
        for balance, after_it in zip(before, after, strict=True)
    ]


_HIDDEN: Final = {"out_of_scope": True}


def conceal_chain(entry_type: EntryType, reply: bytes, is_visible: Callable[[UUID], bool]) -> bytes:
    """Return a serialized reply in which budgets above that the caller may not see have only `out_of_scope`."""
    if entry_type not in _REPLIES:
        return reply  # a hold has no chain
    message = (Charge if entry_type is EntryType.CHARGE else Refund).FromString(reply)
    conceal(message, is_visible)
    return message.SerializeToString()


def chain_ids(charge: Charge) -> list[UUID]:
    """Return the ids of the charged budget and those above it."""
    return [ids.BUDGET.parse(budget.budget_id) for budget in charge.chain]


def conceal(message: Charge | Refund, is_visible: Callable[[UUID], bool]) -> None:
    """Clear budgets above that the caller may not see in the chain of a charge or refund, and set `out_of_scope`."""
    for budget in message.chain[1:]:
        if budget.budget_id and not is_visible(ids.BUDGET.parse(budget.budget_id)):
            budget.Clear()
            budget.out_of_scope = True


def _chain_budget(before: Balance, after: Balance) -> dict[str, object]:
    terms, available = after.terms, after.available
    return {
        "budget_id": ids.BUDGET.format(terms.id),
        "name": terms.name,
        "available_before": money_fields(before.available, terms.currency),
        "available_after": money_fields(available, terms.currency),
        "utilisation_bp": after.utilisation_bp,
        "overspent": available < 0,
    }


def ids_from_reply(entry_type: EntryType, reply: bytes) -> tuple[UUID, UUID]:
    """Return the ids of the budget and of the charge, refund or hold from the reply to a posting."""
    if entry_type in {EntryType.CHARGE, EntryType.REFUND}:
        entry = (Charge if entry_type is EntryType.CHARGE else Refund).FromString(reply)
        return ids.BUDGET.parse(entry.budget_id), ids.ENTRY.parse(entry.id)
    hold = Hold.FromString(reply)
    return ids.BUDGET.parse(hold.budget_id), ids.HOLD.parse(hold.id)


def results_to_proto(outcomes: Sequence[bytes | Replayed | BillingError]) -> pb.BatchChargeResponse:
    """Return the outcomes of the charges of a batch."""
    response = pb.BatchChargeResponse()
    for outcome in outcomes:
        _add_result(response.results.add(), outcome)
    response.refused_count = sum(isinstance(outcome, BillingError) for outcome in outcomes)
    response.accepted_count = len(outcomes) - response.refused_count
    return response


def _add_result(result: pb.ChargeResult, outcome: bytes | Replayed | BillingError) -> None:
    if isinstance(outcome, bytes):
        result.charge.ParseFromString(outcome)
    elif isinstance(outcome, Replayed):
        result.charge.ParseFromString(outcome.reply)
        result.replayed = True
    else:
        refusal = result.refusal
        refusal.code, refusal.reason, refusal.message = outcome.code.name, outcome.reason, outcome.message
        refusal.metadata.update(outcome.metadata)
