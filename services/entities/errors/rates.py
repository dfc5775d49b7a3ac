"""What is refused of exchange rates."""

from kit.errors import PermissionDenied


class RatesOutOfScope(PermissionDenied):
    reason = "RATES_OUT_OF_SCOPE"

    def __init__(self) -> None:
        super().__init__("Exchange rates hold for the whole tenant; your token is confined to a part of it.")
