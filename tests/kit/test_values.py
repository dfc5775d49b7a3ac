"""Conversion of optional fields of requests."""

from datetime import UTC, date, datetime
from decimal import Decimal
from enum import StrEnum

import pytest
from billing.budgets.v1.budget_pb2 import Budget
from billing.budgets.v1.ledger_service_pb2 import ChargeRequest
from billing.type.v1.money_pb2 import Money as MoneyMessage
from google.protobuf.timestamp_pb2 import Timestamp

from contract.values import date_from_text, date_text, enum_or_none, money_or_none, time_or_none
from kit.money import Money


class State(StrEnum):
    DRAFT = "DRAFT"


def test_unset_fields_are_none() -> None:
    assert time_or_none(ChargeRequest(), "charge_time") is None
    assert money_or_none(ChargeRequest(), "amount") is None
    assert enum_or_none(State, Budget.State, Budget.State.STATE_UNSPECIFIED) is None


def test_set_fields_are_converted() -> None:
    request = ChargeRequest(charge_time=Timestamp(seconds=60), amount=MoneyMessage(currency_code="EUR", amount="1.00"))
    assert time_or_none(request, "charge_time") == datetime(1970, 1, 1, 0, 1, tzinfo=UTC)
    assert money_or_none(request, "amount") == Money(Decimal(1), "EUR")
    assert enum_or_none(State, Budget.State, Budget.DRAFT) is State.DRAFT


def test_unknown_field_is_an_error() -> None:
    with pytest.raises(ValueError, match="no_such_field"):
        time_or_none(ChargeRequest(), "no_such_field")


def test_dates_are_iso_text_and_none_is_empty() -> None:
    assert date_text(date(2026, 3, 1)) == "2026-03-01"
    assert date_text(None) == ""
    assert date_from_text(date_text(None)) is None
