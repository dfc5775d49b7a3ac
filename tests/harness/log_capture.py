"""Capture the log lines of the test process; warnings and errors are also shown with a failed test."""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import structlog

from kit import telemetry

_captures: list[list[dict[str, Any]]] = []


def configure() -> None:
    """Send log lines to all active captures."""
    structlog.configure(
        processors=[
            telemetry._add_trace,
            structlog.processors.add_log_level,
            _show,
            lambda _, __, line: telemetry.hide_values(line),
            _capture,
        ],
        cache_logger_on_first_use=False,
    )


@contextlib.contextmanager
def lines() -> Iterator[list[dict[str, Any]]]:
    """Capture the lines that are written inside the block."""
    captured: list[dict[str, Any]] = []
    _captures.append(captured)
    try:
        yield captured
    finally:
        _captures.remove(captured)


def _show(_: object, __: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Print warnings and errors in full; the log of a service has no messages of exceptions."""
    if line["level"] not in {"debug", "info"}:
        full = structlog.processors.format_exc_info(None, "", dict(line))
        print(*(f"{key}={value!r}" for key, value in full.items()), file=sys.stderr)  # noqa: T201
    return line


def _capture(_: object, __: str, line: structlog.typing.EventDict) -> structlog.typing.ProcessorReturnValue:
    for captured in _captures:
        captured.append(dict(line))
    raise structlog.DropEvent
