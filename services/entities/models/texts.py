"""Enums that are kept as text.

Under row-level security PostgreSQL reads an index for `=` of text, but not of an enum type: what lists are filtered by
is text, and a CHECK named `<table>_<column>_check` says which.
"""

from enum import Enum

from sqlalchemy import Enum as SqlEnum


def text_enum(kind: type[Enum]) -> SqlEnum:
    """A column of text that holds the values of `kind`."""
    return SqlEnum(kind, native_enum=False, values_callable=lambda members: [member.value for member in members])
