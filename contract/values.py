"""The shared value types, on the wire and in Python; each service's `convert.py` calls these."""

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
    """The amount with the decimal places of its currency."""
    return MoneyMessage(currency_code=money.currency, amount=money.text())


def money_fields(amount: Decimal, currency: str) -> dict[str, str]:
    """Return the fields of a money message, for one inside another message: it is then made in place, not copied."""
    return {"currency_code": currency, "amount": amount_text(amount, currency)}


def money_from_proto(message: MoneyMessage) -> Money:
    """Money out of a request that was validated."""
    return Money(Decimal(message.amount), message.currency_code)


def money_or_none(message: Message, field: str) -> Money | None:
    """Return the Money in `field` of a validated request, or None if the field is not set."""
    return money_from_proto(getattr(message, field)) if message.HasField(field) else None


def time_to_proto(moment: datetime) -> Timestamp:
    """A moment, exact to the microsecond."""
    return Timestamp(**time_fields(moment))


@lru_cache(maxsize=256)
def time_fields(moment: datetime) -> dict[str, int]:
    """The fields of a moment's message: for one inside another, which is then filled and not copied."""
    since = moment - _EPOCH
    return {"seconds": since.days * 86_400 + since.seconds, "nanos": since.microseconds * 1_000}


def time_from_proto(stamp: Timestamp) -> datetime:
    """A moment, UTC."""
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
    """A day out of a request that was validated; None for empty text."""
    return date.fromisoformat(text) if text else None


def date_text(day: date | None) -> str:
    """Return the day as YYYY-MM-DD; empty text for None."""
    return "" if day is None else day.isoformat()


def decimal_text(number: Decimal | None) -> str:
    """Return the number as plain decimal text without trailing zeros, such as "1.085"; empty text for None."""
    if number is None:
        return ""
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
