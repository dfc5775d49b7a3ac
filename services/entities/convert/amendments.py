"""Conversion of amendments."""

from datetime import date
from typing import Any

from billing.entities.v1 import amendment_service_pb2 as pb
from billing.entities.v1.amendment_pb2 import AmendedFee as AmendedFeeMessage
from billing.entities.v1.amendment_pb2 import AmendedTerms, Amendment
from billing.entities.v1.amendment_pb2 import AmendmentEffect as AmendmentEffectMessage

from contract.values import date_from_text, date_text, enum_or_none, money_from_proto, money_to_proto, time_to_proto
from kit import ids
from kit.money import Money
from services.entities import convert
from services.entities.domain.amendments import (
    AmendedFee,
    AmendmentDraft,
    AmendmentEffect,
    AmendmentFilter,
    AmendmentState,
    AmendmentType,
    TermValues,
)
from services.entities.domain.contracts import SlaTerms
from services.entities.domain.fees import HORIZON
from services.entities.models.amendments import AmendmentRow


def to_proto(row: AmendmentRow, *, dry_run: bool = False, include_fees: bool = True) -> Amendment:
    """Convert an amendment: without id and etag for a dry run, and with the fees of each period if `include_fees`."""
    return Amendment(
        id="" if dry_run else ids.AMENDMENT.format(row.id),
        contract_id=ids.CONTRACT.format(row.contract_id),
        number=row.number,
        amendment_type=Amendment.Type.Value(row.amendment_type),
        effective_date=row.effective_date.isoformat(),
        before=_terms_to_proto(row.before),
        after=_terms_to_proto(row.after),
        effect=_effect_to_proto(row.effect, include_fees=include_fees),
        reason=row.reason,
        state=Amendment.State.Value(row.state),
        approved_by=row.approved_by,
        approve_time=time_to_proto(row.approve_time) if row.approve_time else None,
        apply_time=time_to_proto(row.apply_time) if row.apply_time else None,
        rejection_reason=row.rejection_reason,
        awaits_approval=row.awaits_approval,
        approval_problem=row.approval_problem,
        etag="" if dry_run else row.etag,
        create_time=time_to_proto(row.create_time),
        update_time=time_to_proto(row.update_time),
    )


def _terms_to_proto(values: TermValues) -> AmendedTerms:
    """Convert the values of changed terms. None is not set, except for `end_date`, where it is empty text."""
    return AmendedTerms(
        **{name: _term_to_proto(value) for name, value in values.items() if value is not None or name == "end_date"}
    )


def _term_to_proto(value: Any) -> Any:
    match value:
        case None:
            return ""
        case date():
            return value.isoformat()
        case Money():
            return money_to_proto(value)
        case SlaTerms():
            return convert.contracts.sla_terms_to_proto(value)
        case tuple():
            return map(convert.contracts.phase_to_proto, value)
    return value


def _effect_to_proto(effect: AmendmentEffect, *, include_fees: bool) -> AmendmentEffectMessage:
    return AmendmentEffectMessage(
        period_start_date=effect.period.start.isoformat(),
        period_end_date=_end_text(effect.period.end),
        old_part=money_to_proto(effect.old_part),
        new_part=money_to_proto(effect.new_part),
        difference=money_to_proto(effect.new_part - effect.old_part),
        fees=map(_fee_to_proto, effect.fees) if include_fees else (),
        old_total_value=money_to_proto(effect.old_total),
        new_total_value=money_to_proto(effect.new_total),
    )


def _fee_to_proto(fee: AmendedFee) -> AmendedFeeMessage:
    return AmendedFeeMessage(
        number=fee.number,
        start_date=fee.dates.start.isoformat(),
        end_date=_end_text(fee.dates.end),
        old_fee=money_to_proto(fee.old),
        new_fee=money_to_proto(fee.new),
        difference=money_to_proto(fee.new - fee.old),
    )


def _end_text(end: date) -> str:
    """Convert the end of a billing period; empty if the period reaches the horizon, since then it has no end."""
    return date_text(end if end < HORIZON else None)


def draft_from_proto(request: pb.CreateAmendmentRequest) -> AmendmentDraft:
    """Convert an amendment to be created."""
    return AmendmentDraft(
        amendment_type=AmendmentType(Amendment.Type.Name(request.amendment_type)),
        effective_date=date.fromisoformat(request.effective_date),
        after={field.name: _term_from_proto(field.name, value) for field, value in request.after.ListFields()},
        reason=request.reason,
    )


def _term_from_proto(name: str, value: Any) -> Any:
    match name:
        case "end_date":
            return date_from_text(value)
        case "fee" | "minimum_commitment" | "purchase_order_limit":
            return money_from_proto(value)
        case "phases":
            return tuple(map(convert.contracts.phase_from_proto, value))
        case "sla_terms":
            return convert.contracts.sla_terms_from_proto(value)
    return value


def filter_from_proto(request: pb.ListAmendmentsRequest) -> AmendmentFilter:
    """Convert the filters of ListAmendments."""
    return AmendmentFilter(
        state=enum_or_none(AmendmentState, Amendment.State, request.state),
        amendment_type=enum_or_none(AmendmentType, Amendment.Type, request.amendment_type),
    )
