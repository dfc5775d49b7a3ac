"""The text of exceptions in logs and spans: what failed and where, without values of requests and rows.

The message of an exception may contain names and amounts: that of a refusal names the budget and what is left of it,
and PostgreSQL repeats the row that violates a constraint. So a message is only used where its type is known to have
none of them; otherwise the type, the code and the stack trace must be enough.
"""

import traceback
from collections.abc import Iterator
from typing import Final

import asyncpg
from grpc import aio
from sqlalchemy.exc import DBAPIError

from kit.errors import BillingError

_LENGTH_MAX: Final = 300
_SEPARATOR: Final = "\n\nwhich led to:\n\n"


class LoggedText(Exception):
    """Base class of exceptions whose message contains no values, so that it may be logged."""


def describe(error: BaseException) -> str:
    """Return the type of an exception and what else may be logged of it: its reason, code or violated constraint."""
    return " ".join(filter(None, (type(error).__name__, _details(error))))[:_LENGTH_MAX]


def _details(error: BaseException) -> str:
    if isinstance(error, BillingError):
        return error.reason
    if isinstance(error, DBAPIError | asyncpg.PostgresError):
        return _details_of_database(error)
    if isinstance(error, aio.AioRpcError):
        return error.code().name
    # Names of files and hosts, and what the NATS client reports of its connection.
    is_safe = isinstance(error, LoggedText | OSError) or type(error).__module__.startswith("nats.")
    return str(error) if is_safe else ""


def _details_of_database(error: BaseException) -> str:
    """Return the type, SQLSTATE, table and constraint of an error of PostgreSQL."""
    cause = error.orig.__cause__ if isinstance(error, DBAPIError) and error.orig else error
    if not isinstance(cause, asyncpg.PostgresError):
        return type(cause).__name__ if cause else ""
    name = "" if cause is error else type(cause).__name__
    parts = (name, cause.sqlstate, getattr(cause, "table_name", None), getattr(cause, "constraint_name", None))
    return " ".join(filter(None, parts))


def is_of_database(error: BaseException) -> bool:
    """True if the text of an exception may contain a row of the database."""
    return isinstance(error, DBAPIError | asyncpg.PostgresError | asyncpg.InterfaceError)


def stack_trace(error: BaseException) -> str:
    """Return the stack trace of an exception and of those that led to it, with `describe` in place of the messages."""
    blocks = ["".join(traceback.format_tb(each.__traceback__)) + describe(each) for each in _chain(error)]
    return _SEPARATOR.join(reversed(blocks))


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and those that led to it, the latest first."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        current = waiting.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        waiting.append(current.__cause__ or (None if current.__suppress_context__ else current.__context__))
        if isinstance(current, BaseExceptionGroup):
            waiting += current.exceptions
