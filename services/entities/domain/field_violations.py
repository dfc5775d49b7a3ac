"""Violations of the rules between fields, found by the domain rules of several nouns."""

from typing import NamedTuple


class FieldViolation(NamedTuple):
    """A field whose value is invalid by itself or together with others. A use case raises all of them at once."""

    field: str
    """Path of the field in the request: "targets[2].weight"."""
    description: str
    rule: str
    """Name of the violated rule, for clients: "contract.end"."""
