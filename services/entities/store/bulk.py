"""Many rows in one statement."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ARRAY, TableValuedAlias, bindparam, column, func
from sqlalchemy.types import TypeEngine


def rows_as_table(**columns: tuple[TypeEngine[Any] | type[TypeEngine[Any]], Sequence[Any]]) -> TableValuedAlias:
    """Return a table of rows that are parameters of the statement: one array for each column, with type and values."""
    arrays = [bindparam(name, values, ARRAY(kind), unique=True) for name, (kind, values) in columns.items()]
    typed = [column(name, kind) for name, (kind, _) in columns.items()]
    return func.unnest(*arrays).table_valued(*typed, name="input").render_derived()
