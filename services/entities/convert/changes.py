"""Changed fields of update requests."""

from collections.abc import Mapping
from typing import Any, Final

from google.protobuf.message import Message

from contract.masks import changed_fields
from kit.errors import InvalidFields, Violation

_ZERO_IS_A_VALUE: Final = frozenset({"payment_terms_days", "renewal_notice_days"})
"""Fields in which 0 is a value of its own and doesn't clear the field."""


def changed_columns(request: Message, cleared: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields to change with their new values.

    A field that is named in the mask without a value, or set to an empty one, gets its value in `cleared`. Raises
    InvalidFields for fields that are missing there: they are required.
    """
    values = {field.name: value for field, value in request.ListFields() if value or field.name in _ZERO_IS_A_VALUE}
    changed = changed_fields(request)
    required = sorted(changed - cleared.keys() - values.keys())
    if required:
        raise InvalidFields([Violation(field, "is required and can't be cleared", "required") for field in required])
    return {field: values.get(field, cleared.get(field)) for field in changed}
