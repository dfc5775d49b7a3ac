"""Errors of exchange rates."""

from kit.errors import PermissionDenied


class RatesOutOfScope(PermissionDenied):
    reason = "RATES_OUT_OF_SCOPE"

    def __init__(self) -> None:
        super().__init__("Exchange rates apply to the whole tenant, but your token is confined to a scope.")
