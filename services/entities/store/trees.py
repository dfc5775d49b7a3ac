"""What the statements about trees share."""

from sqlalchemy import CTE, func, select

from kit.db import ReadSession


async def count_levels(tx: ReadSession, path: CTE) -> int:
    """How many levels lead from the top to where the path began."""
    return await tx.one_or_none(select(func.count()).select_from(path)) or 0
