"""Subjects that other services submit, as drafts of approval requests."""

from typing import Final

from billing.entities.v1.events_pb2 import AmendmentSubmitted, ContractSubmitted

from contract.values import money_from_proto
from kit import ids
from services.approvals.domain.approvals import ApprovalDraft, ApprovalType

CONTRACT_SUBJECT: Final = "contract"
"""Subject type of requests about contracts."""
_AMENDMENT_SUBJECT: Final = "amendment"
_ONLY_SUBMISSION: Final = 1
"""An amendment is submitted once."""
_TITLE_MAX: Final = 200


def draft_from_contract(event: ContractSubmitted) -> ApprovalDraft:
    """Return the request for the approval of a contract; its category is the contract type."""
    value = money_from_proto(event.total_value)
    return ApprovalDraft(
        request_type=ApprovalType.CONTRACT,
        title=f"Contract {event.contract_number}: {event.name}"[:_TITLE_MAX],
        requester=event.submitted_by,
        entity_id=ids.ENTITY.parse(event.entity_id, "entity_id"),
        category=event.contract_type,
        amount=value if value.amount > 0 else None,
        attributes=dict(event.attributes),
        subject_type=CONTRACT_SUBJECT,
        subject_id=event.contract_id,
        submission=event.submission,
        key=f"contract:{event.contract_id}:{event.submission}",
    )


def draft_from_amendment(event: AmendmentSubmitted) -> ApprovalDraft:
    """Return the request for the approval of an amendment; its category is the contract type.

    Its description has the total value of the contract before and after the amendment.
    """
    value = money_from_proto(event.total_value)
    description = event.reason
    if event.HasField("new_total_value"):
        old, new = money_from_proto(event.old_total_value), money_from_proto(event.new_total_value)
        description = f"{description}\nTotal value of the contract: {old} before, {new} after.".strip()
    return ApprovalDraft(
        request_type=ApprovalType.AMENDMENT,
        title=f"Amendment {event.number} of contract {event.contract_number}"[:_TITLE_MAX],
        description=description,
        requester=event.submitted_by,
        entity_id=ids.ENTITY.parse(event.entity_id, "entity_id"),
        category=event.contract_type,
        amount=value if value.amount > 0 else None,
        attributes=dict(event.attributes),
        subject_type=_AMENDMENT_SUBJECT,
        subject_id=event.amendment_id,
        submission=_ONLY_SUBMISSION,
        key=f"amendment:{event.amendment_id}",
    )
