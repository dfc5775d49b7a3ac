"""What moves balances: requests to lines, and what they did to messages."""

from collections.abc import Sequence
from decimal import Decimal
from typing import TYPE_CHECKING
from uuid import UUID

from billing.budgets.v1 import ledger_service_pb2 as pb
from billing.budgets.v1.budget_pb2 import Budget
from billing.budgets.v1.charge_pb2 import (
    Availability,
    ChainBudget,
    Charge,
    Refund,
)
from billing.budgets.v1.entry_pb2 import Entry
from billing.budgets.v1.hold_pb2 import Hold
from billing.type.v1.money_pb2 import Money as MoneyMessage

from contract.values import money_from_proto, money_to_proto, set_money, time_from_proto, time_to_proto
from kit import idempotency, ids
from kit.errors import BillingError
from kit.money import Money
from kit.origin import Call, Origin
from services.budgets import convert
from services.budgets.domain.balances import Balance
from services.budgets.domain.entries import EntryType
from services.budgets.domain.funds import Ended, Overspend
from services.budgets.models.ledger import EntryRow
from services.budgets.service.checks import Answer, Ask
from services.budgets.service.moves import Line, Moved, Outcome, Replayed

if TYPE_CHECKING:
    from google.protobuf.internal.containers import RepeatedCompositeFieldContainer

CHARGE = "billing.budgets.v1.LedgerService/Charge"
"""Under this name the keys of charges are kept, of those of a batch as well."""


def charge_line(request: pb.ChargeRequest, call: Call) -> Line:
    """What Charge asks for."""
    return Line(
        origin=call,
        entry_type=EntryType.CHARGE,
        budget_id=ids.BUDGET.parse(request.id),
        amount=money_from_proto(request.amount),
        request=(call.tenant_id, CHARGE, request.request_id),
        fingerprint=call.fingerprint or idempotency.fingerprint(request, call.actor),
        description=request.description,
        reference=request.reference,
        charge_time=time_from_proto(request.charge_time) if request.HasField("charge_time") else None,
        answer=charge_to_proto,
    )


def refund_line(request: pb.RefundChargeRequest, call: Call) -> Line:
    """What RefundCharge asks for."""
    return Line(
        origin=call,
        entry_type=EntryType.REFUND,
        budget_id=ids.BUDGET.parse(request.id),
        charge_id=ids.ENTRY.parse(request.charge_id, "charge_id"),
        amount=money_from_proto(request.amount) if request.HasField("amount") else None,
        request=(call.tenant_id, call.method, call.key),
        fingerprint=call.fingerprint,
        description=request.reason,
        answer=refund_to_proto,
    )


def hold_line(request: pb.CreateHoldRequest, call: Call) -> Line:
    """What CreateHold asks for."""
    return Line(
        origin=call,
        entry_type=EntryType.HOLD,
        budget_id=ids.BUDGET.parse(request.id),
        amount=money_from_proto(request.amount),
        request=(call.tenant_id, call.method, call.key),
        fingerprint=call.fingerprint,
        description=request.description,
        reference=request.reference,
        expire_time=time_from_proto(request.expire_time) if request.HasField("expire_time") else None,
        answer=moved_hold_to_proto,
    )


def approval_hold_line(request: pb.HoldForApprovalRequest, call: Call) -> Line:
    """What HoldForApproval asks for."""
    return Line(
        origin=call,
        entry_type=EntryType.HOLD,
        budget_id=ids.BUDGET.parse(request.budget_id, "budget_id"),
        amount=money_from_proto(request.amount),
        request=(call.tenant_id, call.method, call.key),
        # Whoever goes on with an opening asks for the same: a user, or the clock.
        fingerprint=idempotency.fingerprint(request, ""),
        description=request.description,
        reference=request.approval_id,
        approval_id=ids.APPROVAL.parse(request.approval_id, "approval_id"),
        answer=moved_hold_to_proto,
    )


def round_from_proto(request: pb.ReleaseForApprovalRequest) -> Ended:
    """The round of an approval request whose money is called off."""
    return Ended(
        approval_id=ids.APPROVAL.parse(request.approval_id, "approval_id"),
        round=request.round,
        budget_id=ids.BUDGET.parse(request.budget_id, "budget_id"),
        hold_id=None,
        amount=None,
        raises=False,
        title="",
    )


def overspend_from_proto(request: pb.ChargeRequest | pb.CreateHoldRequest) -> Overspend:
    """What somebody wants to spend beyond the limit, if that is approved."""
    return Overspend(
        budget_id=ids.BUDGET.parse(request.id),
        amount=money_from_proto(request.amount),
        description=request.description,
        reference=request.reference,
        key=f"{request.DESCRIPTOR.name}:{request.request_id}",
    )


def review_to_proto(budget: Budget, answer: Answer) -> pb.FundsReview:
    """How a budget stands, and what a charge would meet."""
    verdict = Availability.Verdict.Value(answer.availability.verdict)
    return pb.FundsReview(budget=budget, amount=money_to_proto(answer.amount), verdict=verdict)


def change_line(
    request: pb.CommitHoldRequest | pb.CaptureHoldRequest | pb.ReleaseHoldRequest, call: Call, entry_type: EntryType
) -> Line:
    """What CommitHold, CaptureHold and ReleaseHold ask for."""
    line = Line(
        origin=call,
        entry_type=entry_type,
        budget_id=ids.BUDGET.parse(request.id),
        hold_id=ids.HOLD.parse(request.hold_id, "hold_id"),
        request=(call.tenant_id, call.method, call.key),
        fingerprint=call.fingerprint,
        answer=moved_hold_to_proto,
    )
    if not isinstance(request, pb.CommitHoldRequest) and request.HasField("amount"):
        line.amount = money_from_proto(request.amount)
    if isinstance(request, pb.CaptureHoldRequest):
        line.description, line.reference = request.description, request.reference
        line.charge_time = time_from_proto(request.charge_time) if request.HasField("charge_time") else None
        line.release_rest = request.release_rest
    return line


def expiry_line(hold_id: UUID, origin: Origin) -> Line:
    """What the clock asks for."""
    return Line(origin=origin, entry_type=EntryType.EXPIRE, budget_id=None, hold_id=hold_id, answer=moved_hold_to_proto)


def charge_to_proto(moved: Moved) -> Charge:
    """A charge that was taken just now."""
    entry, (verdict, before, after) = moved.entry, moved.decision
    terms = after[0].terms
    charge = Charge(
        id=ids.ENTRY.format(entry.id),
        request_id=entry.request_id or "",
        budget_id=ids.BUDGET.format(terms.id),
        verdict=Charge.Verdict.Value(verdict),
        description=entry.description,
        reference=entry.reference,
        actor=entry.actor,
        charge_time=time_to_proto(entry.charge_time),
        create_time=time_to_proto(entry.create_time),
    )
    set_money(charge.amount, Money(entry.amount, terms.currency))
    _fill(charge.chain, before, after)
    if entry.original:
        set_money(charge.original_amount, entry.original)
        charge.rate = convert.numbers.rate_text(entry.rate)
        charge.rate_date = entry.rate_date.isoformat() if entry.rate_date else ""
    return charge


def refund_to_proto(moved: Moved) -> Refund:
    """A refund that was made just now."""
    entry, refund, charged = moved.entry, moved.refund, moved.charged
    if refund is None or charged is None:
        raise ValueError("it is no refund")
    refundable = charged.amount.amount - charged.refunded - refund.amount.amount
    converted = refund.original.currency != refund.amount.currency
    made = Refund(
        id=ids.ENTRY.format(entry.id),
        request_id=entry.request_id or "",
        budget_id=ids.BUDGET.format(charged.budget_id),
        charge_id=ids.ENTRY.format(charged.id),
        amount=money_to_proto(refund.amount),
        original_amount=money_to_proto(refund.original) if converted else None,
        refundable=money_to_proto(Money(refundable, refund.amount.currency)),
        reason=entry.description,
        actor=entry.actor,
        create_time=time_to_proto(entry.create_time),
    )
    _fill(made.chain, moved.decision.before, moved.decision.after)
    return made


def moved_hold_to_proto(moved: Moved) -> Hold:
    """A hold that was made or changed just now."""
    if moved.hold is None:
        raise ValueError("no hold was moved")
    return convert.holds.hold_to_proto(moved.hold)


def results_to_proto(outcomes: Sequence[Outcome]) -> pb.BatchChargeResponse:
    """What came of the lines of a batch."""
    told = pb.BatchChargeResponse()
    for outcome in outcomes:
        _tell(told.results.add(), outcome)
    told.refused_count = sum(isinstance(outcome, BillingError) for outcome in outcomes)
    told.accepted_count = len(outcomes) - told.refused_count
    return told


def _tell(result: pb.ChargeResult, outcome: Outcome) -> None:
    if isinstance(outcome, Replayed):
        result.charge.ParseFromString(outcome.reply)
        result.replayed = True
    elif isinstance(outcome, BillingError):
        refusal = result.refusal
        refusal.code, refusal.reason, refusal.message = outcome.code.name, outcome.reason, outcome.message
        refusal.metadata.update(outcome.metadata)
    elif isinstance(outcome, Charge):
        result.charge.CopyFrom(outcome)
    else:
        raise TypeError("a line of a batch is answered by a charge")


def _fill(
    chain: "RepeatedCompositeFieldContainer[ChainBudget]", before: Sequence[Balance], after: Sequence[Balance]
) -> None:
    """Field by field: to make messages and copy them in takes four times as long, for every charge."""
    for had, left in zip(before, after, strict=True):
        terms, available = left.terms, left.available
        told = chain.add(
            budget_id=ids.BUDGET.format(terms.id),
            name=terms.name,
            utilisation_bp=left.utilisation_bp,
            overspent=available < 0,
        )
        set_money(told.available_before, Money(had.available, terms.currency))
        set_money(told.available_after, Money(available, terms.currency))


def asks_from_proto(request: pb.CheckAvailabilityRequest) -> list[Ask]:
    """What CheckAvailability asks about."""
    first = Ask(ids.BUDGET.parse(request.id), money_from_proto(request.amount))
    return [
        first,
        *[
            Ask(ids.BUDGET.parse(line.budget_id, f"lines[{at}].budget_id") if line.budget_id else first.budget_id,
                money_from_proto(line.amount))
            for at, line in enumerate(request.lines)
        ],
    ]  # fmt: skip


def availability_to_proto(answers: Sequence[Answer]) -> Availability:
    """What a charge would meet, and what those after it would."""
    asked = answers[0].availability
    told = Availability(
        verdict=Availability.Verdict.Value(asked.verdict),
        binding_budget_id=ids.BUDGET.format(asked.binding),
        explanation=asked.explanation,
    )
    _fill(told.chain, asked.before, asked.after)
    for policy, verdict in asked.by_policy.items():
        told.by_policy.add(policy=Budget.OverspendPolicy.Value(policy), verdict=Availability.Verdict.Value(verdict))
    for answer in answers[1:]:
        availability = answer.availability
        line = told.lines.add(
            budget_id=ids.BUDGET.format(answer.balance.terms.id),
            verdict=Availability.Verdict.Value(availability.verdict),
            binding_budget_id=ids.BUDGET.format(availability.binding),
            explanation=availability.explanation,
        )
        set_money(line.amount, answer.amount)
        _fill(line.chain, availability.before, availability.after)
    return told


def entry_to_proto(row: EntryRow, of: UUID) -> Entry:
    """An entry of the ledger, as the budget `of` sees it."""
    place = row.chain_ids.index(of)

    def after(amounts: Sequence[Decimal]) -> MoneyMessage:
        return money_to_proto(Money(amounts[place], row.currency_code))

    return Entry(
        id=ids.ENTRY.format(row.id),
        entry_type=Entry.Type.Value(row.entry_type),
        budget_id=ids.BUDGET.format(row.budget_id),
        amount=money_to_proto(Money(row.amount, row.currency_code)),
        budget_amount_after=after(row.chain_amounts),
        spent_after=after(row.chain_spent),
        held_after=after(row.chain_held),
        committed_after=after(row.chain_committed),
        ledger_version=row.chain_versions[place],
        request_id=row.request_id or "",
        description=row.description,
        reference=row.reference,
        actor=row.actor,
        charge_time=time_to_proto(row.charge_time),
        create_time=time_to_proto(row.create_time),
        hold_id=ids.HOLD.format_optional(row.hold_id),
        charge_id=ids.ENTRY.format_optional(row.charge_id),
        counterpart_budget_id=ids.BUDGET.format_optional(row.counterpart_id),
        original_amount=_original(row),
        rate=convert.numbers.rate_text(row.rate),
        rate_date=row.rate_date.isoformat() if row.rate_date else "",
        fx_effect=_fx_effect(row),
    )


def _original(row: EntryRow) -> MoneyMessage | None:
    if row.original_amount is None or row.original_currency is None:
        return None
    return money_to_proto(Money(row.original_amount, row.original_currency))


def _fx_effect(row: EntryRow) -> MoneyMessage | None:
    if row.plan_amount is None:
        return None
    return money_to_proto(Money(row.amount - row.plan_amount, row.currency_code))
