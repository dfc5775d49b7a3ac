"""Numbers that are no money, as text."""

from decimal import Decimal


def rate_text(rate: Decimal | None) -> str:
    """A rate without needless zeros; empty where there is none."""
    return f"{rate.normalize():f}" if rate else ""
