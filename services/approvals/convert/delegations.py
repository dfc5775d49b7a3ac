"""Delegations."""

from datetime import datetime

from billing.approvals.v1.delegation_pb2 import Delegation
from billing.approvals.v1.delegation_service_pb2 import CreateDelegationRequest, ListDelegationsRequest

from contract.values import enum_or_none, time_from_proto, time_or_none, time_to_proto
from kit import ids
from services.approvals import domain
from services.approvals.domain.delegations import DelegationDraft, DelegationFilter, DelegationState
from services.approvals.models.delegations import DelegationRow


def to_proto(row: DelegationRow, now: datetime) -> Delegation:
    """Convert a delegation, with its state at `now`."""
    state = domain.delegations.state_at(row.start_time, row.effective_end_time, now)
    return Delegation(
        id=ids.DELEGATION.format(row.id),
        delegator=row.delegator,
        delegate=row.delegate,
        start_time=time_to_proto(row.start_time),
        end_time=time_to_proto(row.end_time),
        reason=row.reason,
        state=Delegation.State.Value(state),
        created_by=row.created_by,
        create_time=time_to_proto(row.create_time),
        revoke_time=time_to_proto(row.revoke_time) if row.revoke_time else None,
    )


def draft_from_proto(request: CreateDelegationRequest) -> DelegationDraft:
    """Parse CreateDelegationRequest."""
    return DelegationDraft(
        delegator=request.delegator,
        delegate=request.delegate,
        start_time=time_or_none(request, "start_time"),
        end_time=time_from_proto(request.end_time),
        reason=request.reason,
    )


def filter_from_proto(request: ListDelegationsRequest) -> DelegationFilter:
    """Parse the filters of ListDelegationsRequest."""
    return DelegationFilter(
        delegator=request.delegator,
        delegate=request.delegate,
        state=enum_or_none(DelegationState, Delegation.State, request.state),
    )
