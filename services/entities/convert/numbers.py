"""Numbers as texts."""

from decimal import Decimal


def decimal_text(number: Decimal) -> str:
    """A decimal string, never with an exponent, and without needless zeros."""
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
