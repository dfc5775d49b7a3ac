"""What may be wrong with something as it is asked for, beyond what each field alone can tell."""

from typing import NamedTuple


class Flaw(NamedTuple):
    """A value that can't be, or does not go with another."""

    field: str
    """Its place, as callers write it: "targets[2].weight"."""
    description: str
    rule: str
