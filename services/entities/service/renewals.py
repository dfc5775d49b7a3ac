"""What becomes of contracts at their end: the parties are told, they are renewed, or they end."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from fractions import Fraction
from typing import Final
from uuid import UUID

from eventing import outbox
from kit import dates
from kit.db import ReadSession, WriteSession
from kit.money import Money
from services.entities import domain, events, models, service, store
from services.entities.domain.contracts import IN_FORCE, ContractAction, ContractState, ContractTerms, NoticeKind
from services.entities.domain.renewals import Reason, Recommendation, Standing
from services.entities.errors.contracts import ContractAlreadyRenewed, ContractEvergreen
from services.entities.models.contracts import ContractRow
from services.entities.service.rates import Conversion

_SUPERSEDED: Final = "The contract was renewed by itself, on the terms agreed before."


@dataclass(frozen=True, slots=True)
class Checked:
    """What there is to know before a contract ends."""

    contract: ContractRow
    standing: Standing
    recommendation: Recommendation
    reasons: Sequence[Reason]
    renewal: ContractTerms | None
    """What a renewal on the terms agreed would be; None: there is no end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RenewalAsk:
    """How somebody wants a contract to be renewed; as agreed in it where they don't say."""

    contract_number: str
    end_date: date | None
    uplift_bp: int | None


async def check_renewal(tx: ReadSession, contract_id: UUID) -> Checked:
    """Whether a contract should be renewed, on which terms, and until when that has to be decided."""
    contract = await store.contracts.get_contract(tx, contract_id)
    terms, today = contract.terms, await service.contracts.today_of(tx, contract)
    standing = Standing(
        terms=terms,
        state=contract.state,
        license_state=contract.license_state,
        renewed=await service.contracts.live_successor(tx, contract) is not None,
        termination_date=contract.termination_date,
        used=await _used(tx, contract, today) if terms.minimum_commitment else None,
        today=today,
    )
    recommendation, reasons = domain.renewals.assess(standing)
    renewal = domain.renewals.renewed_terms(terms) if terms.end_date else None
    return Checked(contract, standing, recommendation, reasons, renewal)


async def renew_contract(tx: WriteSession, contract_id: UUID, ask: RenewalAsk, *, etag: str) -> ContractRow:
    """Write the draft of the successor of an active contract that has an end, and gives it; once."""
    contract = await store.contracts.lock_contract(tx, contract_id)
    contract.check_etag(etag)
    service.contracts.enter(contract, ContractAction.RENEW)
    if contract.end_date is None:
        raise ContractEvergreen(contract.id)
    successor = await service.contracts.live_successor(tx, contract)
    if successor:
        raise ContractAlreadyRenewed(contract.id, successor.id)
    terms = domain.renewals.renewed_terms(
        contract.terms, contract_number=ask.contract_number, end_date=ask.end_date, uplift_bp=ask.uplift_bp
    )
    service.contracts.check_terms(terms)
    return await _add_successor(tx, contract, terms, ContractState.DRAFT)


async def _add_successor(
    tx: WriteSession, contract: ContractRow, terms: ContractTerms, state: ContractState
) -> ContractRow:
    terms = await service.contracts.completed(tx, await store.contracts.get_entity_of(tx, contract), terms)
    successor = ContractRow(
        entity_id=contract.entity_id,
        **models.contracts.columns_of(terms),
        state=state,
        renewed_from_id=contract.id,
    )
    await store.contracts.save_contract(tx, successor)
    contract.renewed_to_id = successor.id
    await tx.flush()
    return successor


async def tell_of_end(tx: WriteSession, contract_id: UUID) -> None:
    """Tell the parties of a contract in force that its end comes, if it does soon; once for each end."""
    contract = await store.contracts.lock_contract(tx, contract_id)
    time_zone = await store.contracts.get_time_zone(tx, contract)
    today = dates.date_in(time_zone, await store.contracts.database_now(tx))
    if not await _tell_of_end(tx, contract, today):
        await service.contracts.set_timers(tx, contract, time_zone)


async def _tell_of_end(tx: WriteSession, contract: ContractRow, today: date) -> bool:
    """False where it is too early to tell."""
    end = contract.end_date
    if contract.state not in IN_FORCE or end is None or contract.termination_date:
        return True
    if today < domain.contracts.notice_date(end, contract.renewal_notice_days):
        return False
    successor = await service.contracts.live_successor(tx, contract)
    settled = successor is not None and successor.activate_time is not None
    if not settled and await store.contracts.record_notice(tx, contract.id, end, NoticeKind.RENEWAL_DUE):
        outbox.append(
            tx, events.published.contract_renewal_due(contract, end, domain.renewals.renewed_terms(contract.terms))
        )
    return True


async def end_term(tx: WriteSession, contract_id: UUID) -> None:
    """Let a contract in force whose last day is over end, or go on as its successor.

    Whoever terminated it has the last word. A successor that is active takes over; else one is made where that was
    agreed, and not while what the contract grants is withheld; else it expires.
    """
    contract = await store.contracts.lock_contract(tx, contract_id)
    if contract.state not in IN_FORCE:
        return
    await service.amendments.apply_due_of(tx, contract)  # one of them may give it another end
    time_zone = await store.contracts.get_time_zone(tx, contract)
    today = dates.date_in(time_zone, await store.contracts.database_now(tx))
    over = domain.contracts.last_day_without(contract.termination_date, contract.end_date)
    if over and over <= today:
        await _tell_of_end(tx, contract, today)
        if contract.termination_date:
            await service.contracts.end_by_termination(tx, contract)
        else:
            await _succeed_or_expire(tx, contract, over, time_zone)
    await service.contracts.set_timers(tx, contract, time_zone)


async def _succeed_or_expire(tx: WriteSession, contract: ContractRow, end: date, time_zone: str) -> None:
    successor = await service.contracts.live_successor(tx, contract)
    if successor:
        successor = await store.contracts.lock_contract(tx, successor.id)
    automatic = False
    if successor is None or successor.activate_time is None:
        terms = domain.renewals.renewed_terms(contract.terms)
        automatic = contract.auto_renew and contract.state is ContractState.ACTIVE and not domain.contracts.flaws(terms)
        if not automatic:
            service.contracts.enter(contract, ContractAction.EXPIRE)
            await tx.flush()
            outbox.append(tx, events.published.contract_expired(contract, end))
            return
        if successor:
            await _withdraw(tx, successor, contract)
        successor = await _add_successor(tx, contract, terms, ContractState.ACTIVE)
        await service.contracts.begin(tx, successor, time_zone)
    service.contracts.enter(contract, ContractAction.SUCCEED)
    await tx.flush()
    outbox.append(tx, events.published.contract_renewed(contract, successor, automatic=automatic))


async def _withdraw(tx: WriteSession, draft: ContractRow, contract: ContractRow) -> None:
    draft.termination_date, draft.termination_reason = contract.end_date, _SUPERSEDED
    await service.contracts.end_by_termination(tx, draft, said=False)


async def _used(tx: ReadSession, contract: ContractRow, today: date) -> Money | None:
    """What the usage of the contract's entity has cost in its term so far, in its currency; None: a rate is missing.

    What arose in another currency counts at the rate of today.
    """
    spent = await store.contracts.sum_usage(tx, contract.entity_id, contract.start_date, contract.end_date)
    conversions = [Conversion(money.currency, contract.currency_code, today) for money in spent]
    total = Fraction(0)
    for money, rate in zip(spent, await service.rates.find(tx, conversions), strict=True):
        if rate is None:
            return None
        total += Fraction(money.amount) * Fraction(rate.rate)
    return domain.proration.rounded(total, contract.currency_code)
