"""Sample values for conversion tests: every type of a signature gets a value in which every part is set."""

import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, Final, Literal, TypeVar, Union, get_args, get_origin, get_type_hints
from uuid import UUID

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy import ARRAY, Boolean, Date, DateTime, Integer, LargeBinary, Numeric, String, Uuid
from sqlalchemy import Enum as EnumType
from sqlalchemy.dialects.postgresql import JSONB

from kit import ids
from kit.db import TenantRow
from kit.money import Money

T = TypeVar("T")
RowT = TypeVar("RowT", bound=TenantRow)

NOW: Final = datetime(2026, 2, 1, 12, tzinfo=UTC)
DAY: Final = date(2026, 1, 1)
TEXTS: Final[Mapping[str, str]] = {
    "currency_code": "EUR", "currency": "EUR", "country_code": "DE", "country": "DE", "time_zone": "Europe/Berlin",
    "base_currency": "EUR", "quote_currency": "USD",
}  # fmt: skip
"""Texts with a form, by the name of the field, column or parameter."""
NOT_IN_MASKS: Final = frozenset({"id", "etag", "request_id", "update_mask", "validate_only"})
DECIMALS: Final = frozenset({"amount", "rate", "quantity", "weight", "fraction"})


class Samples:
    """Builds values by type hint; `of_type` and `of_field` override what must fit together."""

    def __init__(
        self,
        of_type: Mapping[Any, Callable[["Samples"], Any]],
        of_field: Mapping[str, Any],
    ) -> None:
        self._of_type = of_type
        self._of_field = of_field
        self._number = 0

    def variants(self, function: Callable[..., Any]) -> list[dict[str, Any]]:
        """Arguments of a call, and the same with False for boolean parameters."""
        arguments = self.arguments(function)
        negated = {name: False for name, value in arguments.items() if value is True}
        return [arguments, {**arguments, **negated}] if negated else [arguments]

    def arguments(self, function: Callable[..., Any]) -> dict[str, Any]:
        """Arguments for a call of the function, also for parameters with a default."""
        hints = get_type_hints(function)
        names = list(inspect.signature(function).parameters)
        return {name: self._named(function.__name__, name, hints[name]) for name in names}

    def value(self, hint: Any, name: str = "") -> Any:
        """A value of this type in which every part is set."""
        if hint in self._of_type:
            return self._of_type[hint](self)
        origin, arguments = get_origin(hint), get_args(hint)
        if origin in {Union, types.UnionType}:
            return self.value(next(each for each in arguments if each is not type(None)), name)
        if origin is Literal:
            return arguments[0]
        if name in self._of_field and (hint is Any or origin is not None):
            return self._of_field[name]
        if origin is not None:
            return self._collection(origin, arguments, name)
        return self._instance(hint, name)

    def _collection(self, origin: Any, arguments: tuple[Any, ...], name: str) -> Any:
        if issubclass(origin, Mapping):
            return {self.value(arguments[0], name): self.value(arguments[1], name)}
        if origin is tuple and arguments[-1:] != (Ellipsis,):
            return tuple(self.value(each, name) for each in arguments)
        variants = (
            get_args(arguments[0]) if get_origin(arguments[0]) in {Union, types.UnionType} else [arguments[0]] * 2
        )
        items = [self.value(each, name) for each in variants if each is not type(None)]
        return origin(items) if origin in {list, set, frozenset, tuple} else items

    def _instance(self, kind: Any, name: str) -> Any:
        self._number += 1
        if not isinstance(kind, type):
            raise NotImplementedError(f"no sample for {name}: {kind}")
        if typing.is_typeddict(kind) or hasattr(kind, "_fields"):  # a TypedDict or a NamedTuple
            hints = get_type_hints(kind)
            return kind(**{field: self._named(kind.__name__, field, hint) for field, hint in hints.items()})
        if issubclass(kind, TenantRow):
            return self.row(kind)
        if issubclass(kind, Message):
            return self.message(kind)
        if issubclass(kind, Enum):
            return next(iter(kind))
        if dataclasses.is_dataclass(kind) and kind is not Money:
            hints = get_type_hints(kind)
            fields = [field.name for field in dataclasses.fields(kind) if field.init]
            return kind(**{field: self._named(kind.__name__, field, hints[field]) for field in fields})
        return self.scalar(kind, name, self._number)

    def _named(self, owner: str, name: str, hint: Any) -> Any:
        for key in (f"{owner}.{name}", name):
            if key in self._of_field:
                return self._of_field[key]
        return self.value(hint, name)

    def scalar(self, kind: type, name: str, number: int) -> Any:
        """A plain value; `number` makes it differ from others."""
        values: dict[type, Any] = {
            str: TEXTS.get(name, f"text {number}"), int: number, bool: True, bytes: b"bytes", float: 1.5,
            Decimal: Decimal(number), UUID: UUID(int=number), date: DAY + timedelta(days=number),
            datetime: NOW + timedelta(seconds=number), time: time(9, 30), timedelta: timedelta(hours=number),
            Money: Money(Decimal(number), "EUR"),
        }  # fmt: skip
        if kind not in values:
            raise NotImplementedError(f"no sample for {name}: {kind}")
        return values[kind]

    def row(self, kind: type[RowT]) -> RowT:
        """A row with a value in every column."""
        row = kind()
        for number, (name, column) in enumerate(kind.__mapper__.columns.items(), 1):
            keys = (f"{column.table.name}.{column.name}", column.name)
            known = next((key for key in keys if key in self._of_field), None)
            if known:
                value = self._of_field[known]
            elif isinstance(column.type, JSONB):
                value = self.value(get_args(get_type_hints(kind)[name])[0], name)
            else:
                value = self._column(column.name, column.type, number)
            setattr(row, name, value)
        return row

    def _column(self, name: str, column: Any, number: int) -> Any:
        if isinstance(column, ARRAY):
            return [self._column("", column.item_type, number)] * 2
        if isinstance(column, EnumType):
            return column.enums[0]
        python: dict[type, type] = {
            Uuid: UUID, String: str, Integer: int, Boolean: bool, Numeric: Decimal, DateTime: datetime, Date: date,
            LargeBinary: bytes,
        }  # fmt: skip
        kind = next(value for of, value in python.items() if isinstance(column, of))
        return self.scalar(kind, name, number)

    def message(self, kind: type[Message]) -> Any:
        """A message with a value in every field; of a oneof in the last one."""
        message = kind()
        for field in kind.DESCRIPTOR.fields:
            self.fill(message, field)
        if "update_mask" in kind.DESCRIPTOR.fields_by_name:
            fields = [field.name for field in kind.DESCRIPTOR.fields if field.name not in NOT_IN_MASKS]
            message.update_mask.paths[:] = fields  # type: ignore[attr-defined]
        return message

    def fill(self, message: Message, field: Any) -> None:
        """Set a field."""
        self._number += 1
        target = getattr(message, field.name)
        if field.message_type and field.message_type.GetOptions().map_entry:
            target["key"] = "value"
        elif field.message_type:
            filled = self._nested(field)
            (target.add() if field.is_repeated else target).CopyFrom(filled)
        elif field.is_repeated:
            target.append(self._plain(field))
        else:
            setattr(message, field.name, self._plain(field))

    def _nested(self, field: Any) -> Message:
        kind = field.message_type._concrete_class
        if kind is Timestamp:
            return Timestamp(seconds=int(NOW.timestamp()) + self._number)
        filled: Message = self.message(kind)
        return filled

    def _plain(self, field: Any) -> Any:
        if field.type == FieldDescriptor.TYPE_ENUM:
            names = {value.name: value.number for value in field.enum_type.values if value.number}
            return names.get(self._of_field.get(f"{field.containing_type.name}.{field.name}"), list(names.values())[-1])
        if field.type == FieldDescriptor.TYPE_BOOL:
            return True
        if field.type == FieldDescriptor.TYPE_BYTES:
            return b"bytes"
        return self._text(field) if field.type == FieldDescriptor.TYPE_STRING else self._number

    def _text(self, field: Any) -> str:
        for name in (f"{field.containing_type.name}.{field.name}", field.name):
            if name in self._of_field:
                return str(self._of_field[name])
        if prefix := _id_prefix(field):
            return f"{prefix}_{UUID(int=self._number).hex}"
        if field.name.endswith("_date"):
            return (DAY + timedelta(days=self._number)).isoformat()
        if field.name in DECIMALS:
            return str(self._number)
        return TEXTS.get(field.name, f"text {self._number}")


def _id_prefix(field: Any) -> str:
    """The prefix of the ids that the field takes, from its validation rules; empty if it takes no id."""
    from buf.validate import validate_pb2

    rules = str(field.GetOptions().Extensions[validate_pb2.field])
    by_rule = (prefix for prefix in ids.KINDS if f"{prefix}_" in rules)
    by_name = (prefix for prefix, kind in ids.KINDS.items() if field.name == kind.field)
    return next(by_rule, "") or next(by_name, "")
