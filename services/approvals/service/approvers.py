"""Approvers from user management: slot assignment for new workflows, and replacement of deactivated users."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final
from uuid import UUID

from kit import clock
from kit.db import Database, WriteSession
from kit.errors import Conflict
from kit.origin import Origin
from services.approvals import domain, service, store
from services.approvals.clients import Clients
from services.approvals.domain.approvals import ApprovalState
from services.approvals.domain.approvers import DirectorySnapshot, Lineage
from services.approvals.domain.routes import Route
from services.approvals.domain.rules import ApproverKind, Facts, RuleStep
from services.approvals.domain.workflows import Workflow
from services.approvals.errors.approvals import ApproverInactive, ApproverUnknown

_BATCH: Final = 50


async def create_workflow(clients: Clients, origin: Origin, route: Route, facts: Facts, lineage: Lineage) -> Workflow:
    """Return the workflow of a request. Raises ApproverMissing, or Unavailable if user management does not respond."""
    responsible = lineage.responsible
    user_ids = sorted(domain.approvers.users_to_look_up(route, facts, responsible))
    people = await asyncio.gather(*(clients.directory.find(origin, user_id) for user_id in user_ids))
    inactive = {
        user_id for user_id, person in zip(user_ids, people, strict=True) if person is None or not person.active
    }
    to_replace = sorted(inactive | ({facts.requester} & set(user_ids)))
    managers = await asyncio.gather(*(_active_managers(clients, origin, user_id) for user_id in to_replace))
    directory = DirectorySnapshot(
        managers=dict(zip(to_replace, managers, strict=True)), inactive=frozenset(inactive) - {facts.requester}
    )
    return domain.approvers.create_workflow(route, facts, responsible, directory)


async def find_problems(clients: Clients, origin: Origin, steps: Sequence[RuleStep]) -> Mapping[str, str]:
    """Return why users whom the steps of a rule name can't be approvers, by user id."""
    approvers = [approver for step in steps for approver in (*step.approvers, step.escalate_to) if approver]
    user_ids = sorted({approver.name for approver in approvers if approver.kind is ApproverKind.USER})
    users = await asyncio.gather(*(clients.directory.find(origin, user_id) for user_id in user_ids))
    problems = {}
    for user_id, user in zip(user_ids, users, strict=True):
        try:
            service.users.check_active(user_id, user)
        except (ApproverUnknown, ApproverInactive) as error:
            problems[user_id] = error.message
    return problems


async def _active_managers(clients: Clients, origin: Origin, user_id: str) -> Sequence[str]:
    managers = await clients.directory.managers(origin, user_id)
    return [person.user_id for person in managers if person.active and person.user_id != user_id]


async def replace_departed(db: Database, clients: Clients, origin: Origin, user_id: str) -> None:
    """End the delegations of a user who left, and assign their slots in all pending requests anew.

    Each request has a transaction of its own, and one that fails does not affect the others. Raises the first error
    after all requests, or Conflict if a request is in OPENING or a manager is leaving, so that the event is delivered
    again after that.
    """
    async with db.write(origin) as tx:
        await store.deactivated_users.insert(tx, user_id)
        await service.delegations.end_of_user(tx, user_id)
        is_opening = await store.approvals.list_ids_by_approver(tx, user_id, ApprovalState.OPENING, None, 1)
    managers = await _active_managers(clients, origin, user_id)
    after, failures = None, list[Exception]()
    while True:
        async with db.read(origin) as tx:
            approval_ids = await store.approvals.list_ids_by_approver(tx, user_id, ApprovalState.PENDING, after, _BATCH)
        for approval_id in approval_ids:
            try:
                await _replace_in(db, origin, approval_id, user_id, managers)
            except Exception as error:  # noqa: BLE001 - the requests after it don't depend on it
                failures.append(error)
        if len(approval_ids) < _BATCH:
            break
        after = approval_ids[-1]
    if failures:
        raise failures[0]
    if is_opening:
        raise Conflict


async def _replace_in(db: Database, origin: Origin, approval_id: UUID, user_id: str, managers: Sequence[str]) -> None:
    async with db.write(origin) as tx:
        row = await store.approvals.lock_if_found(tx, approval_id)
        if row is None or row.state is not ApprovalState.PENDING:
            return
        change = domain.approvers.replace_departed(row.workflow, user_id, managers, clock.now())
        if change.records:
            await service.users.check_not_leaving(tx, managers)
            await service.approvals.apply(tx, row, change)


async def check_present(tx: WriteSession, clients: Clients, workflow: Workflow) -> None:
    """Raise Conflict if an approver of a workflow left after it was created, and before its request is stored.

    A repeated call creates another workflow. Without a directory nobody is checked when a workflow is created either.
    """
    user_ids = {slot.user_id for step in workflow.steps for slot in (*step.slots, step.escalate_to) if slot} - {""}
    if clients.directory.configured:
        await service.users.check_not_leaving(tx, user_ids)
