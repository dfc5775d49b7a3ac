"""Collects the violations in a request, up to the number that an error lists."""

from kit.errors import VIOLATIONS_MAX, Violation


class TooManyViolations(Exception):
    """There are more violations than an error lists, so the rest of the request need not be checked."""


class Violations(list[Violation]):
    """The violations found so far."""

    def append(self, violation: Violation) -> None:
        """Add a violation. Raises TooManyViolations with the first one that an error does not list."""
        super().append(violation)
        if len(self) > VIOLATIONS_MAX:
            raise TooManyViolations
