"""What the approvals service does about what others say."""

from collections.abc import Sequence

from billing.budgets.v1.events_pb2 import ApprovalFundsSettled
from billing.entities.v1.events_pb2 import AmendmentSubmitted, ContractSubmitted, ContractWithdrawn
from outside.users.v1.events_pb2 import UserDeactivated

from contract import validation
from eventing.consumer import Handler, on
from kit import ids
from kit.db import Database, WriteSession
from kit.origin import Origin
from services.approvals.clients import Clients
from services.approvals.convert.submissions import CONTRACT, ask_of_amendment, ask_of_contract
from services.approvals.domain.lives import Funds
from services.approvals.service import departures, requests
from services.approvals.service.opening import Opening


@on(ApprovalFundsSettled)
async def note_settled_funds(tx: WriteSession, event: ApprovalFundsSettled) -> None:
    """A budget followed a request that ended, or could not."""
    await requests.note_funds(
        tx,
        ids.APPROVAL.parse(event.approval_id, "approval_id"),
        of_round=event.round,
        funds=Funds(ApprovalFundsSettled.Funds.Name(event.funds)),
        hold_id=ids.HOLD.parse_optional(event.hold_id, "hold_id"),
        problem=event.problem,
    )


def handlers(db: Database, clients: Clients, opening: Opening) -> Sequence[Handler]:
    """What this service does about all events that it hears."""

    @on(UserDeactivated, own_transaction=True)
    async def replace_departed_approver(_: object, origin: Origin, event: UserDeactivated) -> None:
        """Somebody who left decides on nothing: their nearest active manager does, or whom the step escalates to."""
        validation.check(event)
        if await clients.directory.is_active(origin, event.user_id):
            return  # they are back
        await departures.replace_approver(db, clients, origin, event.user_id)

    @on(ContractSubmitted, own_transaction=True)
    async def ask_for_submitted_contract(_: object, origin: Origin, event: ContractSubmitted) -> None:
        """A contract has to be approved before it is signed."""
        await opening.open_submitted(origin, ask_of_contract(event))

    @on(AmendmentSubmitted, own_transaction=True)
    async def ask_for_submitted_amendment(_: object, origin: Origin, event: AmendmentSubmitted) -> None:
        """An amendment has to be approved before it takes effect."""
        await opening.open_submitted(origin, ask_of_amendment(event))

    @on(ContractWithdrawn, own_transaction=True)
    async def cancel_withdrawn_contract(_: object, origin: Origin, event: ContractWithdrawn) -> None:
        """Nobody has to decide on a contract any more."""
        await opening.cancel_about(origin, CONTRACT, event.contract_id)

    return (
        note_settled_funds,
        replace_departed_approver,
        ask_for_submitted_contract,
        ask_for_submitted_amendment,
        cancel_withdrawn_contract,
    )
