"""What the entities service asks of other services; never inside a transaction."""

from billing.approvals.v1.approval_pb2 import Approval
from billing.approvals.v1.approval_service_pb2 import CheckApprovalNeedRequest
from billing.approvals.v1.approval_service_pb2_grpc import ApprovalServiceStub
from billing.entities.v1.errors_pb2 import ErrorReason

from clients.forwarding import forward_errors
from contract.values import money_to_proto
from kit import ids
from kit.origin import Origin
from kit.settings import Settings
from services.entities.domain.approval_needs import ApprovalNeed
from serving.clients import ServiceClient


class Approvals:
    """The approvals service; where none is configured nothing has to be approved."""

    def __init__(self, settings: Settings) -> None:
        self._peer = ServiceClient(settings, "approvals") if "approvals" in settings.addresses else None
        if self._peer:
            self._stub = ApprovalServiceStub(self._peer.channel)

    async def are_needed(self, origin: Origin, need: ApprovalNeed | None) -> bool:
        """Whether a rule asks for the approval of something; not where there is nothing to ask about.

        Raises ApproverMissing, RateMissing or Unavailable.
        """
        if self._peer is None or need is None:
            return False
        asked = CheckApprovalNeedRequest(
            request_type=Approval.Type.Value(need.request_type),
            entity_id=ids.ENTITY.format(need.entity_id),
            category=need.category,
            amount=money_to_proto(need.amount) if need.amount.amount > 0 else None,
            attributes=need.attributes,
        )
        with forward_errors(ErrorReason.keys()):
            return (await self._peer.call(self._stub.CheckApprovalNeed, asked, origin)).needed
