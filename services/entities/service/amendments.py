"""What can be done with the amendments of contracts, as a finance person would say it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from uuid import UUID

from eventing import outbox
from eventing.timers import cancel_timer, set_timer
from kit import clock, dates
from kit.db import ReadSession, WriteSession
from kit.errors import BillingError, InvalidFields, Violation
from services.entities import domain, events, models, service, store
from services.entities.domain.amendments import AmendmentAction, AmendmentState, AmendmentType, Changes
from services.entities.domain.contracts import ContractAction, ContractTerms, LicenseState
from services.entities.domain.flaws import Flaw
from services.entities.domain.needs import Need
from services.entities.errors.amendments import AmendmentAwaitsApproval, AmendmentNotDue
from services.entities.errors.contracts import ContractAlreadyRenewed
from services.entities.models.amendments import AmendmentRow
from services.entities.models.contracts import ContractRow
from services.entities.service.contracts import AMENDMENT


@dataclass(frozen=True, slots=True, kw_only=True)
class AmendmentDraft:
    """An amendment as it is asked for."""

    amendment_type: AmendmentType
    effective_date: date
    after: Changes
    reason: str


async def find_need(tx: ReadSession, contract_id: UUID, draft: AmendmentDraft) -> Need:
    """An amendment as approval rules see it; raises ContractNotFound."""
    contract = await store.contracts.get_contract(tx, contract_id)
    return domain.needs.need_of_amendment(
        contract.entity_id, contract.terms, draft.amendment_type, draft.effective_date
    )


async def create_amendment(
    tx: WriteSession, contract_id: UUID, draft: AmendmentDraft, *, to_approve: bool, etag: str
) -> AmendmentRow:
    """Write an amendment of a contract in force, and ask for its approval where a rule does.

    Raises InvalidFields where the terms would not go together with it.
    """
    contract = await store.contracts.lock_contract(tx, contract_id)
    contract.check_etag(etag)
    effective, after = draft.effective_date, draft.after
    terms = _with(contract, await store.amendments.lock_waiting(tx, contract.id, until=effective))
    _refuse(domain.amendments.change_flaws(draft.amendment_type, after, terms))
    await _check_amendable(tx, contract, terms, after, effective)
    before, changed = (
        domain.amendments.terms_now(terms, after.keys(), effective),
        domain.amendments.amended(terms, after, effective),
    )
    if before == after:
        _refuse([Flaw("", "must differ from what the contract has", "amendment.empty")])
    _refuse(domain.contracts.flaws(changed))
    amendment = AmendmentRow(
        contract_id=contract.id,
        number=await store.amendments.next_number(tx, contract.id),
        amendment_type=draft.amendment_type,
        effective_date=effective,
        currency_code=contract.currency_code,
        changes=models.amendments.changes_record(before, after),
        proration=models.amendments.effect_record(
            domain.amendments.effect_of(terms, changed, contract.termination_date, effective)
        ),
        reason=draft.reason,
        state=AmendmentState.DRAFT,
        awaits_approval=to_approve,
    )
    tx.add(amendment)
    await tx.flush()
    if to_approve:
        need = domain.needs.need_of_amendment(contract.entity_id, contract.terms, draft.amendment_type, effective)
        outbox.append(tx, events.published.amendment_submitted(contract, amendment, need, tx.origin.actor))
    return amendment


async def _check_amendable(
    tx: ReadSession, contract: ContractRow, terms: ContractTerms, after: Changes, effective: date
) -> None:
    """Raise what stands against a change on the day of a contract that has these terms by then."""
    domain.contracts.advance_contract(contract.id, contract.state, ContractAction.AMEND)
    if "end_date" in after:
        successor = await service.contracts.live_successor(tx, contract)
        if successor:  # it begins where this one ends
            raise ContractAlreadyRenewed(contract.id, successor.id)
    domain.amendments.check_effective(contract.id, terms, after, contract.termination_date, effective)


def _refuse(found: Iterable[Flaw]) -> None:
    """Raise InvalidFields with everything that was found, each named by its place in `after`."""
    violations = [Violation(f"after.{_place(flaw)}".rstrip("."), flaw.description, flaw.rule) for flaw in found]
    if violations:
        raise InvalidFields(violations)


def _place(flaw: Flaw) -> str:
    if not flaw.rule.startswith("contract."):
        return flaw.field
    # The contract counts its phases from its own first one, and its value follows its fees.
    return flaw.field.partition("[")[0].replace("total_value", "fee")


def _with(contract: ContractRow, waiting: Sequence[AmendmentRow]) -> ContractTerms:
    """The terms of a contract once the amendments have taken effect that still can by then, in their order."""
    terms = contract.terms
    for amendment in waiting:
        after, effective = amendment.after, amendment.effective_date
        try:
            domain.amendments.check_effective(contract.id, terms, after, contract.termination_date, effective)
            domain.amendments.check_still(amendment.id, amendment.before, terms, effective)
        except BillingError:  # its own refusal comes when its day does
            continue
        terms = domain.amendments.amended(terms, after, effective)
    return terms


async def approve_amendment(tx: WriteSession, contract_id: UUID, amendment_id: UUID, *, etag: str) -> AmendmentRow:
    """Let a draft take effect on its day; raises AmendmentAwaitsApproval where somebody else decides that."""
    contract = await store.contracts.lock_contract(tx, contract_id)
    amendment = await store.amendments.lock_amendment(tx, contract.id, amendment_id)
    amendment.check_etag(etag)
    _check_undecided_by_others(amendment)
    await _approve(tx, contract, amendment)
    return amendment


def _check_undecided_by_others(amendment: AmendmentRow) -> None:
    if amendment.awaits_approval:
        raise AmendmentAwaitsApproval(amendment.id)


async def note_approval(tx: WriteSession, amendment_id: UUID, *, approved: bool, reason: str) -> None:
    """Approve or reject an amendment as its approval request was; one that waits for nobody stays as it is.

    What was approved and can't be done any more is rejected, with the reason.
    """
    contract = await store.contracts.lock_contract(tx, await store.amendments.get_contract_id(tx, amendment_id))
    amendment = await store.amendments.lock_amendment(tx, contract.id, amendment_id)
    if not amendment.awaits_approval:
        return
    amendment.awaits_approval = False
    if approved:
        try:
            await _approve(tx, contract, amendment)
        except BillingError as refusal:
            await _reject(tx, contract, amendment, refusal.message)
    else:
        await _reject(tx, contract, amendment, reason)


async def _approve(tx: WriteSession, contract: ContractRow, amendment: AmendmentRow) -> None:
    state = domain.amendments.advance_amendment(amendment.id, amendment.state, AmendmentAction.APPROVE)
    terms = _with(contract, await _before(tx, amendment))
    await _check_amendable(tx, contract, terms, amendment.after, amendment.effective_date)
    domain.amendments.check_still(amendment.id, amendment.before, terms, amendment.effective_date)
    amendment.state, amendment.approved_by, amendment.approve_time = state, tx.origin.actor, clock.now()
    await tx.flush()
    time_zone = await store.contracts.get_time_zone(tx, contract)
    set_timer(tx, AMENDMENT, amendment.id, dates.day_start(amendment.effective_date, time_zone))


async def _before(tx: WriteSession, amendment: AmendmentRow) -> Sequence[AmendmentRow]:
    """The approved amendments of the same contract that take effect before this one."""
    waiting = await store.amendments.lock_waiting(tx, amendment.contract_id, until=amendment.effective_date)
    own = amendment.effective_date, amendment.number
    return [other for other in waiting if (other.effective_date, other.number) < own]


async def reject_amendment(
    tx: WriteSession, contract_id: UUID, amendment_id: UUID, *, reason: str, etag: str
) -> AmendmentRow:
    """Let an amendment that has not taken effect never do so."""
    contract = await store.contracts.lock_contract(tx, contract_id)
    amendment = await store.amendments.lock_amendment(tx, contract.id, amendment_id)
    amendment.check_etag(etag)
    _check_undecided_by_others(amendment)
    await _reject(tx, contract, amendment, reason)
    return amendment


async def _reject(tx: WriteSession, contract: ContractRow, amendment: AmendmentRow, reason: str) -> None:
    amendment.state = domain.amendments.advance_amendment(amendment.id, amendment.state, AmendmentAction.REJECT)
    amendment.rejection_reason = reason
    await tx.flush()
    cancel_timer(tx, AMENDMENT, amendment.id)
    outbox.append(tx, events.published.amendment_rejected(contract, amendment))


async def apply_amendment(tx: WriteSession, contract_id: UUID, amendment_id: UUID, *, etag: str) -> AmendmentRow:
    """Let an approved amendment whose day has begun take effect now, after those that are due before it."""
    contract = await store.contracts.lock_contract(tx, contract_id)
    amendment = await store.amendments.lock_amendment(tx, contract.id, amendment_id)
    amendment.check_etag(etag)
    domain.amendments.advance_amendment(amendment.id, amendment.state, AmendmentAction.APPLY)
    time_zone = await store.contracts.get_time_zone(tx, contract)
    if amendment.effective_date > dates.date_in(time_zone, await store.contracts.database_now(tx)):
        raise AmendmentNotDue(amendment.id, amendment.effective_date)
    await _settle(tx, contract, await _before(tx, amendment), time_zone)
    await _apply(tx, contract, amendment, time_zone)
    cancel_timer(tx, AMENDMENT, amendment.id)
    return amendment


async def apply_due(tx: WriteSession, amendment_id: UUID) -> None:
    """Let an approved amendment take effect since its day has begun, after those that are due before it.

    What can't take effect any more is rejected, with the reason.
    """
    contract = await store.contracts.lock_contract(tx, await store.amendments.get_contract_id(tx, amendment_id))
    await apply_due_of(tx, contract)
    time_zone = await store.contracts.get_time_zone(tx, contract)
    for early in await store.amendments.lock_waiting(tx, contract.id):
        set_timer(tx, AMENDMENT, early.id, dates.day_start(early.effective_date, time_zone))


async def apply_due_of(tx: WriteSession, contract: ContractRow) -> None:
    """Let all approved amendments of a contract take effect whose day has begun, in the order of their days."""
    time_zone = await store.contracts.get_time_zone(tx, contract)
    today = dates.date_in(time_zone, await store.contracts.database_now(tx))
    await _settle(tx, contract, await store.amendments.lock_waiting(tx, contract.id, until=today), time_zone)


async def _settle(tx: WriteSession, contract: ContractRow, due: Sequence[AmendmentRow], time_zone: str) -> None:
    for amendment in due:
        try:
            await _apply(tx, contract, amendment, time_zone)
        except BillingError as refusal:
            await _reject(tx, contract, amendment, refusal.message)


async def _apply(tx: WriteSession, contract: ContractRow, amendment: AmendmentRow, time_zone: str) -> None:
    """Give the contract its new terms; raises before anything has changed."""
    state = domain.amendments.advance_amendment(amendment.id, amendment.state, AmendmentAction.APPLY)
    effective, after, terms = amendment.effective_date, amendment.after, contract.terms
    await _check_amendable(tx, contract, terms, after, effective)
    domain.amendments.check_still(amendment.id, amendment.before, terms, effective)
    changed = domain.amendments.amended(terms, after, effective)
    _refuse(domain.contracts.flaws(changed))
    amendment.state, amendment.apply_time = state, clock.now()
    amendment.proration = models.amendments.effect_record(
        domain.amendments.effect_of(terms, changed, contract.termination_date, effective)
    )
    for column, value in models.contracts.columns_of(changed).items():
        setattr(contract, column, value)
    if {"license_tier", "seats"} & after.keys():
        contract.license_state = (
            LicenseState.REQUESTED if domain.contracts.grants_license(changed) else LicenseState.NONE
        )
    await tx.flush()
    await service.contracts.set_timers(tx, contract, time_zone)
    outbox.append(tx, events.published.contract_amended(contract, amendment))
