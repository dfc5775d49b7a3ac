"""Handlers of the events of other services."""

from dataclasses import dataclass
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
from services.entities import convert, domain, service
from services.entities.service.usage import UsageIntake


@dataclass(frozen=True, slots=True)
class Dependencies:
    """What the handlers with their own transaction need."""

    db: Database
    directory: Directory
    usage_intake: UsageIntake


@on(LicenseProvisioned)
async def note_provisioned_license(tx: WriteSession, event: LicenseProvisioned) -> None:
    """The licensing system grants what a contract does."""
    contract_id = ids.CONTRACT.parse(event.contract_id, "contract_id")
    await service.contracts.record_license(
        tx, contract_id, license_id=event.license_id, tier=event.tier, seats=event.seats
    )


@on(LicenseProvisioningFailed)
async def note_failed_license(tx: WriteSession, event: LicenseProvisioningFailed) -> None:
    """The licensing system can't grant what a contract does."""
    contract_id = ids.CONTRACT.parse(event.contract_id, "contract_id")
    await service.contracts.record_license_failure(
        tx, contract_id, reason=event.reason, tier=event.tier, seats=event.seats
    )


@on(LicenseReleased)
async def note_released_license(tx: WriteSession, event: LicenseReleased) -> None:
    """The licensing system took back what an ended contract had granted."""
    contract_id = ids.CONTRACT.parse(event.contract_id, "contract_id")
    await service.contracts.record_license_release(tx, contract_id, license_id=event.license_id)


Outcome: TypeAlias = (
    ApprovalApproved | ApprovalRejected | ApprovalCancelled | ApprovalExpired | ApprovalChangesRequested
)


def _is_ours(event: Outcome) -> bool:
    return event.approval.request_type in {Approval.CONTRACT, Approval.AMENDMENT}


@on(ApprovalApproved, accepts=_is_ours)
async def go_on_with_approved(tx: WriteSession, event: ApprovalApproved) -> None:
    """What was approved may be signed."""
    await _note_approval(tx, event.approval, approved=True)


@on(ApprovalRejected, accepts=_is_ours)
async def go_back_with_rejected(tx: WriteSession, event: ApprovalRejected) -> None:
    """What was refused is a draft again."""
    await _note_approval(tx, event.approval, approved=False, why=event.comment)


@on(ApprovalCancelled, accepts=_is_ours)
async def go_back_with_cancelled(tx: WriteSession, event: ApprovalCancelled) -> None:
    """What nobody asks for any more is a draft again."""
    await _note_approval(tx, event.approval, approved=False, why=event.comment)


@on(ApprovalExpired, accepts=_is_ours)
async def go_back_with_expired(tx: WriteSession, event: ApprovalExpired) -> None:
    """What nobody decided is a draft again."""
    await _note_approval(tx, event.approval, approved=False)


@on(ApprovalChangesRequested, accepts=_is_ours)
async def go_back_to_be_changed(tx: WriteSession, event: ApprovalChangesRequested) -> None:
    """What has to be changed is a draft again, to be submitted anew."""
    await _note_approval(tx, event.approval, approved=False, why=event.comment)


async def _note_approval(tx: WriteSession, facts: ApprovalFacts, *, approved: bool, why: str = "") -> None:
    if facts.request_type == Approval.AMENDMENT:
        amendment_id = ids.AMENDMENT.parse(facts.subject_id, "subject_id")
        await service.amendments.finish_approval(
            tx, amendment_id, approved=approved, reason=why or "It was not approved."
        )
    if facts.request_type == Approval.CONTRACT:
        await service.contracts.finish_approval(
            tx, ids.CONTRACT.parse(facts.subject_id, "subject_id"), approved=approved
        )


@on(UserDeactivated, own_transaction=True)
async def hand_over_departments_of_user(dependencies: Dependencies, origin: Origin, event: UserDeactivated) -> None:
    """Reassign the departments of a deactivated user to the nearest active manager, or leave them unassigned."""
    validation.check(event)
    directory = dependencies.directory
    if await directory.is_active(origin, event.user_id):
        return  # active again
    successor = domain.managers.nearest_active(event.user_id, await directory.managers(origin, event.user_id))
    replaced = 1
    while replaced:
        async with dependencies.db.write(origin) as tx:
            replaced = await service.departments.replace_manager(tx, event.user_id, successor)


@on(UsageRecorded, own_transaction=True)
async def allocate_recorded_usage(dependencies: Dependencies, origin: Origin, event: UsageRecorded) -> None:
    """Allocate the cost of metered usage to the entity or department that used it."""
    validation.check(event)
    await dependencies.usage_intake.record(origin, convert.usage.record_from_proto(event))


HANDLERS: Final[tuple[Handler, ...]] = (
    note_provisioned_license,
    note_failed_license,
    note_released_license,
    go_on_with_approved,
    go_back_with_rejected,
    go_back_with_cancelled,
    go_back_with_expired,
    go_back_to_be_changed,
    hand_over_departments_of_user,
    allocate_recorded_usage,
)
