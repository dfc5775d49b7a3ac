"""Errors for violations that the domain rules find in several fields."""

from collections.abc import Iterable

from kit.errors import InvalidFields, Violation
from services.entities.domain.field_violations import FieldViolation


def raise_any(violations: Iterable[FieldViolation]) -> None:
    """Raise InvalidFields with all violations; do nothing if there are none."""
    fields = [Violation(*violation) for violation in violations]
    if fields:
        raise InvalidFields(fields)
