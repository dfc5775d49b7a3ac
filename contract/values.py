"""Converts the value types shared by all services between messages and Python."""

from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from typing import Protocol, TypeVar

from billing.type.v1.money_pb2 import Money as MoneyMessage
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from kit.money import Money, amount_text

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

EnumT = TypeVar("EnumT", bound=Enum)
NumberT_contra = TypeVar("NumberT_contra", bound=int, contravariant=True)


class ProtoEnum(Protocol[NumberT_contra]):
    """A generated enum, such as `Budget.State`."""

    def Name(self, number: NumberT_contra) -> str:
        """Return the name of the value with this number."""


def money_to_proto(money: Money) -> MoneyMessage:
    """Convert Money; the amount has the decimal places of its currency."""
    return MoneyMessage(currency_code=money.currency, amount=money.text())


def money_fields(amount: Decimal, currency: str) -> dict[str, str]:
    """Return the fields of a Money message. Passed to the constructor of the outer message, they save a copy."""
    return {"currency_code": currency, "amount": amount_text(amount, currency)}


def money_from_proto(message: MoneyMessage) -> Money:
    """Convert a Money message of a validated request."""
    return Money(Decimal(message.amount), message.currency_code)


def money_or_none(message: Message, field: str) -> Money | None:
    """Return the Money in `field` of a validated request, or None if the field is not set."""
    return money_from_proto(getattr(message, field)) if message.HasField(field) else None


def time_to_proto(time: datetime) -> Timestamp:
    """Convert a time, exact to the microsecond."""
    return Timestamp(**time_fields(time))


@lru_cache(maxsize=256)
def time_fields(time: datetime) -> dict[str, int]:
    """Return the fields of a Timestamp. Passed to the constructor of the outer message, they save a copy.

    The result is cached: don't modify it.
    """
    since = time - _EPOCH
    return {"seconds": since.days * 86_400 + since.seconds, "nanos": since.microseconds * 1_000}


def time_from_proto(stamp: Timestamp) -> datetime:
    """Convert a Timestamp to a time in UTC."""
    return stamp.ToDatetime(tzinfo=UTC)


def time_or_none(message: Message, field: str) -> datetime | None:
    """Return the Timestamp in `field` of a validated request, or None if the field is not set."""
    return time_from_proto(getattr(message, field)) if message.HasField(field) else None


def enum_or_none(kind: type[EnumT], proto: ProtoEnum[NumberT_contra], number: NumberT_contra) -> EnumT | None:
    """Return the member of `kind` with the name of a value of `proto`, or None for 0 (unspecified).

    `enum_or_none(BudgetState, Budget.State, request.state)`; the values of `kind` are the names of `proto`.
    """
    return kind(proto.Name(number)) if number else None


def date_from_text(text: str) -> date | None:
    """Convert a date of a validated request; None for empty text."""
    return date.fromisoformat(text) if text else None


def required_date(text: str) -> date:
    """Convert a required date of a validated request."""
    return date.fromisoformat(text)


def date_text(day: date | None) -> str:
    """Return the day as YYYY-MM-DD; empty text for None."""
    return "" if day is None else day.isoformat()


def decimal_text(number: Decimal | None) -> str:
    """Return the number as plain decimal text without trailing zeros, such as "1.085"; empty text for None."""
    if number is None:
        return ""
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
