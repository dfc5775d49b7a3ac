"""Amendments."""

from datetime import date
from typing import Any

from billing.entities.v1 import amendment_service_pb2
from billing.entities.v1.amendment_pb2 import AmendedFee as AmendedFeeMessage
from billing.entities.v1.amendment_pb2 import AmendedTerms, Amendment, AmendmentEffect
from billing.entities.v1.contract_pb2 import ContractPhase
from billing.entities.v1.contract_pb2 import SlaTerms as SlaTermsMessage

from contract.values import date_from_text, money_from_proto, money_to_proto, time_to_proto
from kit import ids
from kit.money import Money
from services.entities.domain.amendments import AmendedFee, AmendmentType, Changes, Effect
from services.entities.domain.contracts import Phase, SlaTerms
from services.entities.domain.fees import HORIZON
from services.entities.models.amendments import AmendmentRow
from services.entities.service.amendments import AmendmentDraft


def amendment_to_proto(row: AmendmentRow, *, tried: bool = False, listed: bool = False) -> Amendment:
    """An amendment; one that was only tried has no id, and one in a list does not show each fee."""
    return Amendment(
        id="" if tried else ids.AMENDMENT.format(row.id),
        contract_id=ids.CONTRACT.format(row.contract_id),
        number=row.number,
        amendment_type=Amendment.Type.Value(row.amendment_type),
        effective_date=row.effective_date.isoformat(),
        before=_terms_to_proto(row.before),
        after=_terms_to_proto(row.after),
        effect=_effect_to_proto(row.effect, listed=listed),
        reason=row.reason,
        state=Amendment.State.Value(row.state),
        approved_by=row.approved_by,
        approve_time=time_to_proto(row.approve_time) if row.approve_time else None,
        apply_time=time_to_proto(row.apply_time) if row.apply_time else None,
        rejection_reason=row.rejection_reason,
        awaits_approval=row.awaits_approval,
        etag="" if tried else row.etag,
        create_time=time_to_proto(row.create_time),
        update_time=time_to_proto(row.update_time),
    )


def _terms_to_proto(changes: Changes) -> AmendedTerms:
    """The terms that are changed; of those that a contract need not have, one that it has not is left out."""
    return AmendedTerms(
        **{name: _term_to_proto(value) for name, value in changes.items() if value is not None or name == "end_date"}
    )


def _term_to_proto(value: Any) -> Any:
    match value:
        case None:
            return ""
        case date():
            return value.isoformat()
        case Money():
            return money_to_proto(value)
        case SlaTerms(uptime_bp, response_hours, credit_bp):
            return SlaTermsMessage(uptime_bp=uptime_bp, response_hours=response_hours, credit_bp=credit_bp)
        case tuple():
            return [
                ContractPhase(start_date=phase.start_date.isoformat(), fee=money_to_proto(phase.fee)) for phase in value
            ]
    return value


def _effect_to_proto(effect: Effect, *, listed: bool) -> AmendmentEffect:
    return AmendmentEffect(
        period_start_date=effect.period.start.isoformat(),
        period_end_date=_end_text(effect.period.end),
        old_part=money_to_proto(effect.old_part),
        new_part=money_to_proto(effect.new_part),
        difference=money_to_proto(effect.new_part - effect.old_part),
        fees=() if listed else map(_fee_to_proto, effect.fees),
        old_total_value=money_to_proto(effect.old_total),
        new_total_value=money_to_proto(effect.new_total),
    )


def _fee_to_proto(fee: AmendedFee) -> AmendedFeeMessage:
    return AmendedFeeMessage(
        number=fee.number,
        start_date=fee.days.start.isoformat(),
        end_date=_end_text(fee.days.end),
        old_fee=money_to_proto(fee.old),
        new_fee=money_to_proto(fee.new),
        difference=money_to_proto(fee.new - fee.old),
    )


def _end_text(end: date) -> str:
    return end.isoformat() if end < HORIZON else ""


def amendment_draft_from_proto(request: amendment_service_pb2.CreateAmendmentRequest) -> AmendmentDraft:
    """What CreateAmendment asks for."""
    return AmendmentDraft(
        amendment_type=AmendmentType(Amendment.Type.Name(request.amendment_type)),
        effective_date=date.fromisoformat(request.effective_date),
        after=_changes_from_proto(request.after),
        reason=request.reason,
    )


def _changes_from_proto(message: AmendedTerms) -> Changes:
    changes = {field.name: _term(field.name, value) for field, value in message.ListFields()}
    if "fee" in changes:
        changes.setdefault("phases", ())  # a new fee replaces those that came after its day
    return changes


def _term(name: str, value: Any) -> Any:
    match name:
        case "end_date":
            return date_from_text(value)
        case "fee" | "minimum_commitment" | "purchase_order_limit":
            return money_from_proto(value)
        case "phases":
            return tuple(Phase(date.fromisoformat(each.start_date), money_from_proto(each.fee)) for each in value)
        case "sla_terms":
            return SlaTerms(value.uptime_bp, value.response_hours, value.credit_bp)
    return value
