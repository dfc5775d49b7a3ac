"""Errors about the fields of a request that only a rule of the service can judge."""

from kit.errors import InvalidFields, Violation


class InvalidField(InvalidFields):
    """One field of the request is invalid."""

    def __init__(self, field: str, description: str, rule: str) -> None:
        super().__init__([Violation(field, description, rule)])
