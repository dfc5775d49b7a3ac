"""Contracts."""

from collections.abc import Mapping
from datetime import date
from typing import Any, Final

from billing.entities.v1 import contract_service_pb2
from billing.entities.v1.contract_pb2 import Contract, ContractPhase, ContractSignature
from billing.entities.v1.contract_pb2 import PurchaseOrderUse as PurchaseOrderUseMessage
from billing.entities.v1.contract_pb2 import SlaTerms as SlaTermsMessage
from billing.entities.v1.renewal_pb2 import ContractSummary, RenewalCheck, RenewalReason
from billing.type.v1.money_pb2 import Money as MoneyMessage

from contract.values import date_from_text, money_from_proto, money_to_proto, time_to_proto
from kit import ids
from kit.money import Money
from services.entities import convert, domain
from services.entities.domain.contracts import (
    RENEWAL_NOTICE_DAYS_DEFAULT,
    RENEWAL_TERM_MONTHS_DEFAULT,
    BillingFrequency,
    ContractTerms,
    ContractType,
    Party,
    Phase,
    SlaTerms,
)
from services.entities.domain.purchase_orders import PurchaseOrderUse
from services.entities.models.contracts import ContractRow, SignatureRow
from services.entities.service.contracts import Annex, Signature
from services.entities.service.renewals import Checked, RenewalAsk
from services.entities.store.contracts import ContractSum


def contract_to_proto(row: ContractRow, annex: Annex) -> Contract:
    """A contract with what is shown with it."""
    terms, use = row.terms, annex.purchase_order_use
    return Contract(
        id=ids.CONTRACT.format(row.id),
        entity_id=ids.ENTITY.format(row.entity_id),
        contract_number=row.contract_number,
        name=row.name,
        contract_type=Contract.Type.Value(row.contract_type),
        start_date=row.start_date.isoformat(),
        end_date=_day_text(row.end_date),
        total_value=money_to_proto(terms.total_value),
        billing_frequency=Contract.BillingFrequency.Value(row.billing_frequency),
        phases=map(_phase_to_proto, terms.phases),
        minimum_commitment=_money_to_proto(terms.minimum_commitment),
        license_tier=row.license_tier,
        seats=row.seats,
        payment_terms_days=row.payment_terms_days,
        purchase_order_number=row.purchase_order_number,
        purchase_order_limit=_money_to_proto(terms.purchase_order_limit),
        auto_renew=row.auto_renew,
        renewal_term_months=row.renewal_term_months,
        renewal_notice_days=row.renewal_notice_days,
        renewal_uplift_bp=row.renewal_uplift_bp,
        sla_terms=SlaTermsMessage(**row.sla_terms) if row.sla_terms else None,
        signatures=map(_signature_to_proto, annex.signatures),
        renewed_from_id=ids.CONTRACT.format_optional(row.renewed_from_id),
        renewed_to_id=ids.CONTRACT.format_optional(row.renewed_to_id),
        license_state=Contract.LicenseState.Value(row.license_state),
        license_id=row.license_id,
        license_problem=row.license_problem,
        state=Contract.State.Value(row.state),
        activate_time=time_to_proto(row.activate_time) if row.activate_time else None,
        suspend_time=time_to_proto(row.suspend_time) if row.suspend_time else None,
        suspension_reason=row.suspension_reason,
        termination_date=_day_text(row.termination_date),
        termination_reason=row.termination_reason,
        terminated_for_cause=row.terminated_for_cause,
        etag=row.etag,
        create_time=time_to_proto(row.create_time),
        update_time=time_to_proto(row.update_time),
        purchase_order_use=_use_to_proto(use) if use else None,
    )


def _use_to_proto(use: PurchaseOrderUse) -> PurchaseOrderUseMessage:
    return PurchaseOrderUseMessage(
        used=money_to_proto(use.used),
        remaining=money_to_proto(use.remaining),
        state=PurchaseOrderUseMessage.State.Value(use.state),
        exceed_date=_day_text(use.exceed_date),
    )


def _day_text(day: date | None) -> str:
    return day.isoformat() if day else ""


def _money_to_proto(money: Money | None) -> MoneyMessage | None:
    return money_to_proto(money) if money else None


def _phase_to_proto(phase: Phase) -> ContractPhase:
    return ContractPhase(start_date=phase.start_date.isoformat(), fee=money_to_proto(phase.fee))


def _signature_to_proto(row: SignatureRow) -> ContractSignature:
    return ContractSignature(
        party=ContractSignature.Party.Value(row.party),
        signer_name=row.signer_name,
        signer_title=row.signer_title,
        document_digest=row.document_digest,
        recorded_by=row.recorded_by,
        create_time=time_to_proto(row.create_time),
    )


def contract_terms_from_proto(request: contract_service_pb2.CreateContractRequest) -> ContractTerms:
    """The terms that CreateContract asks for, with their defaults."""
    months, notice = RENEWAL_TERM_MONTHS_DEFAULT, RENEWAL_NOTICE_DAYS_DEFAULT
    return ContractTerms(
        contract_number=request.contract_number,
        name=request.name,
        contract_type=_contract_type(request.contract_type),
        start_date=date.fromisoformat(request.start_date),
        end_date=date_from_text(request.end_date),
        total_value=money_from_proto(request.total_value),
        billing_frequency=_billing_frequency(request.billing_frequency),
        phases=tuple(map(_phase, request.phases)),
        minimum_commitment=(
            money_from_proto(request.minimum_commitment) if request.HasField("minimum_commitment") else None
        ),
        license_tier=request.license_tier,
        seats=request.seats,
        payment_terms_days=request.payment_terms_days if request.HasField("payment_terms_days") else None,
        purchase_order_number=request.purchase_order_number,
        purchase_order_limit=(
            money_from_proto(request.purchase_order_limit) if request.HasField("purchase_order_limit") else None
        ),
        auto_renew=request.auto_renew,
        renewal_term_months=request.renewal_term_months if request.HasField("renewal_term_months") else months,
        renewal_notice_days=request.renewal_notice_days if request.HasField("renewal_notice_days") else notice,
        renewal_uplift_bp=request.renewal_uplift_bp,
        sla_terms=_sla_terms(request.sla_terms) if request.HasField("sla_terms") else None,
    )


def _contract_type(value: Contract.Type.ValueType) -> ContractType:
    return ContractType(Contract.Type.Name(value))


def _billing_frequency(value: Contract.BillingFrequency.ValueType) -> BillingFrequency:
    return BillingFrequency(Contract.BillingFrequency.Name(value))


def _phase(message: ContractPhase) -> Phase:
    return Phase(date.fromisoformat(message.start_date), money_from_proto(message.fee))


def _sla_terms(message: SlaTermsMessage) -> SlaTerms:
    return SlaTerms(message.uptime_bp, message.response_hours, message.credit_bp)


_CONTRACT_CLEARED: Final[Mapping[str, Any]] = {
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
"""What each term of a contract is when it is cleared; those that are not here can't be."""

_READ: Final[Mapping[str, Any]] = {
    "contract_type": _contract_type,
    "start_date": date.fromisoformat,
    "end_date": date_from_text,
    "total_value": money_from_proto,
    "billing_frequency": _billing_frequency,
    "phases": lambda phases: tuple(map(_phase, phases)),
    "minimum_commitment": money_from_proto,
    "purchase_order_limit": money_from_proto,
    "sla_terms": _sla_terms,
}
"""How those terms are read that are not what the request has."""


def contract_changes_from_proto(request: contract_service_pb2.UpdateContractRequest) -> Mapping[str, Any]:
    """The terms that UpdateContract changes, with their new values; raises InvalidFields."""
    changes = convert.changes.changed_columns(request, _CONTRACT_CLEARED)
    return {
        field: _READ[field](value) if field in _READ and value is not None else value
        for field, value in changes.items()
    }


def signature_from_proto(request: contract_service_pb2.SignContractRequest) -> Signature:
    """What SignContract records."""
    return Signature(
        party=Party(ContractSignature.Party.Name(request.party)),
        signer_name=request.signer_name,
        signer_title=request.signer_title,
        document_digest=request.document_digest,
    )


def renewal_ask_from_proto(request: contract_service_pb2.RenewContractRequest) -> RenewalAsk:
    """How RenewContract wants the successor to be."""
    return RenewalAsk(
        contract_number=request.contract_number,
        end_date=date_from_text(request.end_date),
        uplift_bp=request.uplift_bp if request.HasField("uplift_bp") else None,
    )


def renewal_check_to_proto(checked: Checked) -> RenewalCheck:
    """What there is to know before a contract ends."""
    row, standing, renewal = checked.contract, checked.standing, checked.renewal
    terms, end = standing.terms, standing.terms.end_date
    return RenewalCheck(
        contract_id=ids.CONTRACT.format(row.id),
        end_date=_day_text(end),
        days_to_end=max((end - standing.today).days, 0) if end else 0,
        notice_date=_day_text(domain.contracts.notice_date(end, terms.renewal_notice_days) if end else None),
        auto_renew=terms.auto_renew,
        renewed_to_id=ids.CONTRACT.format_optional(row.renewed_to_id if standing.renewed else None),
        recommendation=RenewalCheck.Recommendation.Value(checked.recommendation),
        reasons=[
            RenewalReason(kind=RenewalReason.Kind.Value(reason.kind), text=reason.text) for reason in checked.reasons
        ],
        current_value=money_to_proto(terms.total_value),
        renewal_value=_money_to_proto(renewal.total_value if renewal else None),
        renewal_start_date=_day_text(renewal.start_date if renewal else None),
        renewal_end_date=_day_text(renewal.end_date if renewal else None),
        committed=_money_to_proto(terms.minimum_commitment),
        used=_money_to_proto(standing.used),
        expected_utilisation_bp=standing.expected_utilisation_bp,
    )


def contract_summary_to_proto(summed: ContractSum) -> ContractSummary:
    """The contracts in force of an entity in one currency."""
    return ContractSummary(
        entity_id=ids.ENTITY.format(summed.entity_id),
        currency_code=summed.value.currency,
        active_contracts=summed.active,
        active_value=money_to_proto(summed.value),
        suspended_contracts=summed.suspended,
        renewals_due_30_days=summed.due_30,
        renewals_due_60_days=summed.due_60,
        renewals_due_90_days=summed.due_90,
    )
