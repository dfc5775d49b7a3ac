"""SQL over many rows that is generated from columns."""

from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import StrEnum
from uuid import UUID, uuid4

import asyncpg
import pytest
from sqlalchemy import ARRAY, Boolean, Date, DateTime, Integer, LargeBinary, MetaData, Numeric, String, Uuid
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from kit.columns import Column, Columns, of_table
from kit.db import text_enum


class Colour(StrEnum):
    RED = "RED"
    GREEN = "GREEN"


class _Base(DeclarativeBase):
    metadata = MetaData()


class ThingRow(_Base):
    __tablename__ = "things"

    id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    parents: Mapped[list[UUID]] = mapped_column(ARRAY(Uuid))
    amounts: Mapped[list[Decimal]] = mapped_column(ARRAY(Numeric(20, 6)))
    amount: Mapped[Decimal | None] = mapped_column(Numeric(20, 6))
    count: Mapped[int] = mapped_column(Integer)
    sold: Mapped[bool] = mapped_column(Boolean)
    colour: Mapped[Colour] = mapped_column(text_enum(Colour))
    currency: Mapped[str] = mapped_column(String(3))
    day: Mapped[date | None] = mapped_column(Date)
    moment: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    text: Mapped[str | None] = mapped_column(String)
    body: Mapped[bytes] = mapped_column(LargeBinary)


@dataclass
class Thing:
    id: UUID
    parents: list[UUID]
    amounts: list[Decimal]
    amount: Decimal | None
    count: int
    sold: bool
    colour: Colour
    currency: str
    day: date | None
    moment: datetime
    text: str | None
    body: bytes


THINGS = [
    Thing(
        uuid4(), [uuid4(), uuid4()], [Decimal("1.5"), Decimal("-0.000001")], Decimal("12345678901234.123456"), 7, True,
        Colour.GREEN, "EUR", date(2026, 2, 28), datetime(2026, 2, 28, 23, 59, 59, 999_999, tzinfo=UTC),
        """{"quoted", NULL, \\ and ünicode}""", b"\x00\xff",
    ),
    Thing(uuid4(), [], [], None, 0, False, Colour.RED, "JPY", None, datetime(2026, 1, 1, tzinfo=UTC), None, b""),
]  # fmt: skip
CREATE = (
    "create temporary table things (id uuid, parents uuid[], amounts numeric[], amount numeric, count int,"
    " sold boolean, colour text, currency char(3), day date, moment timestamptz, text text, body bytea)"
)


@pytest.mark.parametrize("count", [0, 1, 2])
async def test_rows_are_inserted_as_they_are(admin: "asyncpg.Pool[asyncpg.Record]", count: int) -> None:
    columns = Columns[Thing](of_table(ThingRow))
    assert len(columns) == 12
    async with admin.acquire() as connection:
        await connection.execute(CREATE)
        await connection.execute(columns.insert("things"), *columns.parameters(THINGS[:count]))
        rows = await connection.fetch("select * from things order by count desc")
        await connection.execute("drop table things")
    assert [Thing(**row) for row in rows] == THINGS[:count]


async def test_columns_can_be_chosen_and_parameters_begin_at_any_number(admin: "asyncpg.Pool[asyncpg.Record]") -> None:
    columns = Columns[Thing](of_table(ThingRow, "text", "count"))
    assert columns.assignments("other", exclude=("count",)) == "text = other.text"
    statement = f"select $1::text, text, count from {columns.rows('r', first=2)}"
    rows = await admin.fetch(statement, "first", *columns.parameters(THINGS))
    assert [tuple(row) for row in rows] == [("first", thing.text, thing.count) for thing in THINGS]


async def test_rows_of_another_shape_give_their_values(admin: "asyncpg.Pool[asyncpg.Record]") -> None:
    pairs = Columns[tuple[UUID, str]]([Column("id", "uuid"), Column("key", "text", free_text=True)], values=tuple)
    rows = [(uuid4(), "{a}"), (uuid4(), 'b"')]
    fetched = await admin.fetch(pairs.select("r"), *pairs.parameters(rows))
    assert [tuple(row) for row in fetched] == rows
    assert await admin.fetch(pairs.select("r"), *pairs.parameters([])) == []
