"""Conversion of renewals."""

from billing.entities.v1 import contract_service_pb2 as pb
from billing.entities.v1.renewal_pb2 import RenewalCheck
from billing.entities.v1.renewal_pb2 import RenewalReason as RenewalReasonMessage

from contract.values import date_from_text, date_text, money_to_proto
from kit import ids
from services.entities.domain.renewals import RenewalAssessment, RenewalReason, RenewalRequest


def request_from_proto(request: pb.RenewContractRequest) -> RenewalRequest:
    """Convert a request to renew a contract."""
    return RenewalRequest(
        contract_number=request.contract_number,
        end_date=date_from_text(request.end_date),
        uplift_bp=request.uplift_bp if request.HasField("uplift_bp") else None,
    )


def check_to_proto(assessment: RenewalAssessment) -> RenewalCheck:
    """Convert the recommendation about the end of a contract."""
    facts, renewal = assessment.facts, assessment.renewal
    terms = facts.terms
    return RenewalCheck(
        contract_id=ids.CONTRACT.format(facts.contract_id),
        end_date=date_text(terms.end_date),
        days_to_end=facts.days_to_end,
        notice_date=date_text(facts.notice_date),
        auto_renew=facts.renews_automatically,
        renewed_to_id=ids.CONTRACT.format_optional(facts.successor_id),
        recommendation=RenewalCheck.Recommendation.Value(assessment.recommendation),
        reasons=map(_reason_to_proto, assessment.reasons),
        current_value=money_to_proto(terms.total_value),
        renewal_value=money_to_proto(renewal.total_value) if renewal else None,
        renewal_start_date=date_text(renewal.start_date if renewal else None),
        renewal_end_date=date_text(renewal.end_date if renewal else None),
        committed=money_to_proto(terms.minimum_commitment) if terms.minimum_commitment else None,
        used=money_to_proto(facts.used) if facts.used else None,
        expected_utilisation_bp=facts.expected_utilisation_bp,
    )


def _reason_to_proto(reason: RenewalReason) -> RenewalReasonMessage:
    return RenewalReasonMessage(kind=RenewalReasonMessage.Kind.Value(reason.kind), text=reason.text)
