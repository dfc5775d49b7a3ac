"""SQL for billing profiles."""

from uuid import UUID

from sqlalchemy import or_, select

from kit.db import ReadSession, WriteSession, found
from services.entities.domain.billing_profiles import BillingProfileFilter
from services.entities.errors.billing_profiles import BillingProfileMissing, BillingProfileNotFound
from services.entities.models.billing_profiles import BillingProfileRow
from serving.pages import Page, Slice


async def get(tx: ReadSession, profile_id: UUID) -> BillingProfileRow:
    """Return the profile. Raises BillingProfileNotFound."""
    query = select(BillingProfileRow).where(BillingProfileRow.id == profile_id)
    return found(await tx.one_or_none(query), BillingProfileNotFound(profile_id))


async def find_default(tx: ReadSession) -> BillingProfileRow | None:
    """Return the default profile of the tenant, or None if the tenant has no profile."""
    return await tx.one_or_none(select(BillingProfileRow).where(BillingProfileRow.is_default))


async def get_default(tx: ReadSession) -> BillingProfileRow:
    """Return the default profile of the tenant. Raises BillingProfileMissing."""
    return found(await find_default(tx), BillingProfileMissing())


async def lock(tx: WriteSession, profile_id: UUID) -> BillingProfileRow:
    """Return the profile, locked until the transaction ends, for a change of it. Raises BillingProfileNotFound.

    Waits for transactions that refer to the profile by a foreign key, such as those that open a number series of it.
    """
    query = select(BillingProfileRow).where(BillingProfileRow.id == profile_id).with_for_update()
    return found(await tx.one_or_none(query), BillingProfileNotFound(profile_id))


async def lock_shared(tx: WriteSession, profile_id: UUID) -> BillingProfileRow:
    """Return the profile, protected from changes until the transaction ends. Raises BillingProfileNotFound."""
    query = select(BillingProfileRow).where(BillingProfileRow.id == profile_id).with_for_update(read=True)
    return found(await tx.one_or_none(query), BillingProfileNotFound(profile_id))


async def lock_default(tx: WriteSession) -> BillingProfileRow | None:
    """Return the default profile, locked until the transaction ends, or None if there is no profile.

    Until then, no other transaction of the tenant changes which profile is the default.
    """
    await tx.lock("default billing profile")
    return await tx.one_or_none(select(BillingProfileRow).where(BillingProfileRow.is_default).with_for_update())


async def save(tx: WriteSession, profile: BillingProfileRow) -> None:
    """Write a new or changed profile; the row then has its id and etag."""
    tx.add(profile)
    await tx.flush()


async def list_page(tx: ReadSession, page: Page, filters: BillingProfileFilter) -> Slice[BillingProfileRow]:
    """Return one page of the profiles that match all filters, oldest first."""
    query = select(BillingProfileRow)
    if filters.state is not None:
        query = query.where(BillingProfileRow.state == filters.state)
    if filters.entity_id is not None:
        query = query.where(BillingProfileRow.entity_id == filters.entity_id)
    if filters.text:
        searched = BillingProfileRow.name, BillingProfileRow.legal_name
        query = query.where(or_(*(column.icontains(filters.text, autoescape=True) for column in searched)))
    return await page.fetch(tx, query, BillingProfileRow.id)
