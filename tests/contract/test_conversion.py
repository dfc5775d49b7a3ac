"""No field of a resource is forgotten: a row whose every column is filled gives a message whose every field is."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, TypeVar
from uuid import UUID

import pytest
from google.protobuf.message import Message
from sqlalchemy import ARRAY, Date, DateTime, Enum, Integer, Numeric, String, Uuid

from kit import ids
from kit.db import TenantRow
from services.budgets import convert as budgets
from services.budgets.models import AlertRow, BudgetRow, EntryRow
from services.entities import convert as entities
from services.entities.models import DepartmentRow, EntityRow

RowT = TypeVar("RowT", bound=TenantRow)

NOW = datetime.now(UTC)

FIXED = {
    "currency_code": "EUR", "country_code": "DE", "time_zone": "Europe/Berlin", "spent": Decimal("30.00"),
    "amount": Decimal("100.00"), "period_start": date(2026, 1, 1), "period_end": date(2027, 1, 1),
    "labels": {"team": "a"}, "verdict": "ACCEPTED_OVERSPENT", "chain_amounts": [Decimal(100)],
    "chain_spent": [Decimal(130)], "chain_versions": [1],
    "address": {"lines": ["Weg 1"], "postal_code": "1", "city": "B", "region": "C", "country_code": "DE"},
}  # fmt: skip
"""Columns whose values must go together."""


def filled(kind: type[RowT]) -> RowT:
    """A row with something in every column."""
    row = kind()
    for number, (name, column) in enumerate(kind.__mapper__.columns.items(), 1):
        setattr(row, name, FIXED[name] if name in FIXED else something(column.type, number))
    return row


def something(kind: Any, number: int) -> Any:
    made: dict[type, Any] = {
        Uuid: UUID(int=number), Enum: getattr(kind, "enums", [""])[0], String: f"text {number}", Integer: number,
        Numeric: Decimal(number), DateTime: NOW + timedelta(seconds=number), Date: date(2026, 1, number),
    }  # fmt: skip
    if isinstance(kind, ARRAY):
        return [something(kind.item_type, number)]
    return next(value for of, value in made.items() if isinstance(kind, of))


def empty_fields(message: Message, path: str = "") -> list[str]:
    """The fields that have nothing in them, those of nested messages too."""
    given = dict(message.ListFields())
    empty = [f"{path}{field.name}" for field in message.DESCRIPTOR.fields if field not in given]
    for field, value in given.items():
        entry = field.message_type and field.message_type.GetOptions().map_entry
        if not field.message_type or entry or field.message_type.file.package.startswith("google"):
            continue
        for item in value if field.is_repeated else [value]:
            empty += empty_fields(item, f"{path}{field.name}.")
    return empty


def charge() -> Message:
    entry = filled(EntryRow)
    entry.chain_ids = [entry.budget_id]
    return budgets.recorded_charge_to_proto(entry, {entry.budget_id: "Cloud"})


@pytest.mark.parametrize(
    "message",
    [
        entities.entity_to_proto(filled(EntityRow)),
        entities.department_to_proto(filled(DepartmentRow)),
        budgets.budget_to_proto(filled(BudgetRow)),
        budgets.alert_to_proto(filled(AlertRow)),
        charge(),
    ],
    ids=lambda message: type(message).__name__,
)
def test_every_field_is_filled(message: Message) -> None:
    assert empty_fields(message) == []


def test_ids_are_those_of_their_kind() -> None:
    budget = budgets.budget_to_proto(filled(BudgetRow))
    assert ids.BUDGET.parse(budget.id) != ids.BUDGET.parse(budget.parent_id)
    assert ids.ENTITY.parse(budget.entity_id)
    assert ids.DEPARTMENT.parse(budget.department_id)
