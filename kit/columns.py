"""Generates SQL statements over many rows from one list of columns.

    HOLDS = Columns[Hold](of_table(HoldRow))
    await driver.fetch(HOLDS.insert("budget_holds"), *HOLDS.parameters(holds))

A statement takes one parameter per column. Ids, numbers, enums and times are sent as one text in PostgreSQL's array
syntax, since asyncpg inspects each element of a list twice; free text and bytes are sent as lists.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from operator import attrgetter
from typing import Any, Final, Generic, NamedTuple, TypeVar

from sqlalchemy import ARRAY, Boolean, Date, DateTime, Enum, Integer, LargeBinary, Numeric, String, Uuid
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.types import TypeEngine

RowT = TypeVar("RowT")

_TYPES: Final[Sequence[tuple[type[TypeEngine[Any]], str]]] = (
    (Uuid, "uuid"), (Integer, "int"), (Numeric, "numeric"), (Boolean, "boolean"), (DateTime, "timestamptz"),
    (Date, "date"), (LargeBinary, "bytea"), (Enum, "text"), (String, "text"),
)  # fmt: skip


class Column(NamedTuple):
    """A column of a statement: its name, and how a value is sent."""

    name: str
    type: str
    """The type in PostgreSQL: "numeric", "uuid[]"."""
    free_text: bool = False
    """True for text that may contain any character, and for bytes."""

    @property
    def is_array(self) -> bool:
        """True for a column that holds an array in each row."""
        return self.type.endswith("[]")

    def parameter(self, number: int) -> str:
        """Return the parameter as an array with an element for each row."""
        if self.free_text:
            return f"${number}::{self.type}[]"
        # unnest flattens nested arrays completely, so an array is sent as text and cast in the SELECT.
        return f"${number}::text::{'text' if self.is_array else self.type}[]"

    def encode(self, values: Sequence[object]) -> object:
        """Return the value of the parameter."""
        if self.free_text:
            return values
        if self.is_array:
            return "{" + ",".join([f'"{_literal(value)}"' for value in values]) + "}"  # type: ignore[arg-type]  # arrays
        if self.type == "timestamptz":  # the rows of a batch share most of their times, which take long to format
            texts = {value: str(value) for value in {*values} - {None}}
            values = [texts.get(value) for value in values]
        return _literal(values)


def _literal(values: Iterable[object]) -> str:
    """Format values, which must not contain special characters, as an array in PostgreSQL's syntax."""
    return "{" + ",".join(["NULL" if value is None else str(value) for value in values]) + "}"


def of_table(table: type[DeclarativeBase], *names: str) -> Sequence[Column]:
    """Return the columns of a mapped table, in this order: those with these names, by default all."""
    columns = table.__table__.columns
    return [_column(name, columns[name].type) for name in names or columns.keys()]


def _column(name: str, type: TypeEngine[Any]) -> Column:
    if isinstance(type, ARRAY):
        return Column(name, f"{_column(name, type.item_type).type}[]")
    (sql_type, *_) = [sql for kind, sql in _TYPES if isinstance(type, kind)]
    # Text of a limited length is a code from a fixed list, such as a currency.
    free_text = isinstance(type, LargeBinary) or (isinstance(type, String) and type.length is None)
    return Column(name, sql_type, free_text=free_text)


class Columns(Generic[RowT]):
    """The columns of a statement over many rows, each the attribute of the same name of a row."""

    def __init__(self, columns: Sequence[Column], *, values: Callable[[RowT], Sequence[object]] | None = None) -> None:
        """`values` returns the values of a row in the order of the columns; by default they are its attributes."""
        self._columns = columns
        self._values = values
        self._getters = [attrgetter(column.name) for column in columns]

    def __len__(self) -> int:
        return len(self._columns)

    @property
    def names(self) -> str:
        """The names, separated by commas."""
        return ", ".join(column.name for column in self._columns)

    def rows(self, alias: str, *, first: int = 1) -> str:
        """Return the rows as a table for FROM; `first` is the number of the first parameter."""
        parameters = ", ".join(column.parameter(first + n) for n, column in enumerate(self._columns))
        return f"unnest({parameters}) {alias} ({self.names})"

    def select(self, alias: str, *, first: int = 1) -> str:
        """Return a SELECT of the rows."""
        values = [f"{c.name}::{c.type}" if c.is_array else c.name for c in self._columns]
        return f"select {', '.join(values)} from {self.rows(alias, first=first)}"

    def insert(self, table: str, *, first: int = 1) -> str:
        """Return an INSERT of the rows."""
        return f"insert into {table} ({self.names}) {self.select('r', first=first)}"

    def assignments(self, source: str, *, exclude: Collection[str] = ()) -> str:
        """Return the assignments of an UPDATE from the columns of `source`."""
        return ", ".join(f"{c.name} = {source}.{c.name}" for c in self._columns if c.name not in exclude)

    def parameters(self, rows: Sequence[RowT]) -> list[object]:
        """Return the parameters for these rows, in the order of the columns."""
        if self._values is None:
            values: Iterable[Sequence[object]] = [[get(row) for row in rows] for get in self._getters]
        else:
            values = list(map(list, zip(*map(self._values, rows), strict=True))) or [[] for _ in self._columns]
        return [column.encode(each) for column, each in zip(self._columns, values, strict=True)]
