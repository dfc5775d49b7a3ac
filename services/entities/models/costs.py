"""Table of the departments that costs were posted to, by their ancestors at that time."""

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
"""Each row: a cost was posted to `department_id` when this was `ancestor_id` or below it. Written by a trigger."""
