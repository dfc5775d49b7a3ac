"""Calls to other services; never made inside a transaction."""

from billing.approvals.v1.approval_pb2 import Approval
from billing.approvals.v1.approval_service_pb2 import CheckApprovalNeedRequest
from billing.approvals.v1.approval_service_pb2_grpc import ApprovalServiceStub
from billing.entities.v1.errors_pb2 import ErrorReason

from clients.directory import Directory
from clients.forwarding import forward_errors
from contract.values import money_to_proto
from kit import ids
from kit.origin import Origin
from kit.settings import Settings
from services.entities.domain.approval_needs import ApprovalNeed
from serving.clients import ServiceClient


class Clients:
    """The clients of all services that the entities service calls."""

    def __init__(self, settings: Settings) -> None:
        self.approvals = Approvals(settings)
        self.directory = Directory(settings)


class Approvals:
    """Client of the approvals service. If none is configured, nothing needs approval."""

    def __init__(self, settings: Settings) -> None:
        self._client = ServiceClient(settings, "approvals") if "approvals" in settings.addresses else None
        if self._client:
            self._stub = ApprovalServiceStub(self._client.channel)

    async def are_needed(self, origin: Origin, need: ApprovalNeed | None) -> bool:
        """Return true if an approval rule applies; false for None.

        Raises Unavailable, and the errors of CheckApprovalNeed that are in errors.proto: APPROVER_MISSING,
        RATE_MISSING.
        """
        if self._client is None or need is None:
            return False
        request = CheckApprovalNeedRequest(
            request_type=Approval.Type.Value(need.request_type),
            entity_id=ids.ENTITY.format(need.entity_id),
            category=need.category,
            amount=money_to_proto(need.amount) if need.amount.amount > 0 else None,
            attributes=need.attributes,
        )
        with forward_errors(ErrorReason.keys()):
            return (await self._client.call(self._stub.CheckApprovalNeed, request, origin)).needed
