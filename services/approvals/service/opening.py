"""Opening a request: its way is found, its money is set aside, and those who decide are asked.

With a budget that takes two services, each with a transaction of its own. The request is kept first (OPENING), then the
money is held under a key of the request and its round, then the first are asked (PENDING). Where the budget refuses,
that is kept, the hold is called off, which also keeps a late one out, and what was kept of the request is undone.
Whoever dies in between: the same key of the caller, or the clock, goes on from what is kept.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from eventing.timers import cancel_timer, set_timer
from kit import clock, ids
from kit.db import Database, WriteSession
from kit.errors import (
    BillingError,
    Conflict,
    FailedPrecondition,
    IdempotencyMismatch,
    InvalidFields,
    NotFound,
    Violation,
)
from kit.origin import Origin
from services.approvals.clients import BudgetView, Clients, Lineage
from services.approvals.domain.lives import ApprovalState, ApprovalType, Event, Funds
from services.approvals.domain.rules import Facts, Rule
from services.approvals.domain.seats import Level, Panel
from services.approvals.errors import NoRuleMatches, SubmittedElsewhere
from services.approvals.models.panels import panel_record
from services.approvals.models.requests import ApprovalRow
from services.approvals.service import people, routing
from services.approvals.service import requests as use_cases
from services.approvals.service.callers import Caller
from services.approvals.service.requests import OPENING, Ask
from services.approvals.service.routing import Rules
from services.approvals.store import requests
from services.approvals.store.requests import Viewer

_ABANDONED: Final = timedelta(seconds=30)
"""After so long the clock goes on with an opening that nobody finished."""
_BUDGET_TYPES: Final = frozenset({ApprovalType.BUDGET_INCREASE, ApprovalType.BUDGET_OVERSPEND})
_OF_OTHERS: Final = frozenset({ApprovalType.CONTRACT, ApprovalType.AMENDMENT})
"""What other services submit, and submit again."""
_TAKEN_BACK: Final = frozenset({ApprovalState.PENDING, ApprovalState.CHANGES_REQUESTED})
_PLACES: Final = {"entity_id": ids.ENTITY, "department_id": ids.DEPARTMENT}


@dataclass(frozen=True, slots=True)
class Way:
    """The way that a request would take."""

    ask: Ask
    facts: Facts
    panel: Panel


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request that waits for the transaction in which those who decide are asked."""

    id: UUID
    new: ApprovalRow | None = None
    """The whole of it, where nothing was kept yet."""
    hold_id: UUID | None = None
    """The money that was set aside for it."""


class Opening:
    """Opens requests."""

    def __init__(self, db: Database, clients: Clients) -> None:
        self._db = db
        self.clients = clients
        self._rules = Rules()

    async def _find_way(self, origin: Origin, ask: Ask, rules: Sequence[Rule]) -> Way:
        """The way that a request would take; raises whatever would refuse it, except that its budget has no room."""
        _check(ask)
        if ask.budget_id:
            spent = None if ask.request_type is ApprovalType.BUDGET_INCREASE else ask.amount
            budget = await self.clients.budgets.review(origin, ask.budget_id, spent)
            ask = _of_budget(ask, budget)
            if ask.overspend and budget.needs_approval:
                ask = replace(ask, request_type=ApprovalType.BUDGET_OVERSPEND)
        facts, lineage = await self._facts(origin, ask)
        route = await routing.choose(self.clients, origin, rules, facts)
        if route is None:
            raise NoRuleMatches(ask.request_type, len(rules))
        return Way(ask, facts, await people.find_panel(self.clients, origin, route, facts, lineage))

    async def _facts(self, origin: Origin, ask: Ask) -> tuple[Facts, Lineage]:
        """What rules look at, and where it belongs; raises InvalidFields, EntityNotFound or DepartmentNotFound."""
        if ask.entity_id is None:
            raise InvalidFields([Violation("entity_id", "is needed where there is no budget_id", "approval.entity")])
        lineage = await self.clients.lineage.get(origin, ask.entity_id, ask.department_id)
        facts = Facts(
            request_type=ask.request_type,
            title=ask.title,
            requester=ask.requester,
            entity_path=lineage.entity_path,
            department_path=lineage.department_path,
            category=ask.category,
            amount=ask.amount,
            attributes=ask.attributes,
        )
        return facts, lineage

    async def _find_rules(self, origin: Origin) -> Sequence[Rule]:
        async with self._db.read(origin) as tx:
            return await self._rules.find(tx)

    async def find_need(self, origin: Origin, ask: Ask) -> Sequence[Level]:
        """The rules that ask for an approval of something like this; none where none does."""
        try:
            return (await self._find_way(origin, ask, await self._find_rules(origin))).panel.levels
        except NoRuleMatches:
            return ()

    async def preview(self, origin: Origin, ask: Ask) -> ApprovalRow:
        """The request as it would be, kept nowhere; raises what would refuse it, as far as that is known before."""
        return _row(await self._find_way(origin, ask, await self._find_rules(origin)))

    async def prepare(self, origin: Origin, ask: Ask) -> Prepared:
        """The request as far as it can be made before the transaction that answers.

        Raises what refuses the request; then nothing of it is left.
        """
        async with self._db.read(origin) as tx:
            known = await requests.find_opened(tx, ask.requester, ask.key)
            rules = await self._rules.find(tx)
        if known is not None and known.opening_digest != ask.digest:
            raise IdempotencyMismatch(ask.key)
        if known is not None and refused(known):
            await self._call_off(origin, known)
            known = None
        if known is not None:
            return await self._funded(origin, known)
        row = _row(await self._find_way(origin, ask, rules))
        if not holds(row):
            return Prepared(row.id, new=row)
        async with self._db.write(_unkeyed(origin)) as tx:
            await requests.save_request(tx, row)
            set_timer(tx, OPENING, row.id, clock.now() + _ABANDONED)
        return await self._funded(origin, row)

    async def open(self, tx: WriteSession, prepared: Prepared) -> ApprovalRow:
        """Ask those who decide, in the transaction that answers."""
        if prepared.new is not None:
            prepared.new.state = ApprovalState.PENDING
            await use_cases.begin(tx, prepared.new, new=True)
            return prepared.new
        row = await requests.find_request(tx, prepared.id)
        if row is None or refused(row):
            raise Conflict  # its budget refused somebody else who went on with it
        if row.state is ApprovalState.OPENING:
            use_cases.advance(row, Event.OPEN)
            if prepared.hold_id:
                row.hold_id, row.funds = prepared.hold_id, Funds.HELD
            cancel_timer(tx, OPENING, row.id)
            await use_cases.begin(tx, row, new=False)
        return row

    async def _funded(self, origin: Origin, row: ApprovalRow) -> Prepared:
        """Set the money of an OPENING request aside; raises the budget's refusal, when that is undone."""
        if row.state is not ApprovalState.OPENING or not holds(row) or row.budget_id is None or row.money is None:
            return Prepared(row.id)
        try:
            hold_id = await self.clients.budgets.hold(
                origin, row.id, of_round=row.round, budget_id=row.budget_id, amount=row.money, description=row.title
            )
        except (FailedPrecondition, NotFound) as refusal:
            await self._undo(origin, row.id, refusal)
            raise
        return Prepared(row.id, hold_id=hold_id)

    async def _undo(self, origin: Origin, approval_id: UUID, refusal: BillingError) -> None:
        """Undo an opening that its budget refused, in steps of which each can be the last of this process."""
        async with self._db.write(_unkeyed(origin)) as tx:
            row = await requests.find_request(tx, approval_id)
            if row is None or row.state is not ApprovalState.OPENING:
                raise Conflict  # somebody else went on with it, when there was room
            row.funds, row.funds_problem = Funds.FAILED, refusal.message
            await requests.save_request(tx, row)
        await self._call_off(origin, row)

    async def _call_off(self, origin: Origin, row: ApprovalRow) -> None:
        if row.budget_id:
            await self.clients.budgets.release(origin, row.id, of_round=row.round, budget_id=row.budget_id)
        async with self._db.write(_unkeyed(origin)) as tx:
            kept = await requests.find_request(tx, row.id)
            if kept is None or not refused(kept):
                return
            cancel_timer(tx, OPENING, kept.id)
            if kept.round == 1:
                await requests.delete_request(tx, kept)
                return
            use_cases.advance(kept, Event.REFUSE)
            kept.funds = Funds.RELEASED
            await requests.save_request(tx, kept)

    async def recover(self, origin: Origin, approval_id: UUID) -> None:
        """Go on with an opening that nobody finished: ask those who decide, or undo it."""
        async with self._db.read(origin) as tx:
            row = await requests.find_opening(tx, approval_id)
        if row is None:
            return
        if refused(row):
            await self._call_off(origin, row)
            return
        try:
            prepared = await self._funded(origin, row)
        except (FailedPrecondition, NotFound):
            return
        async with self._db.write(origin) as tx:
            await self.open(tx, prepared)

    async def open_submitted(self, origin: Origin, ask: Ask) -> None:
        """Ask for the approval of something that another service submitted, once; what was asked before is over.

        Where no rule asks for it any more it is approved at once.
        """
        await self.cancel_about(origin, ask.subject_type, ask.subject_id, but=ask.key)
        try:
            prepared = await self.prepare(origin, ask)
        except NoRuleMatches:
            prepared = await self._unopposed(origin, ask)
        async with self._db.write(origin) as tx:
            await self.open(tx, prepared)

    async def _unopposed(self, origin: Origin, ask: Ask) -> Prepared:
        """A request on which nobody decides."""
        facts, _ = await self._facts(origin, ask)
        row = _row(Way(ask, facts, Panel(requester=ask.requester, levels=(), steps=())))
        return Prepared(row.id, new=row)

    async def cancel_about(self, origin: Origin, subject_type: str, subject_id: str, *, but: str = "") -> None:
        """Take back what is asked about a thing, unless it was asked under the key `but`."""
        async with self._db.write(origin) as tx:
            found = await requests.find_about(tx, subject_type, subject_id)
            row = await requests.find_request(tx, found.id) if found and found.opening_key != but else None
            if row is not None and row.state in _TAKEN_BACK:
                service = Caller(use_cases.SERVICE, frozenset(), admin=True)
                await use_cases.cancel(tx, row, service, comment="It was withdrawn or submitted anew.", etag="")

    async def prepare_again(
        self, origin: Origin, approval_id: UUID, caller: Caller, changes: Mapping[str, Any], *, comment: str, etag: str
    ) -> Prepared:
        """Bring a request that was sent back so far that it can be opened again; raises what refuses that."""
        async with self._db.read(origin) as tx:
            row = await requests.get_request(tx, approval_id, Viewer(caller.user_id, caller.roles))
            rules = await self._rules.find(tx)
        use_cases.check_requester(row, caller)
        if refused(row):
            row = await self._sent_back(origin, row)
        if _is_under_way(row, changes):  # an earlier call got so far, and this one goes on
            return await self._funded(origin, row)
        if row.request_type in _OF_OTHERS:
            raise SubmittedElsewhere(row.subject_type, row.subject_id)
        row.check_etag(etag)
        use_cases.advance(row, Event.RESUBMIT)
        way = await self._find_way(origin, _asked_again(row, changes), rules)
        if row.budget_id and row.hold_id:
            # The event that gives it back may still be under way; the new hold needs the room.
            await self.clients.budgets.release(origin, row.id, of_round=row.round, budget_id=row.budget_id)
        return await self._funded(origin, await self._resubmit(origin, row, way, comment))

    async def _sent_back(self, origin: Origin, row: ApprovalRow) -> ApprovalRow:
        """A request whose budget refused an earlier resubmit, when that is undone to its end."""
        await self._call_off(origin, row)
        async with self._db.read(origin) as tx:
            return await requests.get_request(tx, row.id)

    async def _resubmit(self, origin: Origin, seen: ApprovalRow, way: Way, comment: str) -> ApprovalRow:
        async with self._db.write(_unkeyed(origin)) as tx:
            row = await requests.lock_request(tx, seen.id)
            if row.round != seen.round:
                raise Conflict  # somebody else resubmitted it at this moment
            use_cases.advance(row, Event.RESUBMIT)
            fresh = _row(way)
            row.round += 1
            row.title, row.description = fresh.title, fresh.description
            row.amount, row.currency_code = fresh.amount, fresh.currency_code
            row.entity_path, row.department_path = fresh.entity_path, fresh.department_path
            row.panel_record, row.request_type = fresh.panel_record, fresh.request_type
            row.hold_id, row.funds, row.funds_problem = None, Funds.NONE, ""
            row.decision_comment = comment
            await requests.save_request(tx, row)
            set_timer(tx, OPENING, row.id, clock.now() + _ABANDONED)
        return row


def holds(row: ApprovalRow) -> bool:
    """Whether money is set aside for the request."""
    return row.budget_id is not None and row.request_type not in _BUDGET_TYPES


def _is_under_way(row: ApprovalRow, changes: Mapping[str, Any]) -> bool:
    """Whether a request is just being opened again with these changes."""
    said = {"title": row.title, "description": row.description, "amount": row.money}
    return row.state is ApprovalState.OPENING and row.round > 1 and {**said, **changes} == said


def refused(row: ApprovalRow) -> bool:
    """Whether its budget refused its money, and that is being undone."""
    return row.state is ApprovalState.OPENING and row.funds is Funds.FAILED


def _check(ask: Ask) -> None:
    """Raise InvalidFields with everything that does not go together."""
    flaws = []
    if ask.request_type in _BUDGET_TYPES and ask.budget_id is None:
        flaws.append(Violation("budget_id", f"is needed with {ask.request_type}", "approval.budget"))
    if ask.budget_id and ask.amount is None:
        flaws.append(Violation("amount", "is needed with budget_id", "approval.amount"))
    if bool(ask.subject_type) != bool(ask.subject_id):
        flaws.append(Violation("subject_id", "goes together with subject_type", "approval.subject"))
    if ask.overspend and ask.budget_id is None:
        flaws.append(Violation("overspend", "is for requests with a budget_id", "approval.overspend"))
    if flaws:
        raise InvalidFields(flaws)


def _of_budget(ask: Ask, budget: BudgetView) -> Ask:
    """The request with the place of its budget; raises InvalidFields where it names another one, CurrencyMismatch."""
    flaws = []
    for name, kind in _PLACES.items():
        given, own = getattr(ask, name), getattr(budget, name)
        if given and own and given != own:
            told = f"must be that of the budget, {kind.format(own)}, or be left out"
            flaws.append(Violation(name, told, "approval.budget"))
    if ask.request_type is ApprovalType.BUDGET_INCREASE and ask.amount and ask.amount.currency != budget.currency:
        told = f"must be in the currency of the budget, {budget.currency}"
        flaws.append(Violation("amount.currency_code", told, "approval.increase"))
    if flaws:
        raise InvalidFields(flaws)
    return replace(ask, entity_id=budget.entity_id, department_id=budget.department_id or ask.department_id)


def _row(way: Way) -> ApprovalRow:
    ask, facts = way.ask, way.facts
    return ApprovalRow(
        id=ids.new(),
        request_type=ask.request_type,
        title=ask.title,
        description=ask.description,
        requester=ask.requester,
        entity_id=facts.entity_path[0],
        department_id=facts.department_path[0] if facts.department_path else None,
        budget_id=ask.budget_id,
        category=ask.category,
        amount=ask.amount.amount if ask.amount else None,
        currency_code=ask.amount.currency if ask.amount else None,
        entity_path=list(facts.entity_path),
        department_path=list(facts.department_path),
        attributes=dict(ask.attributes),
        subject_type=ask.subject_type,
        subject_id=ask.subject_id,
        state=ApprovalState.OPENING,
        round=1,
        panel_record=panel_record(way.panel),
        funds=Funds.NONE,
        funds_problem="",
        decided_by="",
        decision_comment="",
        opening_key=ask.key,
        opening_digest=ask.digest,
    )


def _asked_again(row: ApprovalRow, changes: Mapping[str, Any]) -> Ask:
    """What a request that was sent back asks for now."""
    ask = Ask(
        request_type=row.request_type,
        title=row.title,
        description=row.description,
        requester=row.requester,
        entity_id=row.entity_id,
        department_id=row.department_id,
        budget_id=row.budget_id,
        category=row.category,
        amount=row.money,
        attributes=row.attributes,
        subject_type=row.subject_type,
        subject_id=row.subject_id,
    )
    return replace(ask, **changes)


def _unkeyed(origin: Origin) -> Origin:
    """The same piece of work, in a transaction that does not answer the call."""
    return Origin(
        tenant_id=origin.tenant_id, actor=origin.actor, trace=origin.trace, deadline=origin.deadline, scope=origin.scope
    )
