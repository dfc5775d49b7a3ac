"""Submissions of other services: the last one of each subject, and whether it has ended without a request."""

from typing import Final

from kit.db import WriteSession

_LAST: Final = 2**31 - 1
"""Number of a submission after all others."""
_SET: Final = """
    insert into submissions (tenant_id, subject_type, subject_id, number, ended) values ($1, $2, $3, $4, $5)
    on conflict (tenant_id, subject_type, subject_id) do update set number = excluded.number, ended = excluded.ended
    where submissions.number < excluded.number or (submissions.number = excluded.number and not submissions.ended)
    returning number"""


async def claim(tx: WriteSession, subject_type: str, subject_id: str, number: int) -> bool:
    """Store that a submission is being handled; locks its subject until the transaction ends.

    Return False if it was refused or withdrawn before, or if a later one is being handled.
    """
    return bool(await tx.fetch(_SET, tx.tenant_id, subject_type, subject_id, number, False))


async def refuse(tx: WriteSession, subject_type: str, subject_id: str, number: int) -> bool:
    """Store that a submission gets no request. Return False in the cases of `claim`."""
    return bool(await tx.fetch(_SET, tx.tenant_id, subject_type, subject_id, number, True))


async def withdraw(tx: WriteSession, subject_type: str, subject_id: str) -> None:
    """Store that the subject is never submitted again."""
    await tx.fetch(_SET, tx.tenant_id, subject_type, subject_id, _LAST, True)
