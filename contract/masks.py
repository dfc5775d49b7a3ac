"""What an update is to change: the fields that `update_mask` names, or else those that are given."""

from google.protobuf.message import Message

from kit.errors import InvalidFields, Violation

_NOT_CHANGED = frozenset({"id", "etag", "request_id", "update_mask"})


def changed_fields(request: Message) -> frozenset[str]:
    """Names of the fields to change; one that is named but not given is to be cleared.

    Raises InvalidFields for a path that the request does not have.
    """
    changeable = {field.name for field in request.DESCRIPTOR.fields} - _NOT_CHANGED
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
    given = {field.name for field, _ in request.ListFields()} & changeable
    return frozenset(paths) if paths else frozenset(given)
