"""What the entities service does about what others say."""

from collections.abc import Sequence
from typing import Final, TypeAlias

from billing.approvals.v1.approval_pb2 import Approval
from billing.approvals.v1.events_pb2 import (
    ApprovalApproved,
    ApprovalCancelled,
    ApprovalChangesRequested,
    ApprovalExpired,
    ApprovalFacts,
    ApprovalRejected,
)
from outside.licensing.v1.licensing_pb2 import LicenseProvisioned, LicenseProvisioningFailed, LicenseReleased
from outside.usage.v1.usage_pb2 import UsageRecorded
from outside.users.v1.events_pb2 import UserDeactivated

from clients.directory import Directory
from contract import validation
from eventing.consumer import Handler, on
from kit import ids
from kit.db import Database, WriteSession
from kit.origin import Origin
from services.entities.convert.usage import usage_from_proto
from services.entities.domain.managers import successor_of
from services.entities.service import amendments, contracts, managers, usage


@on(LicenseProvisioned)
async def note_provisioned_license(tx: WriteSession, event: LicenseProvisioned) -> None:
    """The licensing system grants what a contract does."""
    contract_id = ids.CONTRACT.parse(event.contract_id, "contract_id")
    await contracts.note_license(tx, contract_id, license_id=event.license_id, tier=event.tier, seats=event.seats)


@on(LicenseProvisioningFailed)
async def note_failed_license(tx: WriteSession, event: LicenseProvisioningFailed) -> None:
    """The licensing system can't grant what a contract does."""
    contract_id = ids.CONTRACT.parse(event.contract_id, "contract_id")
    await contracts.note_license_problem(tx, contract_id, reason=event.reason, tier=event.tier, seats=event.seats)


@on(LicenseReleased)
async def note_released_license(tx: WriteSession, event: LicenseReleased) -> None:
    """The licensing system took back what an ended contract had granted."""
    contract_id = ids.CONTRACT.parse(event.contract_id, "contract_id")
    await contracts.note_license_released(tx, contract_id, license_id=event.license_id)


Outcome: TypeAlias = (
    ApprovalApproved | ApprovalRejected | ApprovalCancelled | ApprovalExpired | ApprovalChangesRequested
)


def _is_ours(event: Outcome) -> bool:
    return event.approval.request_type in {Approval.CONTRACT, Approval.AMENDMENT}


@on(ApprovalApproved, concerns=_is_ours)
async def go_on_with_approved(tx: WriteSession, event: ApprovalApproved) -> None:
    """What was approved may be signed."""
    await _note_approval(tx, event.approval, approved=True)


@on(ApprovalRejected, concerns=_is_ours)
async def go_back_with_rejected(tx: WriteSession, event: ApprovalRejected) -> None:
    """What was refused is a draft again."""
    await _note_approval(tx, event.approval, approved=False, why=event.comment)


@on(ApprovalCancelled, concerns=_is_ours)
async def go_back_with_cancelled(tx: WriteSession, event: ApprovalCancelled) -> None:
    """What nobody asks for any more is a draft again."""
    await _note_approval(tx, event.approval, approved=False, why=event.comment)


@on(ApprovalExpired, concerns=_is_ours)
async def go_back_with_expired(tx: WriteSession, event: ApprovalExpired) -> None:
    """What nobody decided is a draft again."""
    await _note_approval(tx, event.approval, approved=False)


@on(ApprovalChangesRequested, concerns=_is_ours)
async def go_back_to_be_changed(tx: WriteSession, event: ApprovalChangesRequested) -> None:
    """What has to be changed is a draft again, to be submitted anew."""
    await _note_approval(tx, event.approval, approved=False, why=event.comment)


async def _note_approval(tx: WriteSession, facts: ApprovalFacts, *, approved: bool, why: str = "") -> None:
    if facts.request_type == Approval.AMENDMENT:
        amendment_id = ids.AMENDMENT.parse(facts.subject_id, "subject_id")
        await amendments.note_approval(tx, amendment_id, approved=approved, reason=why or "It was not approved.")
    if facts.request_type == Approval.CONTRACT:
        await contracts.note_approval(tx, ids.CONTRACT.parse(facts.subject_id, "subject_id"), approved=approved)


HANDLERS: Final[tuple[Handler, ...]] = (
    note_provisioned_license,
    note_failed_license,
    note_released_license,
    go_on_with_approved,
    go_back_with_rejected,
    go_back_with_cancelled,
    go_back_with_expired,
    go_back_to_be_changed,
)


def handlers(db: Database, directory: Directory) -> Sequence[Handler]:
    """What this service does about all events that it hears."""

    @on(UserDeactivated, own_transaction=True)
    async def hand_over_departments_of_user(_: object, origin: Origin, event: UserDeactivated) -> None:
        """Somebody who left answers for nothing: their nearest active manager does, or nobody."""
        validation.check(event)
        if await directory.is_active(origin, event.user_id):
            return  # they are back
        successor = successor_of(event.user_id, await directory.managers(origin, event.user_id))
        handed = 1
        while handed:
            async with db.write(origin) as tx:
                handed = await managers.hand_over_departments(tx, event.user_id, successor)

    intake = usage.UsageIntake(db)

    @on(UsageRecorded, own_transaction=True)
    async def allocate_recorded_usage(_: object, origin: Origin, event: UsageRecorded) -> None:
        """What was used is a cost of whoever used it."""
        validation.check(event)
        await intake.record(origin, usage_from_proto(event))

    return *HANDLERS, hand_over_departments_of_user, allocate_recorded_usage
