"""Checks the values of command options, which `make` passes as environment variables."""

from collections.abc import Collection
from difflib import get_close_matches


class InvalidOption(Exception):
    """An option has a value that is not allowed; the message names the option and the allowed values."""


def split(text: str) -> list[str]:
    """Return the parts of a list separated by commas."""
    return [part.strip() for part in text.split(",") if part.strip()]


def names(option: str, text: str, allowed: Collection[str], *, required: bool = False) -> list[str]:
    """Return the names in a list separated by commas. Raises InvalidOption for names that are not allowed."""
    parts = split(text)
    if required and not parts:
        raise InvalidOption(f"{option} is missing. Known: {', '.join(allowed)}")
    for part in parts:
        if part not in allowed:
            near = get_close_matches(part, allowed, n=1)
            suggestion = f"; did you mean {near[0]}?" if near else "."
            raise InvalidOption(f"{option}={text}: {part} is unknown{suggestion} Known: {', '.join(allowed)}")
    return parts


def whole_number(option: str, text: str, lowest: int = 0, highest: int | None = None) -> int:
    """Return a whole number in a range. Raises InvalidOption."""
    if text.isascii() and text.isdecimal() and lowest <= int(text) and (highest is None or int(text) <= highest):
        return int(text)
    limits = f"from {lowest} to {highest}" if highest is not None else f"of {lowest} or more"
    raise InvalidOption(f"{option}={text}: must be a whole number {limits}")


def decimal_number(option: str, text: str) -> float:
    """Return a number of zero or more. Raises InvalidOption."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if 0 <= number < float("inf"):
        return number
    raise InvalidOption(f"{option}={text}: must be a number of 0 or more")
