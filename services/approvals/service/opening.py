"""The saga that opens a request: it stores the request, holds its amount on the budget, and starts its workflow.

The steps are transactions in two services. Each step is committed before the next one begins:

1. The request is stored in OPENING, with a timer.
2. The budgets service holds the amount, under a key of the request and its round.
3. The workflow starts and the request is PENDING.

If the budget rejects the hold, the opening is rolled back: the rejection is stored, the hold is released, and the
request is deleted, or returned to CHANGES_REQUESTED if it was resubmitted. After the release, a hold that arrives late
is rejected. An opening that was interrupted at any point is continued by a repeated call with the same key, or by the
timer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from eventing import outbox
from eventing.timers import cancel_timer, set_timer
from kit import clock, idempotency
from kit.db import Database, WriteSession
from kit.errors import (
    AlreadyExists,
    BillingError,
    Conflict,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    PermissionDenied,
)
from kit.money import Money
from kit.origin import Origin
from services.approvals import domain, events, service, store
from services.approvals.clients import Clients
from services.approvals.domain.approvals import (
    CANCELLABLE_STATES,
    EXTERNAL_TYPES,
    OPENING_TIMER,
    SERVICE_ACTOR,
    Actor,
    ApprovalAction,
    ApprovalDraft,
    ApprovalState,
    ReservationState,
)
from services.approvals.domain.rules import Rule
from services.approvals.domain.workflows import ApprovalRequirement
from services.approvals.errors.approvals import NoRuleMatches, SubmittedElsewhere
from services.approvals.errors.budgets import conceal_above
from services.approvals.models.approvals import ApprovalRow
from services.approvals.service.planning import PlannedRequest
from services.approvals.service.routing import RuleCache

_RESUME_AFTER: Final = timedelta(seconds=30)
"""Time after which the timer continues an interrupted opening."""


@dataclass(frozen=True, slots=True)
class PreparedApproval:
    """A request that is ready for `open`: its amount is held if it needs a hold."""

    id: UUID
    budget_id: UUID | None
    amount: Money | None
    new: ApprovalRow | None = None
    """The request, if it is not stored yet."""
    hold_id: UUID | None = None
    """The hold on its budget."""

    @classmethod
    def of_stored(cls, row: ApprovalRow, hold_id: UUID | None = None) -> "PreparedApproval":
        """Return the prepared form of a request that is stored already."""
        return cls(row.id, row.budget_id, row.money, hold_id=hold_id)

    @classmethod
    def of_new(cls, row: ApprovalRow) -> "PreparedApproval":
        """Return the prepared form of a request that `open` stores."""
        return cls(row.id, row.budget_id, row.money, new=row)


async def refuse_submission(tx: WriteSession, draft: ApprovalDraft, error: BillingError | None = None) -> None:
    """Publish once that no request could be created for a subject of another service; by default, an internal error.

    Has no effect if the submission has its request, or if a later one is being handled.
    """
    row = await store.approvals.find_open_by_subject(tx, draft.subject_type, draft.subject_id)
    if row is not None and row.opening_key == draft.key:
        return
    if await store.submissions.refuse(tx, draft.subject_type, draft.subject_id, draft.submission):
        refused = events.published.submission_refused(draft, error or Internal(tx.origin.trace.trace_id))
        outbox.append(tx, refused)


class OpeningSaga:
    """Opens requests: `prepare` or `prepare_resubmission` first, then `open` in the transaction of the call."""

    def __init__(self, db: Database, clients: Clients) -> None:
        self._db = db
        self.clients = clients
        self._rules = RuleCache()

    async def _active_rules(self, origin: Origin) -> Sequence[Rule]:
        async with self._db.read(origin) as tx:
            return await self._rules.get(tx)

    async def check_need(self, origin: Origin, draft: ApprovalDraft) -> ApprovalRequirement:
        """Return whether a request needs approval. Raises the errors of planning.

        It does if the condition of a rule could not be evaluated; the submission is then refused with that reason.
        """
        rules = await self._active_rules(origin)
        try:
            return ApprovalRequirement(
                True, (await service.planning.plan(self.clients, origin, draft, rules)).workflow.rules
            )
        except NoRuleMatches as error:
            return ApprovalRequirement(bool(error.failures), ())

    async def preview(self, origin: Origin, draft: ApprovalDraft) -> ApprovalRow:
        """Return the request as it would be after its creation, without storing it. Raises the errors of planning."""
        rules = await self._active_rules(origin)
        row = service.planning.new_row(await service.planning.plan(self.clients, origin, draft, rules))
        row.state = ApprovalState.PENDING if row.workflow.steps else ApprovalState.APPROVED
        return row

    async def prepare(self, origin: Origin, draft: ApprovalDraft) -> PreparedApproval:
        """Plan a new request, store it and hold its amount; or continue a request that was created with the same key.

        Raises the errors of CreateApproval; then nothing remains stored.
        """
        async with self._db.read(origin) as tx:
            row = await store.approvals.find_by_key(tx, draft.requester, draft.key)
            rules = await self._rules.get(tx)
        if row is not None and (error := idempotency.mismatch(row.opening_digest, draft.digest, draft.key)):
            raise error
        if row is not None and hold_rejected(row):
            await self._roll_back(origin, row)
            row = None
        if row is not None:
            return await self._hold(origin, row)
        row = service.planning.new_row(await service.planning.plan(self.clients, origin, draft, rules))
        if not domain.approvals.needs_hold(row.request_type, row.budget_id):
            return PreparedApproval.of_new(row)
        async with self._db.write(_without_key(origin)) as tx:
            await service.approvers.check_present(tx, self.clients, row.workflow)
            await store.approvals.save(tx, row)
            set_timer(tx, OPENING_TIMER, row.id, clock.now() + _RESUME_AFTER)
        return await self._hold(origin, row)

    async def open(self, tx: WriteSession, prepared: PreparedApproval) -> ApprovalRow:
        """Start the workflow of a prepared request.

        Raises Conflict if a concurrent call rolled the opening back, or if an approver has left meanwhile.
        """
        if prepared.new is not None:
            await service.approvers.check_present(tx, self.clients, prepared.new.workflow)
            prepared.new.state = ApprovalState.PENDING
            await self._start(tx, prepared.new, new=True)
            return prepared.new
        row = await store.approvals.lock_if_found(tx, prepared.id)
        if row is None or hold_rejected(row):
            raise Conflict
        if row.state is ApprovalState.OPENING:
            service.approvals.advance(row, ApprovalAction.OPEN)
            if prepared.hold_id:
                row.hold_id, row.funds = prepared.hold_id, ReservationState.HELD
            cancel_timer(tx, OPENING_TIMER, row.id)
            await self._start(tx, row, new=False)
        return row

    @staticmethod
    async def _start(tx: WriteSession, row: ApprovalRow, *, new: bool) -> None:
        """Start the workflow, on the budget of the next period if the budget was rolled over meanwhile."""
        moved = await service.rollovers.move_opening(tx, row, new=new)
        await service.approvals.start(tx, row, new=new)
        if moved:
            store.approvals.insert_action(tx, row, moved)

    async def _hold(self, origin: Origin, row: ApprovalRow) -> PreparedApproval:
        """Hold the amount of an OPENING request. If the budget rejects it, roll back and raise its error."""
        needs_hold = domain.approvals.needs_hold(row.request_type, row.budget_id)
        if row.state is not ApprovalState.OPENING or not needs_hold or row.budget_id is None or row.money is None:
            return PreparedApproval.of_stored(row)
        try:
            hold_id = await self.clients.budgets.hold(
                origin, row.id, of_round=row.round, budget_id=row.budget_id, amount=row.money, description=row.title
            )
        except (FailedPrecondition, NotFound) as error:
            await self._reject(origin, row.id, error)
            raise
        return PreparedApproval.of_stored(row, hold_id)

    async def _reject(self, origin: Origin, approval_id: UUID, error: BillingError) -> None:
        """Store that the budget rejected the hold, then roll the opening back.

        Raises Conflict if a concurrent call continued the opening.
        """
        async with self._db.write(_without_key(origin)) as tx:
            row = await store.approvals.lock_if_found(tx, approval_id)
            if row is None or row.state is not ApprovalState.OPENING:
                raise Conflict
            problem = conceal_above(error, row.budget_id) if row.budget_id else error
            row.funds, row.funds_problem = ReservationState.FAILED, problem.message
            await store.approvals.save(tx, row)
        await self._roll_back(origin, row)

    async def _roll_back(self, origin: Origin, row: ApprovalRow) -> None:
        """Release the hold of a rejected opening, then delete the request or return it to CHANGES_REQUESTED."""
        if row.budget_id:
            await self.clients.budgets.release(origin, row.id, of_round=row.round, budget_id=row.budget_id)
        async with self._db.write(_without_key(origin)) as tx:
            current = await store.approvals.lock_if_found(tx, row.id)
            if current is None or not hold_rejected(current):
                return
            cancel_timer(tx, OPENING_TIMER, current.id)
            if current.round == 1:
                await store.approvals.delete(tx, current)
                return
            service.approvals.advance(current, ApprovalAction.REJECT_HOLD)
            current.funds = ReservationState.RELEASED
            await store.approvals.save(tx, current)

    async def resume(self, origin: Origin, approval_id: UUID) -> None:
        """Continue an interrupted opening: start the workflow, or roll back."""
        async with self._db.read(origin) as tx:
            row = await store.approvals.find_opening(tx, approval_id)
        if row is None:
            return
        if hold_rejected(row):
            await self._roll_back(origin, row)
            return
        try:
            prepared = await self._hold(origin, row)
        except (FailedPrecondition, NotFound):
            return  # rolled back
        async with self._db.write(origin) as tx:
            await self.open(tx, prepared)

    async def open_submitted(self, origin: Origin, draft: ApprovalDraft) -> None:
        """Create the request for a subject that another service submitted, once per key.

        An open request of an earlier submission is cancelled. If no rule matches any more, the request is approved. If
        it can't be created, or the condition of a rule could not be evaluated, SubmissionRefused is published with the
        reason. A submission that was refused or withdrawn, or that is followed by a later one, has no effect.
        """
        try:
            await self._open_submitted(origin, draft)
        except (InvalidArgument, FailedPrecondition, NotFound, AlreadyExists, PermissionDenied) as error:
            async with self._db.write(origin) as tx:
                await refuse_submission(tx, draft, error)

    async def _open_submitted(self, origin: Origin, draft: ApprovalDraft) -> None:
        subject = draft.subject_type, draft.subject_id
        async with self._db.write(origin) as tx:
            if not await store.submissions.claim(tx, *subject, draft.submission):
                return
            await self._cancel_by_subject(tx, *subject, except_key=draft.key)
        try:
            prepared = await self.prepare(origin, draft)
        except NoRuleMatches as error:
            if error.failures:
                raise
            row = service.planning.new_row(await service.planning.plan_without_rules(self.clients, origin, draft))
            prepared = PreparedApproval.of_new(row)
        async with self._db.write(origin) as tx:
            if await store.submissions.claim(tx, *subject, draft.submission):  # it may have been withdrawn meanwhile
                await self.open(tx, prepared)

    async def withdraw_submission(self, origin: Origin, subject_type: str, subject_id: str) -> None:
        """Cancel the open request about a withdrawn subject. Its submissions that arrive later have no effect."""
        async with self._db.write(origin) as tx:
            await store.submissions.withdraw(tx, subject_type, subject_id)
            await self._cancel_by_subject(tx, subject_type, subject_id)

    @staticmethod
    async def _cancel_by_subject(tx: WriteSession, subject_type: str, subject_id: str, *, except_key: str = "") -> None:
        """Cancel the open request about a subject, unless it was created with the key `except_key`."""
        open_row = await store.approvals.find_open_by_subject(tx, subject_type, subject_id)
        if open_row is None or open_row.opening_key == except_key:
            return
        row = await store.approvals.lock_if_found(tx, open_row.id)
        if row is not None and row.state in CANCELLABLE_STATES:
            actor = Actor(user_id=SERVICE_ACTOR, admin=True)
            comment = "The subject was withdrawn or submitted again."
            await service.approvals.cancel(tx, row, actor, comment=comment, etag="")

    async def prepare_resubmission(
        self, origin: Origin, approval_id: UUID, actor: Actor, changes: Mapping[str, Any], *, comment: str, etag: str
    ) -> PreparedApproval:
        """Plan a new round of a request, store it and hold its amount. Raises the errors of ResubmitApproval."""
        async with self._db.read(origin) as tx:
            actor = await service.delegations.with_delegations(tx, actor)
            row = await store.approvals.get(tx, approval_id, actor)
            rules = await self._rules.get(tx)
            actor = service.approvals.limit_to_scope(tx, row, actor)
        service.approvals.check_requester(row, actor)
        if hold_rejected(row):
            row = await self._finish_roll_back(origin, row)
        if _is_being_resubmitted(row, changes):
            return await self._hold(origin, row)
        if row.request_type in EXTERNAL_TYPES:
            raise SubmittedElsewhere(row.subject_type, row.subject_id)
        row.check_etag(etag)
        service.approvals.advance(row, ApprovalAction.RESUBMIT)
        draft = service.planning.draft_of(row, changes)
        planned = await service.planning.plan(self.clients, origin, draft, rules)
        if row.budget_id and row.hold_id:
            # The budget may not have consumed the event that releases the previous hold; the new hold needs its amount.
            await self.clients.budgets.release(origin, row.id, of_round=row.round, budget_id=row.budget_id)
        return await self._hold(origin, await self._start_round(origin, row, planned, comment))

    async def _finish_roll_back(self, origin: Origin, row: ApprovalRow) -> ApprovalRow:
        """Complete the interrupted rollback of an earlier resubmission, and return the changed request."""
        await self._roll_back(origin, row)
        async with self._db.read(origin) as tx:
            return await store.approvals.get(tx, row.id)

    async def _start_round(
        self, origin: Origin, previous: ApprovalRow, planned: PlannedRequest, comment: str
    ) -> ApprovalRow:
        """Store the next round of a request. Raises Conflict if a concurrent call stored one first."""
        async with self._db.write(_without_key(origin)) as tx:
            row = await store.approvals.lock(tx, previous.id)
            if row.round != previous.round:
                raise Conflict
            service.approvals.advance(row, ApprovalAction.RESUBMIT)
            await service.approvers.check_present(tx, self.clients, planned.workflow)
            new = service.planning.new_row(planned)
            row.round += 1
            row.title, row.description = new.title, new.description
            row.amount, row.currency_code = new.amount, new.currency_code
            row.entity_path, row.department_path = new.entity_path, new.department_path
            row.workflow_record, row.request_type = new.workflow_record, new.request_type
            row.requested_type = new.requested_type
            row.hold_id, row.funds, row.funds_problem = None, ReservationState.NONE, ""
            row.decision_comment = comment
            await store.approvals.save(tx, row)
            set_timer(tx, OPENING_TIMER, row.id, clock.now() + _RESUME_AFTER)
        return row


def hold_rejected(row: ApprovalRow) -> bool:
    """True if the budget rejected the hold of an OPENING request, and the rollback is not complete."""
    return row.state is ApprovalState.OPENING and row.funds is ReservationState.FAILED


def _is_being_resubmitted(row: ApprovalRow, changes: Mapping[str, Any]) -> bool:
    """True if an earlier call stored a new round with these changes, and its opening was interrupted."""
    current = {"title": row.title, "description": row.description, "amount": row.money}
    return row.state is ApprovalState.OPENING and row.round > 1 and {**current, **changes} == current


def _without_key(origin: Origin) -> Origin:
    """Return the origin without its idempotency key, for a transaction that does not store the response of the call."""
    return Origin(
        tenant_id=origin.tenant_id, actor=origin.actor, trace=origin.trace, deadline=origin.deadline, scope=origin.scope
    )
