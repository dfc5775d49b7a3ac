"""Many rows in one statement."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ARRAY, TableValuedAlias, bindparam, column, func
from sqlalchemy.types import TypeEngine


def unnested(**columns: tuple[TypeEngine[Any] | type[TypeEngine[Any]], Sequence[Any]]) -> TableValuedAlias:
    """A table of these columns, each with its type and its values: one parameter each, however many rows there are."""
    arrays = [bindparam(name, values, ARRAY(kind), unique=True) for name, (kind, values) in columns.items()]
    named = [column(name, kind) for name, (kind, _) in columns.items()]
    return func.unnest(*arrays).table_valued(*named, name="given").render_derived()
