"""Handlers of the events of other services."""

from contextlib import suppress
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
    SubmissionRefused,
)
from outside.licensing.v1.licensing_pb2 import LicenseProvisioned, LicenseProvisioningFailed, LicenseReleased
from outside.payments.v1.payments_pb2 import InvoicePaid, RefundCompleted, RefundFailed
from outside.usage.v1.usage_pb2 import UsageRecorded
from outside.users.v1.events_pb2 import UserDeactivated

from contract import validation
from contract.values import date_from_text, money_from_proto
from eventing.consumer import Handler, on
from kit import ids
from kit.auth import SERVICE_PREFIX
from kit.db import Database, WriteSession
from kit.errors import InvalidFields, NotFound
from kit.origin import Origin
from services.entities import convert, domain, service
from services.entities.clients import Clients
from services.entities.service.usage import UsageIntake


@dataclass(frozen=True, slots=True)
class Dependencies:
    """Passed to the handlers that open their own transactions."""

    db: Database
    clients: Clients
    usage_intake: UsageIntake


async def _report_lost_license(tx: WriteSession, event: LicenseProvisioned | LicenseProvisioningFailed) -> None:
    """Show a dead letter on its contract, if there is one."""
    with suppress(InvalidFields, NotFound):
        contract_id = ids.CONTRACT.parse(event.contract_id, "contract_id")
        await service.contracts.report_lost_license(tx, contract_id, tier=event.tier, seats=event.seats)


@on(LicenseProvisioned, dead_lettered=_report_lost_license)
async def record_license(tx: WriteSession, event: LicenseProvisioned) -> None:
    """Record the license that was provisioned for a contract."""
    contract_id = ids.CONTRACT.parse(event.contract_id, "contract_id")
    await service.contracts.record_license(
        tx, contract_id, license_id=event.license_id, tier=event.tier, seats=event.seats
    )


@on(LicenseProvisioningFailed, dead_lettered=_report_lost_license)
async def record_license_failure(tx: WriteSession, event: LicenseProvisioningFailed) -> None:
    """Record why the license of a contract can't be provisioned."""
    contract_id = ids.CONTRACT.parse(event.contract_id, "contract_id")
    await service.contracts.record_license_failure(
        tx, contract_id, reason=event.reason, tier=event.tier, seats=event.seats
    )


@on(LicenseReleased)
async def record_license_release(tx: WriteSession, event: LicenseReleased) -> None:
    """Record that the license of an ended contract was released."""
    contract_id = ids.CONTRACT.parse(event.contract_id, "contract_id")
    await service.contracts.record_license_release(tx, contract_id, license_id=event.license_id)


ApprovalOutcome: TypeAlias = (
    ApprovalApproved | ApprovalRejected | ApprovalCancelled | ApprovalExpired | ApprovalChangesRequested
)


def _is_of_contract_or_amendment(event: ApprovalOutcome) -> bool:
    """True for requests that this service submitted: others of these types have no subject of it."""
    subjects = (Approval.CONTRACT, "contract"), (Approval.AMENDMENT, "amendment")
    return (event.approval.request_type, event.approval.subject_type) in subjects


async def _report_lost_outcome(tx: WriteSession, event: ApprovalOutcome) -> None:
    await _show_dead_letter(tx, event.approval.subject_type, event.approval.subject_id)


async def _report_lost_refusal(tx: WriteSession, event: SubmissionRefused) -> None:
    await _show_dead_letter(tx, event.subject_type, event.subject_id)


async def _show_dead_letter(tx: WriteSession, subject_type: str, subject_id: str) -> None:
    """Show on a contract or amendment that it waits for an outcome that became a dead letter."""
    with suppress(InvalidFields, NotFound):
        if subject_type == "amendment":
            await service.amendments.report_lost_outcome(tx, ids.AMENDMENT.parse(subject_id, "subject_id"))
        else:
            await service.contracts.report_lost_outcome(tx, ids.CONTRACT.parse(subject_id, "subject_id"))


@on(ApprovalApproved, accepts=_is_of_contract_or_amendment, dead_lettered=_report_lost_outcome)
async def on_approval_approved(tx: WriteSession, event: ApprovalApproved) -> None:
    """Move a contract on to signature, or approve an amendment."""
    await _finish_approval(tx, event.approval, approved=True)


@on(ApprovalRejected, accepts=_is_of_contract_or_amendment, dead_lettered=_report_lost_outcome)
async def on_approval_rejected(tx: WriteSession, event: ApprovalRejected) -> None:
    """Return a contract to draft, or reject an amendment."""
    await _finish_approval(tx, event.approval, approved=False, comment=event.comment)


def _is_cancelled_by_a_user(event: ApprovalCancelled) -> bool:
    """False if the approvals service cancelled the request because its subject was withdrawn or submitted again."""
    return _is_of_contract_or_amendment(event) and not event.decided_by.startswith(SERVICE_PREFIX)


@on(ApprovalCancelled, accepts=_is_cancelled_by_a_user, dead_lettered=_report_lost_outcome)
async def on_approval_cancelled(tx: WriteSession, event: ApprovalCancelled) -> None:
    """Return a contract to draft, or reject an amendment."""
    await _finish_approval(tx, event.approval, approved=False, comment=event.comment)


@on(ApprovalExpired, accepts=_is_of_contract_or_amendment, dead_lettered=_report_lost_outcome)
async def on_approval_expired(tx: WriteSession, event: ApprovalExpired) -> None:
    """Return a contract to draft, or reject an amendment."""
    await _finish_approval(tx, event.approval, approved=False)


@on(ApprovalChangesRequested, accepts=_is_of_contract_or_amendment, dead_lettered=_report_lost_outcome)
async def on_changes_requested(tx: WriteSession, event: ApprovalChangesRequested) -> None:
    """Return a contract to draft, to be changed and submitted again, or reject an amendment."""
    await _finish_approval(tx, event.approval, approved=False, comment=event.comment)


async def _finish_approval(tx: WriteSession, facts: ApprovalFacts, *, approved: bool, comment: str = "") -> None:
    if facts.request_type == Approval.AMENDMENT:
        amendment_id = ids.AMENDMENT.parse(facts.subject_id, "subject_id")
        reason = comment or "The approval request was not approved."
        await service.amendments.finish_approval(tx, amendment_id, approved=approved, reason=reason)
    if facts.request_type == Approval.CONTRACT:
        contract_id = ids.CONTRACT.parse(facts.subject_id, "subject_id")
        await service.contracts.finish_approval(tx, contract_id, approved=approved)


@on(SubmissionRefused, dead_lettered=_report_lost_refusal)
async def on_submission_refused(tx: WriteSession, event: SubmissionRefused) -> None:
    """Return a contract whose approval could not be requested to draft, or reject an amendment, with the reason."""
    if event.subject_type == "amendment":
        amendment_id = ids.AMENDMENT.parse(event.subject_id, "subject_id")
        reason = f"Its approval could not be requested: {event.message}"
        await service.amendments.finish_approval(tx, amendment_id, approved=False, reason=reason)
    else:
        contract_id = ids.CONTRACT.parse(event.subject_id, "subject_id")
        await service.contracts.refuse_submission(tx, contract_id, problem=event.message)


@on(UserDeactivated, own_transaction=True)
async def replace_deactivated_manager(dependencies: Dependencies, origin: Origin, event: UserDeactivated) -> None:
    """Reassign the departments of a deactivated user to the nearest active manager, or leave them unassigned."""
    validation.check(event)
    directory = dependencies.clients.directory
    if await directory.is_active(origin, event.user_id):
        return  # the user was activated again in the meantime
    successor = domain.managers.nearest_active(event.user_id, await directory.managers(origin, event.user_id))
    replaced = 1
    while replaced:
        async with dependencies.db.write(origin) as tx:
            replaced = await service.departments.replace_manager(tx, event.user_id, successor)


@on(UsageRecorded, own_transaction=True)
async def allocate_usage(dependencies: Dependencies, origin: Origin, event: UsageRecorded) -> None:
    """Allocate the cost of metered usage to the entity or department that used it."""
    validation.check(event)
    await dependencies.usage_intake.record(origin, convert.usage.record_from_proto(event))


async def _report_lost_payment(tx: WriteSession, event: InvoicePaid) -> None:
    """Show a dead letter on its invoice, if there is one."""
    with suppress(InvalidFields, NotFound):
        invoice_id = ids.INVOICE.parse(event.invoice_id, "invoice_id")
        await service.invoice_payments.report_lost_payment(tx, invoice_id, event.payment_id)


@on(InvoicePaid, dead_lettered=_report_lost_payment)
async def record_payment(tx: WriteSession, event: InvoicePaid) -> None:
    """Record a payment of an invoice."""
    validation.check(event)
    await service.invoice_payments.record(tx, convert.invoice_payments.report_from_proto(event))


async def _report_lost_refund(tx: WriteSession, event: RefundCompleted | RefundFailed) -> None:
    """Show a dead letter on its refund, if there is one."""
    with suppress(InvalidFields):
        await service.refunds.report_lost_reply(tx, ids.REFUND.parse(event.refund_id, "refund_id"))


@on(RefundCompleted, dead_lettered=_report_lost_refund)
async def complete_refund(tx: WriteSession, event: RefundCompleted) -> None:
    """Record that a refund was paid back."""
    validation.check(event)
    await service.refunds.complete(
        tx,
        ids.REFUND.parse(event.refund_id, "refund_id"),
        money_from_proto(event.amount),
        refund_date=date_from_text(event.refund_date),
        reference=event.reference,
    )


@on(RefundFailed, dead_lettered=_report_lost_refund)
async def fail_refund(tx: WriteSession, event: RefundFailed) -> None:
    """Record that a refund was not paid back."""
    validation.check(event)
    await service.refunds.fail(tx, ids.REFUND.parse(event.refund_id, "refund_id"), reason=event.reason)


HANDLERS: Final[tuple[Handler, ...]] = (
    record_license,
    record_license_failure,
    record_license_release,
    on_approval_approved,
    on_approval_rejected,
    on_approval_cancelled,
    on_approval_expired,
    on_changes_requested,
    on_submission_refused,
    replace_deactivated_manager,
    allocate_usage,
    record_payment,
    complete_refund,
    fail_refund,
)
