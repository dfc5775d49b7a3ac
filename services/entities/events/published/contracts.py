"""Builders of the events about contracts and their amendments."""

from datetime import date

from billing.entities.v1.events_pb2 import (
    AmendmentRejected,
    AmendmentSubmitted,
    ContractActivated,
    ContractAmended,
    ContractExpired,
    ContractRenewalDue,
    ContractRenewed,
    ContractResumed,
    ContractSubmitted,
    ContractSuspended,
    ContractTerminated,
    ContractWithdrawn,
    PurchaseOrderLimitReached,
)

from contract.values import date_text, money_to_proto
from kit import ids
from services.entities import domain
from services.entities.domain.approval_needs import ApprovalNeed
from services.entities.domain.contracts import ContractTerms
from services.entities.domain.purchase_orders import PurchaseOrderUse
from services.entities.models.amendments import AmendmentRow
from services.entities.models.contracts import ContractRow


def contract_submitted(contract: ContractRow, need: ApprovalNeed, submitted_by: str) -> ContractSubmitted:
    """Return the event that a contract awaits approval."""
    return ContractSubmitted(
        contract_id=ids.CONTRACT.format(contract.id),
        entity_id=ids.ENTITY.format(contract.entity_id),
        contract_number=contract.contract_number,
        name=contract.name,
        contract_type=contract.contract_type,
        total_value=money_to_proto(need.amount),
        attributes=need.attributes,
        submission=contract.version,
        submitted_by=submitted_by,
    )


def amendment_submitted(
    contract: ContractRow, amendment: AmendmentRow, need: ApprovalNeed, submitted_by: str
) -> AmendmentSubmitted:
    """Return the event that an amendment awaits approval."""
    return AmendmentSubmitted(
        amendment_id=ids.AMENDMENT.format(amendment.id),
        contract_id=ids.CONTRACT.format(contract.id),
        entity_id=ids.ENTITY.format(contract.entity_id),
        contract_number=contract.contract_number,
        number=amendment.number,
        amendment_type=amendment.amendment_type,
        contract_type=contract.contract_type,
        total_value=money_to_proto(need.amount),
        old_total_value=money_to_proto(amendment.effect.old_total),
        new_total_value=money_to_proto(amendment.effect.new_total),
        attributes=need.attributes,
        reason=amendment.reason,
        submitted_by=submitted_by,
    )


def contract_withdrawn(contract: ContractRow) -> ContractWithdrawn:
    """Return the event that a contract no longer awaits approval, since it was withdrawn."""
    return ContractWithdrawn(
        contract_id=ids.CONTRACT.format(contract.id), entity_id=ids.ENTITY.format(contract.entity_id)
    )


def contract_activated(contract: ContractRow) -> ContractActivated:
    """Return the event that a contract was activated."""
    return ContractActivated(
        contract_id=ids.CONTRACT.format(contract.id),
        entity_id=ids.ENTITY.format(contract.entity_id),
        contract_number=contract.contract_number,
        contract_type=contract.contract_type,
        license_tier=contract.license_tier,
        seats=contract.seats,
        start_date=contract.start_date.isoformat(),
        end_date=date_text(contract.end_date),
        total_value=money_to_proto(contract.money(contract.total_value)),
        renewed_from_id=ids.CONTRACT.format_optional(contract.renewed_from_id),
    )


def contract_renewal_due(contract: ContractRow, end: date, renewal: ContractTerms) -> ContractRenewalDue:
    """Return the event that the end of a contract is near; `renewal` has the terms of a renewal as agreed."""
    return ContractRenewalDue(
        contract_id=ids.CONTRACT.format(contract.id),
        entity_id=ids.ENTITY.format(contract.entity_id),
        contract_number=contract.contract_number,
        end_date=end.isoformat(),
        notice_date=domain.contracts.notice_date(end, contract.renewal_notice_days).isoformat(),
        auto_renew=domain.contracts.renews_automatically(contract.terms, contract.state, contract.termination_date),
        renewal_value=money_to_proto(renewal.total_value),
    )


def contract_renewed(contract: ContractRow, successor: ContractRow, *, automatic: bool) -> ContractRenewed:
    """Return the event that a contract ended and its successor took over."""
    return ContractRenewed(
        contract_id=ids.CONTRACT.format(contract.id),
        entity_id=ids.ENTITY.format(contract.entity_id),
        renewed_to_id=ids.CONTRACT.format(successor.id),
        automatic=automatic,
    )


def contract_suspended(contract: ContractRow) -> ContractSuspended:
    """Return the event that a contract was suspended."""
    return ContractSuspended(
        contract_id=ids.CONTRACT.format(contract.id),
        entity_id=ids.ENTITY.format(contract.entity_id),
        reason=contract.suspension_reason,
    )


def contract_resumed(contract: ContractRow) -> ContractResumed:
    """Return the event that the suspension of a contract ended."""
    return ContractResumed(
        contract_id=ids.CONTRACT.format(contract.id), entity_id=ids.ENTITY.format(contract.entity_id)
    )


def contract_terminated(contract: ContractRow, day: date) -> ContractTerminated:
    """Return the event that a contract is terminated from `day` on."""
    return ContractTerminated(
        contract_id=ids.CONTRACT.format(contract.id),
        entity_id=ids.ENTITY.format(contract.entity_id),
        termination_date=day.isoformat(),
        reason=contract.termination_reason,
        for_cause=contract.terminated_for_cause,
    )


def contract_expired(contract: ContractRow, end: date) -> ContractExpired:
    """Return the event that a contract ended without a renewal."""
    return ContractExpired(
        contract_id=ids.CONTRACT.format(contract.id),
        entity_id=ids.ENTITY.format(contract.entity_id),
        end_date=end.isoformat(),
    )


def contract_amended(contract: ContractRow, amendment: AmendmentRow) -> ContractAmended:
    """Return the event that an amendment was applied."""
    terms, effect = contract.terms, amendment.effect
    return ContractAmended(
        contract_id=ids.CONTRACT.format(contract.id),
        entity_id=ids.ENTITY.format(contract.entity_id),
        contract_number=contract.contract_number,
        amendment_id=ids.AMENDMENT.format(amendment.id),
        number=amendment.number,
        amendment_type=amendment.amendment_type,
        effective_date=amendment.effective_date.isoformat(),
        changed=sorted(name for name, value in amendment.after.items() if amendment.before[name] != value),
        license_tier=contract.license_tier,
        seats=contract.seats,
        fee=money_to_proto(domain.fees.fee_on(domain.fees.build_plan(terms), amendment.effective_date)),
        prorated_difference=money_to_proto(effect.new_part - effect.old_part),
        end_date=date_text(contract.end_date),
        total_value=money_to_proto(terms.total_value),
    )


def amendment_rejected(contract: ContractRow, amendment: AmendmentRow) -> AmendmentRejected:
    """Return the event that an amendment was rejected."""
    return AmendmentRejected(
        contract_id=ids.CONTRACT.format(contract.id),
        entity_id=ids.ENTITY.format(contract.entity_id),
        amendment_id=ids.AMENDMENT.format(amendment.id),
        reason=amendment.rejection_reason,
    )


def purchase_order_limit_reached(
    contract: ContractRow, use: PurchaseOrderUse, threshold_bp: int
) -> PurchaseOrderLimitReached:
    """Return the event that the fees of a contract have reached a threshold of its purchase order."""
    return PurchaseOrderLimitReached(
        contract_id=ids.CONTRACT.format(contract.id),
        entity_id=ids.ENTITY.format(contract.entity_id),
        contract_number=contract.contract_number,
        purchase_order_number=contract.purchase_order_number,
        purchase_order_limit=money_to_proto(use.used + use.remaining),
        used=money_to_proto(use.used),
        threshold_bp=threshold_bp,
        exceed_date=date_text(use.exceed_date),
    )
