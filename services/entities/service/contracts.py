"""Use cases of contracts, from the draft to their termination, and of their licenses."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from typing import Any
from uuid import UUID

from eventing import outbox
from eventing.timers import cancel_timer, set_timer
from kit import clock, dates
from kit.db import ReadSession, WriteSession
from kit.errors import Conflict, Internal
from services.entities import domain, events, service, store
from services.entities.domain.amendments import EFFECTIVE_TIMER
from services.entities.domain.approval_needs import ApprovalNeed
from services.entities.domain.contracts import (
    END_TIMER,
    IN_FORCE,
    NOTICE_TIMER,
    ContractAction,
    ContractState,
    ContractTerms,
    LicenseState,
    SignatureDraft,
    TerminationRequest,
)
from services.entities.domain.entities import EntityAction
from services.entities.errors.contracts import ContractAlreadySigned
from services.entities.models.contracts import ContractDetails, ContractRow, SignatureRow
from services.entities.models.entities import EntityRow


async def list_details(tx: ReadSession, contracts: Sequence[ContractRow]) -> Mapping[UUID, ContractDetails]:
    """Return the details of each contract by its id."""
    signatures = await store.contracts.list_signatures(tx, [contract.id for contract in contracts])
    uses = await service.purchase_orders.list_uses(tx, contracts)
    return {
        contract.id: ContractDetails(signatures.get(contract.id, ()), uses.get(contract.id)) for contract in contracts
    }


async def get_details(tx: ReadSession, contract: ContractRow) -> ContractDetails:
    """Return the details of the contract."""
    return (await list_details(tx, [contract]))[contract.id]


async def create(tx: WriteSession, entity_id: UUID, terms: ContractTerms) -> ContractRow:
    """Create a draft for an active entity.

    Raises InvalidFields with all violations, EntityNotFound, EntityStateForbids, ContractNumberTaken.
    """
    service.field_violations.raise_any(domain.contracts.violations(terms))
    service.field_violations.raise_any(domain.fees.value_violations(terms))
    entity = await store.entities.lock_shared(tx, entity_id)
    domain.entities.advance(entity.id, entity.state, EntityAction.ADD_CONTRACT)
    contract = ContractRow(entity_id=entity.id, state=ContractState.DRAFT)
    contract.set_terms(await complete_terms(tx, entity, terms))
    await store.contracts.save(tx, contract)
    return contract


async def complete_terms(tx: WriteSession, entity: EntityRow, terms: ContractTerms) -> ContractTerms:
    """Return the terms with their defaults: the next contract number, and the payment terms of the entity."""
    number, days = terms.contract_number, terms.payment_terms_days
    if not number:
        number = await store.contracts.next_number(tx, dates.date_in(entity.time_zone, clock.now()).year)
    return replace(
        terms, contract_number=number, payment_terms_days=entity.payment_terms_days if days is None else days
    )


async def update(tx: WriteSession, contract_id: UUID, changes: Mapping[str, Any], *, etag: str) -> ContractRow:
    """Change terms of a draft.

    Raises ContractNotFound, EtagMismatch, ContractStateForbids, InvalidFields, ContractNumberTaken.
    """
    contract = await store.contracts.lock(tx, contract_id)
    contract.check_etag(etag)
    advance(contract, ContractAction.CHANGE)
    terms = replace(contract.terms, **changes)
    if terms.start_date != contract.start_date:
        terms = replace(terms, anchor_day=None)
    service.field_violations.raise_any(domain.contracts.violations(terms))
    service.field_violations.raise_any(domain.fees.value_violations(terms))
    if terms.payment_terms_days is None:
        terms = await complete_terms(tx, await store.contracts.get_entity(tx, contract), terms)
    contract.set_terms(terms)
    await store.contracts.save(tx, contract)
    return contract


def advance(contract: ContractRow, action: ContractAction) -> None:
    """Set the state that follows from the action. Raises ContractStateForbids."""
    contract.state = domain.contracts.advance(contract.id, contract.state, action)
    if contract.state is not ContractState.SUSPENDED:
        contract.suspend_time, contract.suspension_reason = None, ""


async def find_approval_need(tx: ReadSession, contract_id: UUID) -> tuple[ApprovalNeed | None, str]:
    """Return the approval need of a draft (None in any other state) and the etag of the contract.

    Raises ContractNotFound.
    """
    contract = await store.contracts.get(tx, contract_id)
    if contract.state is not ContractState.DRAFT:
        return None, contract.etag
    return domain.approval_needs.of_contract(contract.entity_id, contract.terms), contract.etag


async def submit(
    tx: WriteSession, contract_id: UUID, *, needs_approval: bool, checked_etag: str, etag: str
) -> ContractRow:
    """Submit a draft for signature, or for approval first if `needs_approval`.

    `checked_etag` is the version that was checked against the approval rules. Raises Conflict if the draft has changed
    since, ContractNotFound, EtagMismatch, ContractStateForbids.
    """
    contract = await store.contracts.lock(tx, contract_id)
    contract.check_etag(etag)
    if contract.state is ContractState.DRAFT and contract.etag != checked_etag:
        raise Conflict
    advance(contract, ContractAction.REQUEST_APPROVAL if needs_approval else ContractAction.SUBMIT)
    contract.approval_problem = ""
    await store.contracts.save(tx, contract)
    if needs_approval:
        need = domain.approval_needs.of_contract(contract.entity_id, contract.terms)
        outbox.append(tx, events.published.contract_submitted(contract, need, tx.origin.actor))
    return contract


async def finish_approval(tx: WriteSession, contract_id: UUID, *, approved: bool) -> None:
    """Move a contract on to signature if it was approved, else back to draft; no effect in other states."""
    contract = await store.contracts.lock(tx, contract_id)
    if contract.state is ContractState.PENDING_APPROVAL:
        advance(contract, ContractAction.APPROVE if approved else ContractAction.REJECT)
        contract.approval_problem = ""
        await store.contracts.save(tx, contract)


async def refuse_submission(tx: WriteSession, contract_id: UUID, *, problem: str) -> None:
    """Return a contract whose approval could not be requested to draft, with the reason; no effect in other states."""
    contract = await store.contracts.lock(tx, contract_id)
    if contract.state is ContractState.PENDING_APPROVAL:
        advance(contract, ContractAction.REJECT)
        contract.approval_problem = problem
        await store.contracts.save(tx, contract)


async def report_lost_outcome(tx: WriteSession, contract_id: UUID) -> None:
    """Show that the outcome of a contract's approval was not recorded. Redriving its event records it later."""
    contract = await store.contracts.lock(tx, contract_id)
    if contract.state is ContractState.PENDING_APPROVAL:
        contract.approval_problem = Internal(tx.origin.trace.trace_id).message
        await store.contracts.save(tx, contract)


async def sign(tx: WriteSession, contract_id: UUID, draft: SignatureDraft, *, etag: str) -> ContractRow:
    """Record the signature of a party.

    Raises ContractNotFound, EtagMismatch, ContractStateForbids, ContractAlreadySigned, ContractDigestDiffers.
    """
    contract = await store.contracts.lock(tx, contract_id)
    contract.check_etag(etag)
    advance(contract, ContractAction.SIGN)
    signatures = await store.contracts.get_signatures(tx, contract.id)
    if draft.party in {signature.party for signature in signatures}:
        raise ContractAlreadySigned(contract.id, draft.party)
    domain.contracts.check_digest(
        contract.id, draft.document_digest, {signature.document_digest for signature in signatures}
    )
    contract.update_time = clock.now()  # a change of the row, so that it gets a new etag
    await store.contracts.insert_signature(tx, SignatureRow.of_draft(contract.id, draft, tx.origin.actor))
    return contract


async def activate(tx: WriteSession, contract_id: UUID, *, etag: str) -> ContractRow:
    """Make a contract of an active entity binding, request its license and set its timers.

    Raises ContractNotFound, EtagMismatch, ContractStateForbids, EntityStateForbids, ContractSignatureMissing,
    ContractTermOver.
    """
    # Locks the entity first, so that it can't be deactivated meanwhile.
    entity = await store.entities.lock_shared(tx, await store.contracts.get_entity_id(tx, contract_id))
    contract = await store.contracts.lock(tx, contract_id)
    contract.check_etag(etag)
    advance(contract, ContractAction.ACTIVATE)
    domain.entities.advance(entity.id, entity.state, EntityAction.ADD_CONTRACT)
    signatures = await store.contracts.get_signatures(tx, contract.id)
    signed = {signature.party for signature in signatures}
    today = dates.date_in(entity.time_zone, await tx.now())
    domain.contracts.check_activation(contract.id, contract.terms, signed, today)
    await start(tx, contract, entity.time_zone)
    return contract


async def start(tx: WriteSession, contract: ContractRow, time_zone: str) -> None:
    """Save a contract that has just become active, publish ContractActivated and set its timers."""
    contract.activate_time = clock.now()
    contract.license_state = domain.contracts.requested_license_state(contract.terms)
    await store.contracts.save(tx, contract)
    outbox.append(tx, events.published.contract_activated(contract))
    await set_timers(tx, contract, time_zone)


async def set_timers(tx: WriteSession, contract: ContractRow, time_zone: str) -> None:
    """Set or cancel the timers of a contract. Must be called after each change of its state, dates, fees or order."""
    end = domain.contracts.effective_end(contract.termination_date, contract.end_date)
    if contract.state in IN_FORCE and end:
        set_timer(tx, END_TIMER, contract.id, dates.day_start(end, time_zone))
    else:
        cancel_timer(tx, END_TIMER, contract.id)
    if contract.state in IN_FORCE and contract.end_date and contract.termination_date is None:
        notice_date = domain.contracts.notice_date(contract.end_date, contract.renewal_notice_days)
        set_timer(tx, NOTICE_TIMER, contract.id, dates.day_start(notice_date, time_zone))
    else:
        cancel_timer(tx, NOTICE_TIMER, contract.id)
    await service.purchase_orders.publish_warnings(tx, contract, time_zone)


async def reset_timers(tx: WriteSession, entity: EntityRow) -> None:
    """Reset the timers of an entity's contracts and amendments after its time zone has changed."""
    for contract in await store.contracts.lock_in_force(tx, entity.id):
        await set_timers(tx, contract, entity.time_zone)
        for amendment in await store.amendments.lock_approved(tx, contract.id):
            due_time = dates.day_start(amendment.effective_date, entity.time_zone)
            set_timer(tx, EFFECTIVE_TIMER, amendment.id, due_time)


async def suspend(tx: WriteSession, contract_id: UUID, *, reason: str, etag: str) -> ContractRow:
    """Suspend what an active contract grants; its term continues.

    Raises ContractNotFound, EtagMismatch, ContractStateForbids.
    """
    contract = await store.contracts.lock(tx, contract_id)
    contract.check_etag(etag)
    advance(contract, ContractAction.SUSPEND)
    contract.suspend_time, contract.suspension_reason = clock.now(), reason
    await store.contracts.save(tx, contract)
    outbox.append(tx, events.published.contract_suspended(contract))
    return contract


async def resume(tx: WriteSession, contract_id: UUID, *, etag: str) -> ContractRow:
    """End the suspension of a contract. Raises ContractNotFound, EtagMismatch, ContractStateForbids."""
    contract = await store.contracts.lock(tx, contract_id)
    contract.check_etag(etag)
    advance(contract, ContractAction.RESUME)
    await store.contracts.save(tx, contract)
    outbox.append(tx, events.published.contract_resumed(contract))
    return contract


async def terminate(tx: WriteSession, contract_id: UUID, request: TerminationRequest, *, etag: str) -> ContractRow:
    """Terminate a contract in force on its effective date; withdraw one that was never active at once.

    Raises ContractNotFound, EtagMismatch, ContractStateForbids, InvalidFields, ContractNoticeTooShort,
    ContractNoticeOver.
    """
    contract = await store.contracts.lock(tx, contract_id)
    contract.check_etag(etag)
    time_zone, today = await get_time_zone_and_today(tx, contract)
    in_force = contract.state in IN_FORCE
    contract.termination_date = _termination_date(contract, request, today) if in_force else today
    contract.termination_reason, contract.terminated_for_cause = request.reason, request.for_cause
    if contract.termination_date > today:
        advance(contract, ContractAction.SCHEDULE_TERMINATION)
        await store.contracts.save(tx, contract)
    else:
        await finish_termination(tx, contract, publish=in_force)
    await set_timers(tx, contract, time_zone)
    return contract


async def withdraw_termination(tx: WriteSession, contract_id: UUID, *, etag: str) -> ContractRow:
    """Keep a contract in force whose termination has not taken effect; its end and renewal are as agreed again.

    Raises ContractNotFound, EtagMismatch, ContractStateForbids, ContractNotTerminated.
    """
    contract = await store.contracts.lock(tx, contract_id)
    contract.check_etag(etag)
    advance(contract, ContractAction.WITHDRAW_TERMINATION)
    time_zone, today = await get_time_zone_and_today(tx, contract)
    domain.contracts.check_withdrawal(contract.id, contract.termination_date, today)
    contract.termination_date, contract.termination_reason, contract.terminated_for_cause = None, "", False
    await store.contracts.save(tx, contract)
    await set_timers(tx, contract, time_zone)
    return contract


def _termination_date(contract: ContractRow, request: TerminationRequest, today: date) -> date:
    terms = contract.terms
    if not request.for_cause:
        domain.contracts.check_notice_date(contract.id, terms, contract.state, today)
    effective = domain.contracts.resolve_termination_date(request, terms, today)
    service.field_violations.raise_any(domain.contracts.termination_violations(effective, terms, today))
    notice_days = domain.contracts.required_notice_days(request, terms)
    domain.contracts.check_notice_period(contract.id, effective, today, notice_days)
    return effective


async def finish_termination(tx: WriteSession, contract: ContractRow, *, publish: bool = True) -> None:
    """Set the contract to TERMINATED; with `publish`, for a contract that was in force, publish ContractTerminated."""
    was_pending_approval = contract.state is ContractState.PENDING_APPROVAL
    advance(contract, ContractAction.TERMINATE)
    await store.contracts.save(tx, contract)
    if was_pending_approval:
        outbox.append(tx, events.published.contract_withdrawn(contract))
    if publish and contract.termination_date:
        outbox.append(tx, events.published.contract_terminated(contract, contract.termination_date))


async def record_license(tx: WriteSession, contract_id: UUID, *, license_id: str, tier: str, seats: int) -> None:
    """Record the license that was provisioned.

    The state changes only if tier and seats are those of the contract; otherwise this is the reply to an older request.
    """
    contract = await store.contracts.lock(tx, contract_id)
    contract.license_id = license_id
    if _is_current_license(contract, tier, seats):
        contract.license_state, contract.license_problem = LicenseState.PROVISIONED, ""


async def record_license_failure(tx: WriteSession, contract_id: UUID, *, reason: str, tier: str, seats: int) -> None:
    """Record why the license can't be provisioned; no effect for a reply to an older request."""
    contract = await store.contracts.lock(tx, contract_id)
    if _is_current_license(contract, tier, seats):
        contract.license_state, contract.license_problem = LicenseState.FAILED, reason


async def report_lost_license(tx: WriteSession, contract_id: UUID, *, tier: str, seats: int) -> None:
    """Show that a reply of the licensing system was not recorded. Redriving its event records it later."""
    contract = await store.contracts.lock(tx, contract_id)
    if _is_current_license(contract, tier, seats) and contract.license_state is not LicenseState.PROVISIONED:
        contract.license_problem = Internal(tx.origin.trace.trace_id).message


def _is_current_license(contract: ContractRow, tier: str, seats: int) -> bool:
    return (tier, seats) == (contract.license_tier, contract.seats) and contract.state in IN_FORCE


async def record_license_release(tx: WriteSession, contract_id: UUID, *, license_id: str) -> None:
    """Record that the license of an ended contract was released, even before its provisioning was reported."""
    contract = await store.contracts.lock(tx, contract_id)
    is_known = license_id == contract.license_id
    is_unreported = contract.license_state is LicenseState.REQUESTED and not contract.license_id
    if (is_known or is_unreported) and contract.state not in IN_FORCE:
        contract.license_id, contract.license_state = license_id, LicenseState.RELEASED


async def get_time_zone_and_today(tx: ReadSession, contract: ContractRow) -> tuple[str, date]:
    """Return the time zone of the contract's entity and today's date there, by the clock of the database."""
    time_zone = await store.contracts.get_time_zone(tx, contract)
    return time_zone, dates.date_in(time_zone, await tx.now())


async def find_successor(tx: ReadSession, contract: ContractRow) -> ContractRow | None:
    """Return the contract that renews this one; None if there is none or it was withdrawn."""
    if contract.renewed_to_id is None:
        return None
    successor = await store.contracts.get(tx, contract.renewed_to_id)
    return None if successor.state is ContractState.TERMINATED else successor
