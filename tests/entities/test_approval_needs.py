"""Facts about amendments that approval rules match: the total value of the contract before and after."""

from dataclasses import replace
from datetime import date
from decimal import Decimal
from uuid import UUID

import pytest

from kit.money import Money
from services.entities import domain
from services.entities.domain.contracts import ContractTerms
from tests.entities.test_renewals import terms


def with_total(total: str) -> ContractTerms:
    stored = Decimal(f"{total}0000")  # the database has six decimal places
    return replace(terms(), total_value=Money(stored, "EUR"))


@pytest.mark.parametrize("amendment_type", domain.amendments.AmendmentType)
@pytest.mark.parametrize(
    ("old", "new", "amount", "difference"),
    [
        ("5000.00", "1000000.00", "1000000.00", "995000.00"),
        ("20000.00", "5000.00", "20000.00", "-15000.00"),
        ("5000.00", "5000.00", "5000.00", "0.00"),
    ],
)
def test_amount_of_an_amendment_is_the_larger_total_value(
    amendment_type: str, old: str, new: str, amount: str, difference: str
) -> None:
    need = domain.approval_needs.of_amendment(
        UUID(int=1), with_total(old), with_total(new), amendment_type, date(2026, 6, 1)
    )
    assert need.amount == Money(Decimal(amount), "EUR")
    attributes = {name: need.attributes[name] for name in ("old_total_value", "new_total_value", "difference")}
    assert attributes == {"old_total_value": old, "new_total_value": new, "difference": difference}
