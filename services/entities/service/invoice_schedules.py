"""Use cases of invoice schedules."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any
from uuid import UUID

from eventing.timers import cancel_timer, set_timer
from kit.db import WriteSession
from services.entities import domain, service, store
from services.entities.domain.entities import EntityAction
from services.entities.domain.invoice_schedules import RUN_TIMER, InvoiceScheduleDraft
from services.entities.errors.invoice_schedules import InvoiceScheduleDeleted
from services.entities.models.invoice_schedules import InvoiceScheduleRow


async def create(tx: WriteSession, draft: InvoiceScheduleDraft) -> InvoiceScheduleRow:
    """Create a schedule; its first run is the next one that is due.

    Raises EntityNotFound, EntityStateForbids, BillingProfileNotFound, BillingProfileInactive, InvoiceScheduleExists.
    """
    entity = await store.entities.lock_shared(tx, draft.entity_id)
    domain.entities.advance(entity.id, entity.state, EntityAction.ADD_INVOICE)
    if draft.billing_profile_id:
        await service.billing_profiles.find_issuer(tx, draft.billing_profile_id)
    draft = replace(draft, time_zone=draft.time_zone or entity.time_zone)
    schedule = InvoiceScheduleRow(**asdict(draft))
    schedule.next_period_end = schedule.timing.first_end(await tx.now())
    await store.invoice_schedules.save(tx, schedule)
    set_run_timer(tx, schedule)
    return schedule


async def update(tx: WriteSession, schedule_id: UUID, changes: Mapping[str, Any], *, etag: str) -> InvoiceScheduleRow:
    """Change a schedule. The period of the next run stays, unless a pause ends after its run was due.

    Raises InvoiceScheduleNotFound, InvoiceScheduleDeleted, BillingProfileNotFound, BillingProfileInactive,
    EtagMismatch.
    """
    schedule = await _lock(tx, schedule_id, etag)
    if changes.get("billing_profile_id"):
        await service.billing_profiles.find_issuer(tx, changes["billing_profile_id"])
    was_active = schedule.active
    for column, value in changes.items():
        setattr(schedule, column, value)
    if schedule.active and not was_active:
        schedule.next_period_end = max(schedule.next_period_end, schedule.timing.first_end(await tx.now()))
    await store.invoice_schedules.save(tx, schedule)
    set_run_timer(tx, schedule)
    return schedule


async def delete(tx: WriteSession, schedule_id: UUID, *, etag: str) -> InvoiceScheduleRow:
    """Delete a schedule: it has no more runs, and stays readable with those it had.

    Raises InvoiceScheduleNotFound, InvoiceScheduleDeleted, EtagMismatch.
    """
    schedule = await _lock(tx, schedule_id, etag)
    schedule.active, schedule.delete_time = False, await tx.now()
    await store.invoice_schedules.save(tx, schedule)
    set_run_timer(tx, schedule)
    return schedule


async def _lock(tx: WriteSession, schedule_id: UUID, etag: str) -> InvoiceScheduleRow:
    schedule = await store.invoice_schedules.lock(tx, schedule_id)
    schedule.check_etag(etag)
    if schedule.delete_time:
        raise InvoiceScheduleDeleted(schedule.id)
    return schedule


def set_run_timer(tx: WriteSession, schedule: InvoiceScheduleRow) -> None:
    """Set the timer of the next run, or cancel it if the schedule is not active."""
    if schedule.active:
        set_timer(tx, RUN_TIMER, schedule.id, schedule.next_run_time)
    else:
        cancel_timer(tx, RUN_TIMER, schedule.id)
