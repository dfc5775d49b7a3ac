"""Conversion of contracts."""

from collections.abc import Mapping
from datetime import date
from typing import Any, Final

from billing.entities.v1 import contract_service_pb2 as pb
from billing.entities.v1.contract_pb2 import Contract, ContractPhase, ContractSignature
from billing.entities.v1.contract_pb2 import PurchaseOrderUse as PurchaseOrderUseMessage
from billing.entities.v1.contract_pb2 import SlaTerms as SlaTermsMessage
from billing.entities.v1.renewal_pb2 import ContractSummary
from billing.type.v1.money_pb2 import Money as MoneyMessage

from contract.values import (
    date_from_text,
    date_text,
    enum_or_none,
    money_from_proto,
    money_or_none,
    money_to_proto,
    time_to_proto,
)
from kit import ids
from kit.money import Money
from services.entities import convert, domain
from services.entities.domain.contracts import (
    RENEWAL_NOTICE_DAYS_DEFAULT,
    RENEWAL_TERM_MONTHS_DEFAULT,
    BillingFrequency,
    ContractFilter,
    ContractState,
    ContractTerms,
    ContractTotals,
    ContractType,
    Party,
    Phase,
    SignatureDraft,
    SlaTerms,
    TerminationRequest,
)
from services.entities.domain.purchase_orders import PurchaseOrderUse
from services.entities.models.contracts import ContractDetails, ContractRow, SignatureRow

_NO_DETAILS: Final = ContractDetails()


def to_proto(row: ContractRow, details: ContractDetails = _NO_DETAILS) -> Contract:
    """Convert a contract with its signatures and the use of its purchase order."""
    terms, use = row.terms, details.purchase_order_use
    return Contract(
        id=ids.CONTRACT.format(row.id),
        entity_id=ids.ENTITY.format(row.entity_id),
        contract_number=row.contract_number,
        name=row.name,
        contract_type=Contract.Type.Value(row.contract_type),
        start_date=row.start_date.isoformat(),
        end_date=date_text(row.end_date),
        total_value=money_to_proto(terms.total_value),
        billing_frequency=Contract.BillingFrequency.Value(row.billing_frequency),
        phases=map(phase_to_proto, terms.phases),
        minimum_commitment=_optional_money_to_proto(terms.minimum_commitment),
        license_tier=row.license_tier,
        seats=row.seats,
        payment_terms_days=row.payment_terms_days,
        purchase_order_number=row.purchase_order_number,
        purchase_order_limit=_optional_money_to_proto(terms.purchase_order_limit),
        auto_renew=row.auto_renew,
        renewal_term_months=row.renewal_term_months,
        renewal_notice_days=row.renewal_notice_days,
        renewal_uplift_bp=row.renewal_uplift_bp,
        sla_terms=sla_terms_to_proto(terms.sla_terms) if terms.sla_terms else None,
        signatures=map(_signature_to_proto, details.signatures),
        renewed_from_id=ids.CONTRACT.format_optional(row.renewed_from_id),
        renewed_to_id=ids.CONTRACT.format_optional(row.renewed_to_id),
        license_state=Contract.LicenseState.Value(row.license_state),
        license_id=row.license_id,
        license_problem=row.license_problem,
        state=Contract.State.Value(row.state),
        activate_time=time_to_proto(row.activate_time) if row.activate_time else None,
        suspend_time=time_to_proto(row.suspend_time) if row.suspend_time else None,
        suspension_reason=row.suspension_reason,
        termination_date=date_text(row.termination_date),
        termination_reason=row.termination_reason,
        terminated_for_cause=row.terminated_for_cause,
        etag=row.etag,
        create_time=time_to_proto(row.create_time),
        update_time=time_to_proto(row.update_time),
        purchase_order_use=_use_to_proto(use) if use else None,
        approval_problem=row.approval_problem,
        renews_automatically=domain.contracts.renews_automatically(terms, row.state, row.termination_date),
        anchor_day=domain.contracts.anchor_day_on(row.start_date, terms),
    )


def _use_to_proto(use: PurchaseOrderUse) -> PurchaseOrderUseMessage:
    return PurchaseOrderUseMessage(
        used=money_to_proto(use.used),
        remaining=money_to_proto(use.remaining),
        state=PurchaseOrderUseMessage.State.Value(use.state),
        exceed_date=date_text(use.exceed_date),
    )


def _optional_money_to_proto(money: Money | None) -> MoneyMessage | None:
    return money_to_proto(money) if money else None


def phase_to_proto(phase: Phase) -> ContractPhase:
    """Convert a phase of a contract or an amendment."""
    return ContractPhase(start_date=phase.start_date.isoformat(), fee=money_to_proto(phase.fee))


def sla_terms_to_proto(sla: SlaTerms) -> SlaTermsMessage:
    """Convert the SLA terms of a contract or an amendment."""
    return SlaTermsMessage(uptime_bp=sla.uptime_bp, response_hours=sla.response_hours, credit_bp=sla.credit_bp)


def _signature_to_proto(row: SignatureRow) -> ContractSignature:
    return ContractSignature(
        party=ContractSignature.Party.Value(row.party),
        signer_name=row.signer_name,
        signer_title=row.signer_title,
        document_digest=row.document_digest,
        recorded_by=row.recorded_by,
        create_time=time_to_proto(row.create_time),
    )


def terms_from_proto(request: pb.CreateContractRequest) -> ContractTerms:
    """Convert the terms of a new contract, with the defaults of fields that are not set."""
    months, notice_days = RENEWAL_TERM_MONTHS_DEFAULT, RENEWAL_NOTICE_DAYS_DEFAULT
    return ContractTerms(
        contract_number=request.contract_number,
        name=request.name,
        contract_type=_contract_type(request.contract_type),
        start_date=date.fromisoformat(request.start_date),
        end_date=date_from_text(request.end_date),
        total_value=money_from_proto(request.total_value),
        billing_frequency=_billing_frequency(request.billing_frequency),
        phases=tuple(map(phase_from_proto, request.phases)),
        minimum_commitment=money_or_none(request, "minimum_commitment"),
        license_tier=request.license_tier,
        seats=request.seats,
        payment_terms_days=request.payment_terms_days if request.HasField("payment_terms_days") else None,
        purchase_order_number=request.purchase_order_number,
        purchase_order_limit=money_or_none(request, "purchase_order_limit"),
        auto_renew=request.auto_renew,
        renewal_term_months=request.renewal_term_months if request.HasField("renewal_term_months") else months,
        renewal_notice_days=request.renewal_notice_days if request.HasField("renewal_notice_days") else notice_days,
        renewal_uplift_bp=request.renewal_uplift_bp,
        sla_terms=sla_terms_from_proto(request.sla_terms) if request.HasField("sla_terms") else None,
    )


def _contract_type(value: Contract.Type.ValueType) -> ContractType:
    return ContractType(Contract.Type.Name(value))


def _billing_frequency(value: Contract.BillingFrequency.ValueType) -> BillingFrequency:
    return BillingFrequency(Contract.BillingFrequency.Name(value))


def phase_from_proto(message: ContractPhase) -> Phase:
    """Convert a phase of a contract or an amendment."""
    return Phase(date.fromisoformat(message.start_date), money_from_proto(message.fee))


def sla_terms_from_proto(message: SlaTermsMessage) -> SlaTerms:
    """Convert the SLA terms of a contract or an amendment."""
    return SlaTerms(message.uptime_bp, message.response_hours, message.credit_bp)


_CLEARED: Final[Mapping[str, Any]] = {
    "end_date": None,
    "phases": (),
    "minimum_commitment": None,
    "license_tier": "",
    "seats": 0,
    "payment_terms_days": None,
    "purchase_order_number": "",
    "purchase_order_limit": None,
    "auto_renew": False,
    "renewal_term_months": RENEWAL_TERM_MONTHS_DEFAULT,
    "renewal_notice_days": RENEWAL_NOTICE_DAYS_DEFAULT,
    "renewal_uplift_bp": 0,
    "sla_terms": None,
}
"""The value of each term after it was cleared; other terms are required."""

_CONVERTERS: Final[Mapping[str, Any]] = {
    "contract_type": _contract_type,
    "start_date": date.fromisoformat,
    "end_date": date_from_text,
    "total_value": money_from_proto,
    "billing_frequency": _billing_frequency,
    "phases": lambda phases: tuple(map(phase_from_proto, phases)),
    "minimum_commitment": money_from_proto,
    "purchase_order_limit": money_from_proto,
    "sla_terms": sla_terms_from_proto,
}
"""Converters of the terms whose values differ between request and domain."""


def changes_from_proto(request: pb.UpdateContractRequest) -> Mapping[str, Any]:
    """Convert the terms to change. Raises InvalidFields if a required term would be cleared."""
    changes = convert.changes.changed_columns(request, _CLEARED)
    return {
        field: _CONVERTERS[field](value) if field in _CONVERTERS and value is not None else value
        for field, value in changes.items()
    }


def filter_from_proto(request: pb.ListContractsRequest) -> ContractFilter:
    """Convert the filters of ListContracts. Raises InvalidFields for an id of another kind."""
    return ContractFilter(
        entity_id=ids.ENTITY.parse_optional(request.entity_id, "entity_id"),
        state=enum_or_none(ContractState, Contract.State, request.state),
        contract_type=enum_or_none(ContractType, Contract.Type, request.contract_type),
        ends_from=date_from_text(request.ends_from_date),
        ends_before=date_from_text(request.ends_before_date),
        text=request.q,
    )


def signature_from_proto(request: pb.SignContractRequest) -> SignatureDraft:
    """Convert the signature to record."""
    return SignatureDraft(
        party=Party(ContractSignature.Party.Name(request.party)),
        signer_name=request.signer_name,
        signer_title=request.signer_title,
        document_digest=request.document_digest,
    )


def termination_from_proto(request: pb.TerminateContractRequest) -> TerminationRequest:
    """Convert a request to terminate a contract."""
    return TerminationRequest(
        effective_date=date_from_text(request.effective_date), reason=request.reason, for_cause=request.for_cause
    )


def totals_to_proto(totals: ContractTotals) -> ContractSummary:
    """Convert the totals of an entity's contracts in one currency."""
    return ContractSummary(
        entity_id=ids.ENTITY.format(totals.entity_id),
        currency_code=totals.value.currency,
        active_contracts=totals.active,
        active_value=money_to_proto(totals.value),
        suspended_contracts=totals.suspended,
        renewals_due_30_days=totals.due_30,
        renewals_due_60_days=totals.due_60,
        renewals_due_90_days=totals.due_90,
    )
