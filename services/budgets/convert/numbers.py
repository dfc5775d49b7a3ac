"""Decimal numbers as text."""

from decimal import Decimal


def rate_text(rate: Decimal | None) -> str:
    """Return the rate without trailing zeros; empty text for None."""
    return f"{rate.normalize():f}" if rate else ""
