"""The texts of exceptions in logs and spans have no values of requests and rows."""

import ast
import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from grpc import StatusCode, aio
from nats.errors import NoServersError
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from eventing.consumer import error_text
from kit import failures, telemetry
from kit.db import Database
from kit.errors import FailedPrecondition
from kit.origin import Origin
from tests.harness.callers import Caller, refusal
from tests.kit.conftest import ServedProbe
from tests.kit.probe import DoRequest

ROOT = Path(__file__).parents[2]
SHARED = ("kit", "contract", "eventing", "rendering", "serving", "clients", "gateway", "services")
SECRET = "Canary-4711"

INSERT = text(
    "insert into dead_letters (id, tenant_id, consumer, event_id, subject, body, actor, traceparent, error, deliveries)"
    " values (:id, :tenant_id, :secret, :id, :secret, :secret, :secret, :secret, :secret, :deliveries)"
)


class BudgetFull(FailedPrecondition):
    reason = "BUDGET_FULL"


async def violation(db: Database, origin: Origin) -> DBAPIError:
    """Violate a constraint with a row that has the secret in its columns."""
    values = {"id": uuid4(), "tenant_id": origin.tenant_id, "secret": SECRET, "deliveries": None}
    with pytest.raises(DBAPIError) as raised:
        async with db.write(origin) as tx:
            await tx.execute(INSERT.bindparams(**values))
    return raised.value


async def test_a_violated_constraint_is_named_without_the_row(db: Database, origin: Callable[..., Origin]) -> None:
    error = await violation(db, origin())
    assert "parameters hidden" in str(error)
    assert failures.describe(error) == "IntegrityError NotNullViolationError 23502 dead_letters"
    for shown in (failures.describe(error), failures.stack_trace(error), error_text(error)):
        assert SECRET not in shown


async def test_an_argument_of_the_wrong_type_is_not_shown(db: Database, origin: Callable[..., Origin]) -> None:
    with pytest.raises(asyncpg.DataError) as raised:
        async with db.read(origin()) as tx:
            await tx.fetch("select $1::uuid", SECRET)
    assert SECRET in str(raised.value)
    for shown in (failures.describe(raised.value), failures.stack_trace(raised.value), error_text(raised.value)):
        assert SECRET not in shown


@pytest.mark.parametrize(
    ("error", "described"),
    [
        (BudgetFull(f"{SECRET} has 5.00 EUR left"), "BudgetFull BUDGET_FULL"),
        (KeyError(SECRET), "KeyError"),
        (ValueError(SECRET), "ValueError"),
        (ConnectionRefusedError(111, "refused"), "ConnectionRefusedError [Errno 111] refused"),
        (NoServersError(), f"NoServersError {NoServersError()}"),
        (aio.AioRpcError(StatusCode.INTERNAL, aio.Metadata(), aio.Metadata(), SECRET), "AioRpcError INTERNAL"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_only_messages_without_values_are_used(error: Exception, described: str) -> None:
    assert failures.describe(error) == described


def test_a_stack_trace_shows_the_causes_without_their_messages() -> None:
    def fail() -> None:
        raise KeyError(SECRET)

    error: Exception | None = None
    try:
        try:
            fail()
        except KeyError:
            raise ExceptionGroup(SECRET, [ValueError(SECRET)]) from BudgetFull(SECRET)
    except ExceptionGroup as group:
        error = group
    assert error is not None
    shown = failures.stack_trace(error)
    assert "raise ExceptionGroup" in shown  # the source line
    for name in ("ExceptionGroup", "ValueError", "BudgetFull BUDGET_FULL"):
        assert name in shown
    assert SECRET not in shown


async def test_an_exception_that_asyncio_reports_is_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        raise ValueError(SECRET)

    task = asyncio.create_task(fail())
    await asyncio.wait({task})
    asyncio.get_running_loop().call_exception_handler(
        {"message": "Task exception was never retrieved", "future": task, "exception": task.exception()}
    )
    (record,) = caplog.records
    line = json.loads(telemetry._LibraryFormatter().format(record))
    assert (line["logger"], line["message"]) == ("asyncio", "Task exception was never retrieved")
    assert "ValueError" in line["exception"]
    assert SECRET not in json.dumps(line)


def test_text_that_is_not_valid_unicode_is_logged() -> None:
    line = telemetry._format("budgets", None, "info", {"event": "x", "text": "\ud800"})
    assert json.loads(line)["text"] == "\ud800"


async def test_the_log_of_an_internal_error_has_its_stack_trace_without_values(
    probe: ServedProbe, finance: Caller, logs: list[dict[str, Any]]
) -> None:
    async def fail(*_: Any) -> Any:
        raise ZeroDivisionError(SECRET)

    probe.servicer.on_call = fail
    await refusal(finance.call(probe.stub.Do, DoRequest()))
    (line,) = [line for line in logs if line["event"] == "internal error"]
    assert "raise ZeroDivisionError(SECRET)" in line["exception"]
    assert SECRET not in json.dumps(line, default=str)


@pytest.mark.parametrize("folder", SHARED)
def test_no_log_call_formats_an_exception_itself(folder: str) -> None:
    """The formatter describes `error=error` and `exc_info=error`; `str(error)` would have the message."""
    formatted = ("repr(error", "str(error", "repr(exc", "str(exc", "error.details", "error.message", "repr(outcome")
    violations = [
        f"{file}:{node.lineno}"
        for file in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("log.")
        if any(text in ast.unparse(word.value) for word in node.keywords for text in formatted)
    ]
    assert violations == []
