"""What an update changes."""

from collections.abc import Mapping
from typing import Any, Final

from google.protobuf.message import Message

from contract.masks import changed_fields
from kit.errors import InvalidFields, Violation

_ZERO_IS_A_VALUE: Final = frozenset({"payment_terms_days", "renewal_notice_days"})
"""Fields for which 0 says something else than that there is nothing."""


def changed_columns(request: Message, cleared: Mapping[str, Any]) -> dict[str, Any]:
    """The fields to change, each as the request has it, or as it is when cleared: named and not given, or given empty.

    Raises InvalidFields for fields that can't be cleared.
    """
    named = request.ListFields()
    given = {field.name: value for field, value in named if value or field.name in _ZERO_IS_A_VALUE}
    changed = changed_fields(request)
    required = sorted(changed - cleared.keys() - given.keys())
    if required:
        raise InvalidFields([Violation(field, "can't be cleared", "required") for field in required])
    return {field: given.get(field, cleared.get(field)) for field in changed}
