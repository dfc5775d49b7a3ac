"""SQL for the number series of billing profiles, and the prefixes of their numbers."""

from collections.abc import Collection, Mapping
from typing import Final
from uuid import UUID

from sqlalchemy import Delete, and_, delete, or_, select, tuple_
from sqlalchemy.dialects.postgresql import insert

from kit.db import WriteSession
from services.entities import domain
from services.entities.domain.billing_documents import DocumentType
from services.entities.models.billing_profiles import BillingProfileRow, NumberPrefixRow, NumberSeriesRow

_TAKE: Final = """
    update number_series set last_number = last_number + 1
    where tenant_id = $1 and profile_id = $2 and document_type = $3 and year = $4
    returning prefix, digits, last_number"""
_OPEN: Final = """
    insert into number_series (tenant_id, profile_id, document_type, year, prefix, digits, last_number)
    select tenant_id, id, $3, $4,
        case $3 when 'INVOICE' then invoice_prefix when 'STATEMENT' then statement_prefix else credit_note_prefix end,
        number_digits, 1
    from billing_profiles where tenant_id = $1 and id = $2 for key share
    on conflict (tenant_id, profile_id, document_type, year)
        do update set last_number = number_series.last_number + 1
    returning prefix, digits, last_number"""


async def take_next(tx: WriteSession, profile: BillingProfileRow, kind: DocumentType, year: int) -> str:
    """Return the next number of a series: "INV-2026-000001".

    The number is taken when the transaction commits, and the series has no gaps. Other transactions that take a number
    of the same series wait until then, so this must be the last statement of the transaction.
    """
    await tx.flush()
    key = tx.tenant_id, profile.id, kind.value, year
    # The first statement opens no series, since it need not read and lock the profile.
    rows = await tx.fetch(_TAKE, *key) or await tx.fetch(_OPEN, *key)
    prefix, digits, number = rows[0]
    return domain.billing_profiles.format_number(prefix, year, digits, number)


async def reserve(tx: WriteSession, profile_id: UUID, prefixes: Mapping[DocumentType, str]) -> Collection[DocumentType]:
    """Reserve the prefixes for a locked or new profile; return the types whose prefix belongs to other documents.

    Prefixes that the profile has reserved before are freed, unless a series has used them.
    """
    await tx.execute(_free(profile_id, prefixes))
    for kind, prefix in sorted(prefixes.items(), key=lambda item: item[1]):
        values = {"tenant_id": tx.tenant_id, "prefix": prefix, "profile_id": profile_id, "document_type": kind}
        await tx.execute(insert(NumberPrefixRow).values(values).on_conflict_do_nothing())
    same_owner = [
        and_(
            NumberPrefixRow.prefix == prefix,
            NumberPrefixRow.profile_id == profile_id,
            NumberPrefixRow.document_type == kind,
        )
        for kind, prefix in prefixes.items()
    ]
    reserved = await tx.all(select(NumberPrefixRow.document_type).where(or_(*same_owner)))
    return prefixes.keys() - set(reserved)


def _free(profile_id: UUID, prefixes: Mapping[DocumentType, str]) -> Delete:
    used = select(NumberSeriesRow.prefix).where(
        NumberSeriesRow.profile_id == profile_id,
        NumberSeriesRow.document_type == NumberPrefixRow.document_type,
        NumberSeriesRow.prefix == NumberPrefixRow.prefix,
    )
    return delete(NumberPrefixRow).where(
        NumberPrefixRow.profile_id == profile_id,
        tuple_(NumberPrefixRow.document_type, NumberPrefixRow.prefix).not_in(list(prefixes.items())),
        ~used.exists(),
    )
