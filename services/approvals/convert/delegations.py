"""Delegations."""

from billing.approvals.v1.delegation_pb2 import Delegation
from billing.approvals.v1.delegation_service_pb2 import CreateDelegationRequest

from contract.values import time_from_proto, time_to_proto
from kit import clock, ids
from services.approvals.domain.delegations import state_at
from services.approvals.models.delegations import DelegationRow
from services.approvals.service.delegations import DelegationDraft


def delegation_to_proto(row: DelegationRow) -> Delegation:
    """A delegation, as it stands now."""
    return Delegation(
        id=ids.DELEGATION.format(row.id),
        delegator=row.delegator,
        delegate=row.delegate,
        start_time=time_to_proto(row.start_time),
        end_time=time_to_proto(row.end_time),
        reason=row.reason,
        state=Delegation.State.Value(state_at(row.start_time, row.over_time, clock.now())),
        created_by=row.created_by,
        create_time=time_to_proto(row.create_time),
        revoke_time=time_to_proto(row.revoke_time) if row.revoke_time else None,
    )


def delegation_draft_from_proto(request: CreateDelegationRequest) -> DelegationDraft:
    """The delegation that CreateDelegation asks for."""
    return DelegationDraft(
        delegator=request.delegator,
        delegate=request.delegate,
        start=time_from_proto(request.start_time) if request.HasField("start_time") else None,
        end=time_from_proto(request.end_time),
        reason=request.reason,
    )
