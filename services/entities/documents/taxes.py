"""Tax rates and treatments as documents show them."""

from decimal import Decimal


def percent(rate_bp: int) -> str:
    """Return the percentage of basis points: "19" for 1900, "7.7" for 770."""
    return f"{(Decimal(rate_bp) / 100).normalize():f}"
