"""What can be done with contracts until they end, as a finance person would say it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Any, Final
from uuid import UUID

from eventing import outbox
from eventing.timers import cancel_timer, set_timer
from kit import clock, dates
from kit.db import ReadSession, WriteSession
from kit.errors import Conflict, InvalidFields, Violation
from services.entities import domain, events, models, service, store
from services.entities.domain.contracts import (
    IN_FORCE,
    ContractAction,
    ContractState,
    ContractTerms,
    LicenseState,
    Party,
)
from services.entities.domain.entities import EntityAction
from services.entities.domain.needs import Need
from services.entities.domain.purchase_orders import PurchaseOrderUse
from services.entities.errors.contracts import ContractAlreadySigned
from services.entities.models.contracts import ContractRow, SignatureRow
from services.entities.models.entities import EntityRow

CONTRACT_NOTICE: Final = "contract-notice"
"""The timers of contracts in force: their parties are told before the end."""
CONTRACT_END: Final = "contract-end"
"""The timers of contracts in force: on the day of their end or termination they end, or are renewed."""
AMENDMENT: Final = "amendment"
"""The timers of approved amendments: they take effect when their day begins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """What a party put under a contract."""

    party: Party
    signer_name: str
    signer_title: str
    document_digest: str


@dataclass(frozen=True, slots=True)
class Annex:
    """What is shown with a contract and does not stand in it."""

    signatures: Sequence[SignatureRow] = ()
    purchase_order_use: PurchaseOrderUse | None = None


NO_ANNEX: Final = Annex()


async def find_annexes(tx: ReadSession, found: Sequence[ContractRow]) -> Mapping[UUID, Annex]:
    """What is shown with each of the contracts."""
    signatures = await store.contracts.find_signatures(tx, [row.id for row in found])
    uses = await service.purchase_orders.find_uses(tx, found)
    return {row.id: Annex(signatures.get(row.id, ()), uses.get(row.id)) for row in found}


async def get_annex(tx: ReadSession, contract: ContractRow) -> Annex:
    """What is shown with a contract."""
    return (await find_annexes(tx, [contract]))[contract.id]


async def create_contract(tx: WriteSession, entity_id: UUID, terms: ContractTerms) -> ContractRow:
    """Write the draft of a contract of an active entity; raises InvalidFields with all terms that don't go together."""
    check_terms(terms)
    entity = await store.entities.lock_shared(tx, entity_id)
    domain.entities.advance(entity.id, entity.state, EntityAction.CONTRACT)
    terms = await completed(tx, entity, terms)
    contract = ContractRow(entity_id=entity.id, **models.contracts.columns_of(terms), state=ContractState.DRAFT)
    await store.contracts.save_contract(tx, contract)
    return contract


def check_terms(terms: ContractTerms) -> None:
    """Raise InvalidFields with everything that is wrong with the terms."""
    found = domain.contracts.flaws(terms)
    if found:
        raise InvalidFields([Violation(flaw.field, flaw.description, flaw.rule) for flaw in found])


async def completed(tx: WriteSession, entity: EntityRow, terms: ContractTerms) -> ContractTerms:
    """The terms with what was left to us: the next number, and the entity's days of payment."""
    number, days = terms.contract_number, terms.payment_terms_days
    return replace(
        terms,
        contract_number=number
        or await store.contracts.next_number(tx, dates.date_in(entity.time_zone, clock.now()).year),
        payment_terms_days=entity.payment_terms_days if days is None else days,
    )


async def update_contract(tx: WriteSession, contract_id: UUID, changes: Mapping[str, Any], *, etag: str) -> ContractRow:
    """Change terms of a draft; raises InvalidFields where they don't go together with the others any more."""
    contract = await store.contracts.lock_contract(tx, contract_id)
    contract.check_etag(etag)
    enter(contract, ContractAction.CHANGE)
    terms = replace(contract.terms, **changes)
    check_terms(terms)
    if terms.payment_terms_days is None:
        terms = await completed(tx, await store.contracts.get_entity_of(tx, contract), terms)
    for column, value in models.contracts.columns_of(terms).items():
        setattr(contract, column, value)
    await store.contracts.save_contract(tx, contract)
    return contract


def enter(contract: ContractRow, action: ContractAction) -> None:
    """Bring the contract into the state after the action; raises ContractStateForbids."""
    contract.state = domain.contracts.advance_contract(contract.id, contract.state, action)
    if contract.state is not ContractState.SUSPENDED:
        contract.suspend_time, contract.suspension_reason = None, ""


async def find_need(tx: ReadSession, contract_id: UUID) -> tuple[Need | None, str]:
    """A draft as approval rules see it, None where it is none, and its etag."""
    contract = await store.contracts.get_contract(tx, contract_id)
    is_draft = contract.state is ContractState.DRAFT
    return domain.needs.need_of(contract.entity_id, contract.terms) if is_draft else None, contract.etag


async def submit_contract(
    tx: WriteSession, contract_id: UUID, *, to_approve: bool, seen: str, etag: str
) -> ContractRow:
    """Give a draft to the parties to sign, or to somebody to approve where a rule asks for that.

    Raises Conflict where it is not any more what was `seen` when the rules were asked.
    """
    contract = await store.contracts.lock_contract(tx, contract_id)
    contract.check_etag(etag)
    if contract.state is ContractState.DRAFT and contract.etag != seen:
        raise Conflict
    enter(contract, ContractAction.REQUEST_APPROVAL if to_approve else ContractAction.SUBMIT)
    await tx.flush()
    if to_approve:
        outbox.append(
            tx,
            events.published.contract_submitted(
                contract, domain.needs.need_of(contract.entity_id, contract.terms), tx.origin.actor
            ),
        )
    return contract


async def note_approval(tx: WriteSession, contract_id: UUID, *, approved: bool) -> None:
    """Let a contract be signed that was approved, or be a draft again; one that waits for nobody stays as it is."""
    contract = await store.contracts.lock_contract(tx, contract_id)
    if contract.state is ContractState.PENDING_APPROVAL:
        enter(contract, ContractAction.APPROVE if approved else ContractAction.REJECT)
        await tx.flush()


async def sign_contract(tx: WriteSession, contract_id: UUID, signature: Signature, *, etag: str) -> ContractRow:
    """Record that a party signed the document that the other one signs, too."""
    contract = await store.contracts.lock_contract(tx, contract_id)
    contract.check_etag(etag)
    enter(contract, ContractAction.SIGN)
    signed = await store.contracts.get_signatures(tx, contract.id)
    if signature.party in {other.party for other in signed}:
        raise ContractAlreadySigned(contract.id, signature.party)
    domain.contracts.check_digest(contract.id, signature.document_digest, {other.document_digest for other in signed})
    contract.update_time = clock.now()  # which makes its etag another one
    tx.add(
        SignatureRow(
            contract_id=contract.id,
            party=signature.party,
            signer_name=signature.signer_name,
            signer_title=signature.signer_title,
            document_digest=signature.document_digest,
            recorded_by=tx.origin.actor,
        )
    )
    await tx.flush()
    return contract


async def activate_contract(tx: WriteSession, contract_id: UUID, *, etag: str) -> ContractRow:
    """Make a contract of an active entity binding, have its license provisioned, and watch for its end."""
    # The entity first, so that it can't go out of business meanwhile.
    entity = await store.entities.lock_shared(tx, await store.contracts.get_entity_id(tx, contract_id))
    contract = await store.contracts.lock_contract(tx, contract_id)
    contract.check_etag(etag)
    enter(contract, ContractAction.ACTIVATE)
    domain.entities.advance(entity.id, entity.state, EntityAction.CONTRACT)
    signatures = await store.contracts.get_signatures(tx, contract.id)
    today = dates.date_in(entity.time_zone, await store.contracts.database_now(tx))
    domain.contracts.check_may_begin(contract.id, contract.terms, {signature.party for signature in signatures}, today)
    await begin(tx, contract, entity.time_zone)
    return contract


async def begin(tx: WriteSession, contract: ContractRow, time_zone: str) -> None:
    """Say that a contract, new or not, is active now, and watch for its end."""
    contract.activate_time = clock.now()
    contract.license_state = (
        LicenseState.REQUESTED if domain.contracts.grants_license(contract.terms) else LicenseState.NONE
    )
    await store.contracts.save_contract(tx, contract)
    outbox.append(tx, events.published.contract_activated(contract))
    await set_timers(tx, contract, time_zone)


async def set_timers(tx: WriteSession, contract: ContractRow, time_zone: str) -> None:
    """Have the clock do to a contract what it does; to be called wherever its state or its end has changed."""
    over = (
        domain.contracts.last_day_without(contract.termination_date, contract.end_date)
        if contract.state in IN_FORCE
        else None
    )
    if over:
        set_timer(tx, CONTRACT_END, contract.id, dates.day_start(over, time_zone))
    else:
        cancel_timer(tx, CONTRACT_END, contract.id)
    if over and contract.end_date and contract.termination_date is None:
        told = domain.contracts.notice_date(contract.end_date, contract.renewal_notice_days)
        set_timer(tx, CONTRACT_NOTICE, contract.id, dates.day_start(told, time_zone))
    else:
        cancel_timer(tx, CONTRACT_NOTICE, contract.id)
    await service.purchase_orders.watch_purchase_order(tx, contract, time_zone)


async def reset_timers(tx: WriteSession, entity: EntityRow) -> None:
    """Have the clock follow an entity whose days begin in another time zone now."""
    for contract in await store.contracts.lock_in_force(tx, entity.id):
        await set_timers(tx, contract, entity.time_zone)
        for amendment in await store.amendments.lock_waiting(tx, contract.id):
            set_timer(tx, AMENDMENT, amendment.id, dates.day_start(amendment.effective_date, entity.time_zone))


async def suspend_contract(tx: WriteSession, contract_id: UUID, *, reason: str, etag: str) -> ContractRow:
    """Withhold what a contract grants; its term goes on."""
    contract = await store.contracts.lock_contract(tx, contract_id)
    contract.check_etag(etag)
    enter(contract, ContractAction.SUSPEND)
    contract.suspend_time, contract.suspension_reason = clock.now(), reason
    await tx.flush()
    outbox.append(tx, events.published.contract_suspended(contract))
    return contract


async def resume_contract(tx: WriteSession, contract_id: UUID, *, etag: str) -> ContractRow:
    """Grant again what a contract grants."""
    contract = await store.contracts.lock_contract(tx, contract_id)
    contract.check_etag(etag)
    enter(contract, ContractAction.RESUME)
    await tx.flush()
    outbox.append(tx, events.published.contract_resumed(contract))
    return contract


async def terminate_contract(
    tx: WriteSession, contract_id: UUID, *, effective: date | None, reason: str, for_cause: bool, etag: str
) -> ContractRow:
    """End a contract on a day, with notice or for cause; one that was never active is withdrawn at once."""
    contract = await store.contracts.lock_contract(tx, contract_id)
    contract.check_etag(etag)
    time_zone = await store.contracts.get_time_zone(tx, contract)
    today = dates.date_in(time_zone, await store.contracts.database_now(tx))
    in_force = contract.state in IN_FORCE
    contract.termination_date = _effective_day(contract, effective, today, for_cause=for_cause) if in_force else today
    contract.termination_reason, contract.terminated_for_cause = reason, for_cause
    if contract.termination_date > today:
        enter(contract, ContractAction.ANNOUNCE_END)
        await tx.flush()
    else:
        await end_by_termination(tx, contract, said=in_force)
    await set_timers(tx, contract, time_zone)
    return contract


async def end_by_termination(tx: WriteSession, contract: ContractRow, *, said: bool = True) -> None:
    """Let a contract hold no more; `said` where anybody knows that it did."""
    waited = contract.state is ContractState.PENDING_APPROVAL
    enter(contract, ContractAction.TERMINATE)
    await tx.flush()
    if waited:
        outbox.append(tx, events.published.contract_withdrawn(contract))
    if said and contract.termination_date:
        outbox.append(tx, events.published.contract_terminated(contract, contract.termination_date))


def _effective_day(contract: ContractRow, effective: date | None, today: date, *, for_cause: bool) -> date:
    """The day on which a contract in force ends; raises InvalidFields or ContractNoticeTooShort."""
    notice_days = 0 if for_cause else contract.renewal_notice_days
    day = effective or today + timedelta(days=notice_days)
    if effective is None and contract.end_date:
        day = min(day, contract.end_date)
    if day < today:
        raise InvalidFields([Violation("effective_date", f"must not be before today, {today}", "contract.termination")])
    if contract.end_date and day > contract.end_date:
        told = f"must not be after the end of the contract, {contract.end_date}"
        raise InvalidFields([Violation("effective_date", told, "contract.termination")])
    domain.contracts.check_notice(contract.id, day, today, notice_days)
    return day


async def note_license(tx: WriteSession, contract_id: UUID, *, license_id: str, tier: str, seats: int) -> None:
    """Note what the licensing system has provisioned; an answer to what was asked before is not the last one."""
    contract = await store.contracts.lock_contract(tx, contract_id)
    contract.license_id = license_id
    if (tier, seats) == (contract.license_tier, contract.seats) and contract.state in IN_FORCE:
        contract.license_state, contract.license_problem = LicenseState.PROVISIONED, ""


async def note_license_problem(tx: WriteSession, contract_id: UUID, *, reason: str, tier: str, seats: int) -> None:
    """Note that the licensing system can't provision what a contract grants; that of what was asked before is moot."""
    contract = await store.contracts.lock_contract(tx, contract_id)
    if (tier, seats) == (contract.license_tier, contract.seats) and contract.state in IN_FORCE:
        contract.license_state, contract.license_problem = LicenseState.FAILED, reason


async def note_license_released(tx: WriteSession, contract_id: UUID, *, license_id: str) -> None:
    """Note that the licensing system has taken a license back, also where it has not said yet that there was one."""
    contract = await store.contracts.lock_contract(tx, contract_id)
    told = license_id == contract.license_id
    waiting = contract.license_state is LicenseState.REQUESTED and not contract.license_id
    if (told or waiting) and contract.state not in IN_FORCE:
        contract.license_id, contract.license_state = license_id, LicenseState.RELEASED


async def today_of(tx: ReadSession, contract: ContractRow) -> date:
    """The day that it is for a contract."""
    return dates.date_in(await store.contracts.get_time_zone(tx, contract), await store.contracts.database_now(tx))


async def live_successor(tx: ReadSession, contract: ContractRow) -> ContractRow | None:
    """The contract that renews this one, unless it was withdrawn."""
    if contract.renewed_to_id is None:
        return None
    successor = await store.contracts.get_contract(tx, contract.renewed_to_id)
    return None if successor.state is ContractState.TERMINATED else successor
