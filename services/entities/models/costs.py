"""Table of the departments that had costs while they were below others."""

from typing import Final

from sqlalchemy import Column, Table, Uuid

from kit.db import Base

POSTED_DEPARTMENTS: Final = Table(
    "posted_departments",
    Base.metadata,
    Column("tenant_id", Uuid, primary_key=True),
    Column("ancestor_id", Uuid, primary_key=True),
    Column("department_id", Uuid, primary_key=True),
)
"""A department that a cost was posted to while it was `ancestor_id` or below it; written by a trigger."""
