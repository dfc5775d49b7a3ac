"""Update masks: the fields that an update request changes."""

from google.protobuf.message import Message

from kit.errors import InvalidFields, Violation

_NEVER_CHANGED = frozenset({"id", "etag", "request_id", "update_mask"})


def changed_fields(request: Message) -> frozenset[str]:
    """Return the names of the fields to change: those in `update_mask`, or without a mask those that are set.

    A field that is in the mask but not set is to be cleared. Raises InvalidFields for a path that can't be changed.
    """
    changeable = {field.name for field in request.DESCRIPTOR.fields} - _NEVER_CHANGED
    paths: list[str] = list(getattr(request, "update_mask").paths)  # noqa: B009 - generated messages have no base with it
    unknown = [path for path in paths if path not in changeable]
    if unknown:
        allowed = ", ".join(sorted(changeable))
        raise InvalidFields(
            [
                Violation("update_mask", f"{path!r} can't be changed; allowed: {allowed}", "mask.path")
                for path in unknown
            ]
        )
    if paths:
        return frozenset(paths)
    return frozenset({field.name for field, _ in request.ListFields()} & changeable)
