"""What other services submit, as requests."""

from typing import Final

from billing.entities.v1.events_pb2 import AmendmentSubmitted, ContractSubmitted

from contract.values import money_from_proto
from kit import ids
from services.approvals.domain.lives import ApprovalType
from services.approvals.service.requests import Ask

CONTRACT: Final = "contract"
"""What requests about contracts say they are about."""
_TITLE_MAX: Final = 200


def ask_of_contract(event: ContractSubmitted) -> Ask:
    """The request for the approval of a contract; its category is the type of the contract."""
    value = money_from_proto(event.total_value)
    return Ask(
        request_type=ApprovalType.CONTRACT,
        title=f"Contract {event.contract_number}: {event.name}"[:_TITLE_MAX],
        requester=event.submitted_by,
        entity_id=ids.ENTITY.parse(event.entity_id, "entity_id"),
        category=event.contract_type,
        amount=value if value.amount > 0 else None,
        attributes=dict(event.attributes),
        subject_type=CONTRACT,
        subject_id=event.contract_id,
        key=f"contract:{event.contract_id}:{event.submission}",
    )


def ask_of_amendment(event: AmendmentSubmitted) -> Ask:
    """The request for the approval of an amendment; its category is the type of the contract."""
    value = money_from_proto(event.total_value)
    return Ask(
        request_type=ApprovalType.AMENDMENT,
        title=f"Amendment {event.number} of contract {event.contract_number}"[:_TITLE_MAX],
        description=event.reason,
        requester=event.submitted_by,
        entity_id=ids.ENTITY.parse(event.entity_id, "entity_id"),
        category=event.contract_type,
        amount=value if value.amount > 0 else None,
        attributes=dict(event.attributes),
        subject_type="amendment",
        subject_id=event.amendment_id,
        key=f"amendment:{event.amendment_id}",
    )
