"""Use cases at the end of a contract: renewal check, notice, renewal and expiry."""

from datetime import date
from typing import Final
from uuid import UUID

from eventing import outbox
from kit.db import ReadSession, WriteSession
from services.entities import domain, events, service, store
from services.entities.domain.contracts import IN_FORCE, ContractAction, ContractState, ContractTerms, NoticeKind
from services.entities.domain.renewals import RenewalAssessment, RenewalFacts, RenewalRequest
from services.entities.errors.contracts import ContractAlreadyRenewed, ContractEvergreen
from services.entities.models.contracts import ContractRow

_SUPERSEDED: Final = "The contract was renewed automatically, on the terms agreed before."


async def check(tx: ReadSession, contract_id: UUID) -> RenewalAssessment:
    """Return the recommendation about the end of a contract. Raises ContractNotFound."""
    contract = await store.contracts.get(tx, contract_id)
    _, today = await service.contracts.get_time_zone_and_today(tx, contract)
    terms = contract.terms
    successor = await service.contracts.find_successor(tx, contract)
    facts = RenewalFacts(
        contract_id=contract.id,
        terms=terms,
        state=contract.state,
        license_state=contract.license_state,
        successor_id=successor.id if successor else None,
        termination_date=contract.termination_date,
        used=await service.commitments.get_usage(tx, contract, today) if terms.minimum_commitment else None,
        today=today,
    )
    return domain.renewals.assess(facts)


async def renew(tx: WriteSession, contract_id: UUID, request: RenewalRequest, *, etag: str) -> ContractRow:
    """Create and return the draft of the successor of an active contract.

    Raises ContractNotFound, EtagMismatch, ContractStateForbids, ContractEvergreen, ContractAlreadyRenewed,
    InvalidFields, ContractNumberTaken.
    """
    contract = await store.contracts.lock(tx, contract_id)
    contract.check_etag(etag)
    service.contracts.advance(contract, ContractAction.RENEW)
    if contract.end_date is None:
        raise ContractEvergreen(contract.id)
    successor = await service.contracts.find_successor(tx, contract)
    if successor:
        raise ContractAlreadyRenewed(contract.id, successor.id)
    terms = domain.renewals.renewal_terms(contract.terms, request)
    service.field_violations.raise_any(domain.contracts.violations(terms))
    return await _create_successor(tx, contract, terms, ContractState.DRAFT)


async def _create_successor(
    tx: WriteSession, contract: ContractRow, terms: ContractTerms, state: ContractState
) -> ContractRow:
    entity = await store.contracts.get_entity(tx, contract)
    successor = ContractRow(entity_id=contract.entity_id, state=state, renewed_from_id=contract.id)
    successor.set_terms(await service.contracts.complete_terms(tx, entity, terms))
    await store.contracts.save(tx, successor)
    contract.renewed_to_id = successor.id
    await store.contracts.save(tx, contract)
    return successor


async def send_notice(tx: WriteSession, contract_id: UUID) -> None:
    """Publish ContractRenewalDue for a contract in force, once per end date. If it is too early, reset the timer."""
    contract = await store.contracts.lock(tx, contract_id)
    time_zone, today = await service.contracts.get_time_zone_and_today(tx, contract)
    if not await _send_notice(tx, contract, today):
        await service.contracts.set_timers(tx, contract, time_zone)


async def _send_notice(tx: WriteSession, contract: ContractRow, today: date) -> bool:
    """Publish the notice if the contract needs one; False if its notice date is later than today."""
    end = contract.end_date
    if contract.state not in IN_FORCE or end is None or contract.termination_date:
        return True
    if today < domain.contracts.notice_date(end, contract.renewal_notice_days):
        return False
    successor = await service.contracts.find_successor(tx, contract)
    has_active_successor = successor is not None and successor.activate_time is not None
    if not has_active_successor and await store.contracts.insert_notice(tx, contract.id, end, NoticeKind.RENEWAL_DUE):
        renewal = domain.renewals.renewal_terms(contract.terms)
        outbox.append(tx, events.published.contract_renewal_due(contract, end, renewal))
    return True


async def end_term(tx: WriteSession, contract_id: UUID) -> None:
    """End a contract in force whose term is over: terminate it, hand over to its successor, renew it or let it expire.

    A termination outweighs a renewal. An activated successor takes over. Without one the contract is renewed
    automatically if that was agreed and it isn't suspended; otherwise it expires.
    """
    contract = await store.contracts.lock(tx, contract_id)
    if contract.state not in IN_FORCE:
        return
    await service.amendments.apply_due_of_contract(tx, contract)  # one of them may change the end date
    time_zone, today = await service.contracts.get_time_zone_and_today(tx, contract)
    end = domain.contracts.effective_end(contract.termination_date, contract.end_date)
    if end and end <= today:
        await _send_notice(tx, contract, today)
        if contract.termination_date:
            await service.contracts.finish_termination(tx, contract)
        else:
            await _renew_or_expire(tx, contract, end, time_zone)
    await service.contracts.set_timers(tx, contract, time_zone)


async def _renew_or_expire(tx: WriteSession, contract: ContractRow, end: date, time_zone: str) -> None:
    successor = await service.contracts.find_successor(tx, contract)
    if successor:
        successor = await store.contracts.lock(tx, successor.id)
    automatic = False
    if successor is None or successor.activate_time is None:
        if not _renews_automatically(contract):
            service.contracts.advance(contract, ContractAction.EXPIRE)
            await store.contracts.save(tx, contract)
            outbox.append(tx, events.published.contract_expired(contract, end))
            return
        automatic = True
        if successor:
            await _withdraw(tx, successor, contract)
        terms = domain.renewals.renewal_terms(contract.terms)
        successor = await _create_successor(tx, contract, terms, ContractState.ACTIVE)
        await service.contracts.start(tx, successor, time_zone)
    service.contracts.advance(contract, ContractAction.SUCCEED)
    await store.contracts.save(tx, contract)
    outbox.append(tx, events.published.contract_renewed(contract, successor, automatic=automatic))


def _renews_automatically(contract: ContractRow) -> bool:
    terms = contract.terms
    if not domain.contracts.renews_automatically(terms, contract.state, contract.termination_date):
        return False
    return not domain.contracts.violations(domain.renewals.renewal_terms(terms))


async def _withdraw(tx: WriteSession, draft: ContractRow, contract: ContractRow) -> None:
    draft.termination_date, draft.termination_reason = contract.end_date, _SUPERSEDED
    await service.contracts.finish_termination(tx, draft, publish=False)
