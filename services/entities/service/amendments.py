"""Use cases of amendments: create with a preview of the fees, approve, reject, apply on the effective date."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from uuid import UUID

from eventing import outbox
from eventing.timers import cancel_timer, set_timer
from kit import clock, dates
from kit.db import ReadSession, WriteSession
from kit.errors import BillingError, Conflict, Internal
from services.entities import domain, events, service, store
from services.entities.domain.amendments import (
    EFFECTIVE_TIMER,
    AmendmentAction,
    AmendmentDraft,
    AmendmentState,
    TermValues,
)
from services.entities.domain.approval_needs import ApprovalCheck, ApprovalNeed
from services.entities.domain.contracts import ContractAction, ContractTerms
from services.entities.domain.field_violations import FieldViolation
from services.entities.errors.amendments import AmendmentAwaitsApproval, AmendmentNotDue
from services.entities.errors.contracts import ContractAlreadyRenewed
from services.entities.models.amendments import AmendmentRow
from services.entities.models.contracts import ContractRow


@dataclass(frozen=True, slots=True)
class _Amended:
    """A valid amendment: the terms before and after it, and the values that it changes."""

    terms: ContractTerms
    amended: ContractTerms
    before: TermValues
    after: TermValues


async def find_approval_need(tx: ReadSession, contract_id: UUID, draft: AmendmentDraft) -> ApprovalNeed | None:
    """Return the approval need of the amendment; None if it is invalid, for which `create` raises the error."""
    try:
        contract = await store.contracts.get(tx, contract_id)
        earlier = await store.amendments.list_approved(tx, contract.id, until=draft.effective_date)
        return _approval_need(contract, draft, await _amend(tx, contract, draft, earlier))
    except BillingError:
        return None


def _approval_need(contract: ContractRow, draft: AmendmentDraft, change: _Amended) -> ApprovalNeed:
    return domain.approval_needs.of_amendment(
        contract.entity_id, change.terms, change.amended, draft.amendment_type, draft.effective_date
    )


async def _amend(
    tx: ReadSession, contract: ContractRow, draft: AmendmentDraft, earlier: Sequence[AmendmentRow]
) -> _Amended:
    """Check an amendment, to be applied after the earlier ones. Raises the errors of `create`."""
    effective, after = draft.effective_date, domain.amendments.with_phases(draft.after)
    terms = _terms_after(contract, earlier)
    _check(domain.amendments.violations(draft.amendment_type, after, terms))
    await _check_amendable(tx, contract, terms, draft)
    before = domain.amendments.current_values(terms, after.keys(), effective)
    if before == after:
        _check([FieldViolation("", "must differ from the current terms of the contract", "amendment.empty")])
    amended = domain.amendments.amend(terms, after, effective)
    _check(domain.contracts.violations(amended))
    return _Amended(terms, amended, before, after)


async def create(
    tx: WriteSession, contract_id: UUID, draft: AmendmentDraft, *, approval: ApprovalCheck | None, etag: str
) -> AmendmentRow:
    """Create a draft amendment of a contract in force, and request its approval if that is needed.

    `approval` is the result of the check against the approval rules; None if it was not checked, for a dry run. Raises
    Conflict if the approval need has changed since, ContractNotFound, EtagMismatch, ContractStateForbids,
    ContractIsTerminated, ContractAlreadyRenewed, AmendmentOutsideTerm, and InvalidFields if the changes or the amended
    terms are inconsistent.
    """
    contract = await store.contracts.lock(tx, contract_id)
    contract.check_etag(etag)
    effective = draft.effective_date
    change = await _amend(tx, contract, draft, await store.amendments.lock_approved(tx, contract.id, until=effective))
    need = _approval_need(contract, draft, change)
    if approval and approval.need != need:
        raise Conflict
    needs_approval = approval is not None and approval.needed
    amendment = AmendmentRow(
        contract_id=contract.id,
        number=await store.amendments.next_number(tx, contract.id),
        amendment_type=draft.amendment_type,
        effective_date=effective,
        currency_code=contract.currency_code,
        reason=draft.reason,
        state=AmendmentState.DRAFT,
        awaits_approval=needs_approval,
    )
    amendment.set_changes(change.before, change.after)
    amendment.set_effect(
        domain.amendments.compute_effect(change.terms, change.amended, contract.termination_date, effective)
    )
    await store.amendments.save(tx, amendment)
    if needs_approval:
        outbox.append(tx, events.published.amendment_submitted(contract, amendment, need, tx.origin.actor))
    return amendment


async def _check_amendable(
    tx: ReadSession, contract: ContractRow, terms: ContractTerms, change: AmendmentDraft | AmendmentRow
) -> None:
    """Check that a contract with these terms can be amended on the effective date.

    Raises ContractStateForbids, ContractIsTerminated, ContractAlreadyRenewed, AmendmentOutsideTerm.
    """
    domain.contracts.advance(contract.id, contract.state, ContractAction.AMEND)
    after: TermValues = change.after
    domain.amendments.check_extension(contract.id, after, contract.termination_date)
    if "end_date" in after:
        successor = await service.contracts.find_successor(tx, contract)
        if successor:  # it starts on the end date of this contract
            raise ContractAlreadyRenewed(contract.id, successor.id)
    domain.amendments.check_effective_date(contract.id, terms, after, contract.termination_date, change.effective_date)


def _check(violations: Iterable[FieldViolation]) -> None:
    """Raise InvalidFields with all violations, with the paths of their fields in CreateAmendmentRequest."""
    service.field_violations.raise_any(
        violation._replace(field=f"after.{_field(violation)}".rstrip(".")) for violation in violations
    )


def _field(violation: FieldViolation) -> str:
    if not violation.rule.startswith("contract."):
        return violation.field
    # The contract has more phases than the request, so an index would be wrong; its total value results from the fee.
    return violation.field.partition("[")[0].replace("total_value", "fee")


def _terms_after(contract: ContractRow, amendments: Sequence[AmendmentRow]) -> ContractTerms:
    """Return the terms after these approved amendments, in order; amendments that can't be applied are skipped."""
    terms = contract.terms
    for amendment in amendments:
        after, effective = amendment.after, amendment.effective_date
        try:
            domain.amendments.check_extension(contract.id, after, contract.termination_date)
            domain.amendments.check_effective_date(contract.id, terms, after, contract.termination_date, effective)
            domain.amendments.check_not_stale(amendment.id, amendment.before, terms, effective)
        except BillingError:  # it will be rejected for this reason on its effective date
            continue
        terms = domain.amendments.amend(terms, after, effective)
    return terms


async def approve(tx: WriteSession, contract_id: UUID, amendment_id: UUID, *, etag: str) -> AmendmentRow:
    """Approve a draft, which is applied on its effective date.

    Raises AmendmentNotFound, EtagMismatch, AmendmentAwaitsApproval, AmendmentStateForbids, AmendmentStale, and the
    errors of `create` for a contract that can't be amended.
    """
    contract = await store.contracts.lock(tx, contract_id)
    amendment = await store.amendments.lock(tx, contract.id, amendment_id)
    amendment.check_etag(etag)
    _check_no_pending_approval(amendment)
    await _approve(tx, contract, amendment)
    return amendment


def _check_no_pending_approval(amendment: AmendmentRow) -> None:
    if amendment.awaits_approval:
        raise AmendmentAwaitsApproval(amendment.id)


async def finish_approval(tx: WriteSession, amendment_id: UUID, *, approved: bool, reason: str) -> None:
    """Apply the outcome of an approval request to its amendment; no effect if the amendment awaits no approval.

    An approved amendment that is no longer possible is rejected, and the error becomes its rejection reason.
    """
    contract = await store.contracts.lock(tx, await store.amendments.get_contract_id(tx, amendment_id))
    amendment = await store.amendments.lock(tx, contract.id, amendment_id)
    if not amendment.awaits_approval:
        return
    amendment.awaits_approval, amendment.approval_problem = False, ""
    if approved:
        try:
            await _approve(tx, contract, amendment)
        except BillingError as error:
            await _reject(tx, contract, amendment, error.message)
    else:
        await _reject(tx, contract, amendment, reason)


async def report_lost_outcome(tx: WriteSession, amendment_id: UUID) -> None:
    """Show that the outcome of an amendment's approval was not recorded. Redriving its event records it later."""
    contract = await store.contracts.lock(tx, await store.amendments.get_contract_id(tx, amendment_id))
    amendment = await store.amendments.lock(tx, contract.id, amendment_id)
    if amendment.awaits_approval:
        amendment.approval_problem = Internal(tx.origin.trace.trace_id).message
        await store.amendments.save(tx, amendment)


async def _approve(tx: WriteSession, contract: ContractRow, amendment: AmendmentRow) -> None:
    state = domain.amendments.advance(amendment.id, amendment.state, AmendmentAction.APPROVE)
    terms = _terms_after(contract, await _lock_earlier(tx, amendment))
    await _check_amendable(tx, contract, terms, amendment)
    domain.amendments.check_not_stale(amendment.id, amendment.before, terms, amendment.effective_date)
    amendment.state, amendment.approved_by, amendment.approve_time = state, tx.origin.actor, clock.now()
    await store.amendments.save(tx, amendment)
    time_zone = await store.contracts.get_time_zone(tx, contract)
    set_timer(tx, EFFECTIVE_TIMER, amendment.id, dates.day_start(amendment.effective_date, time_zone))


async def _lock_earlier(tx: WriteSession, amendment: AmendmentRow) -> Sequence[AmendmentRow]:
    """Return the approved amendments of the same contract that take effect before this one, locked."""
    approved = await store.amendments.lock_approved(tx, amendment.contract_id, until=amendment.effective_date)
    own = amendment.effective_date, amendment.number
    return [other for other in approved if (other.effective_date, other.number) < own]


async def reject(tx: WriteSession, contract_id: UUID, amendment_id: UUID, *, reason: str, etag: str) -> AmendmentRow:
    """Reject an amendment that has not been applied.

    Raises ContractNotFound, AmendmentNotFound, EtagMismatch, AmendmentAwaitsApproval, AmendmentStateForbids.
    """
    contract = await store.contracts.lock(tx, contract_id)
    amendment = await store.amendments.lock(tx, contract.id, amendment_id)
    amendment.check_etag(etag)
    _check_no_pending_approval(amendment)
    await _reject(tx, contract, amendment, reason)
    return amendment


async def _reject(tx: WriteSession, contract: ContractRow, amendment: AmendmentRow, reason: str) -> None:
    amendment.state = domain.amendments.advance(amendment.id, amendment.state, AmendmentAction.REJECT)
    amendment.rejection_reason = reason
    await store.amendments.save(tx, amendment)
    cancel_timer(tx, EFFECTIVE_TIMER, amendment.id)
    outbox.append(tx, events.published.amendment_rejected(contract, amendment))


async def apply(tx: WriteSession, contract_id: UUID, amendment_id: UUID, *, etag: str) -> AmendmentRow:
    """Apply an approved amendment whose effective date has begun, after the earlier ones.

    Raises AmendmentNotFound, EtagMismatch, AmendmentStateForbids, AmendmentNotDue, AmendmentStale, and the errors of
    `create` for a contract that can't be amended.
    """
    contract = await store.contracts.lock(tx, contract_id)
    amendment = await store.amendments.lock(tx, contract.id, amendment_id)
    amendment.check_etag(etag)
    domain.amendments.advance(amendment.id, amendment.state, AmendmentAction.APPLY)
    time_zone, today = await service.contracts.get_time_zone_and_today(tx, contract)
    if amendment.effective_date > today:
        raise AmendmentNotDue(amendment.id, amendment.effective_date)
    await _apply_or_reject(tx, contract, await _lock_earlier(tx, amendment), time_zone)
    await _apply(tx, contract, amendment, time_zone)
    cancel_timer(tx, EFFECTIVE_TIMER, amendment.id)
    return amendment


async def apply_due(tx: WriteSession, amendment_id: UUID) -> None:
    """Apply an amendment whose timer is due, after the earlier ones of its contract.

    An amendment that is no longer possible is rejected, and the error becomes its rejection reason. Amendments whose
    effective date has not begun yet get their timer anew.
    """
    contract = await store.contracts.lock(tx, await store.amendments.get_contract_id(tx, amendment_id))
    await apply_due_of_contract(tx, contract)
    time_zone = await store.contracts.get_time_zone(tx, contract)
    for later in await store.amendments.lock_approved(tx, contract.id):
        set_timer(tx, EFFECTIVE_TIMER, later.id, dates.day_start(later.effective_date, time_zone))


async def apply_due_of_contract(tx: WriteSession, contract: ContractRow) -> None:
    """Apply all approved amendments of a contract whose effective date has begun, in the order of these dates."""
    time_zone, today = await service.contracts.get_time_zone_and_today(tx, contract)
    due = await store.amendments.lock_approved(tx, contract.id, until=today)
    await _apply_or_reject(tx, contract, due, time_zone)


async def _apply_or_reject(
    tx: WriteSession, contract: ContractRow, amendments: Sequence[AmendmentRow], time_zone: str
) -> None:
    for amendment in amendments:
        try:
            await _apply(tx, contract, amendment, time_zone)
        except BillingError as error:
            await _reject(tx, contract, amendment, error.message)


async def _apply(tx: WriteSession, contract: ContractRow, amendment: AmendmentRow, time_zone: str) -> None:
    """Apply the amendment to its contract. All checks come before the first change."""
    state = domain.amendments.advance(amendment.id, amendment.state, AmendmentAction.APPLY)
    effective, after, terms = amendment.effective_date, amendment.after, contract.terms
    await _check_amendable(tx, contract, terms, amendment)
    domain.amendments.check_not_stale(amendment.id, amendment.before, terms, effective)
    amended = domain.amendments.amend(terms, after, effective)
    _check(domain.contracts.violations(amended))
    amendment.state, amendment.apply_time = state, clock.now()
    amendment.set_effect(domain.amendments.compute_effect(terms, amended, contract.termination_date, effective))
    contract.set_terms(amended)
    if {"license_tier", "seats"} & after.keys():
        contract.license_state, contract.license_problem = domain.contracts.requested_license_state(amended), ""
    await store.amendments.save(tx, amendment)
    await service.contracts.set_timers(tx, contract, time_zone)
    outbox.append(tx, events.published.contract_amended(contract, amendment))
