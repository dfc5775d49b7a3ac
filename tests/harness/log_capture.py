"""Log lines of the process under test: kept for who listens; from warnings on also shown with a test that fails."""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import structlog

from kit import telemetry

_listeners: list[list[dict[str, Any]]] = []


def configure() -> None:
    """Hand log lines to whoever listens."""
    structlog.configure(
        processors=[
            telemetry._add_trace,
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            _keep,
        ],
        cache_logger_on_first_use=False,
    )


@contextlib.contextmanager
def lines() -> Iterator[list[dict[str, Any]]]:
    """The lines that are written inside the block."""
    kept: list[dict[str, Any]] = []
    _listeners.append(kept)
    try:
        yield kept
    finally:
        _listeners.remove(kept)


def _keep(_: object, __: str, line: structlog.typing.EventDict) -> structlog.typing.ProcessorReturnValue:
    for kept in _listeners:
        kept.append(dict(line))
    if line["level"] not in {"debug", "info"}:
        print(*(f"{key}={value}" for key, value in line.items()), file=sys.stderr)  # noqa: T201
    raise structlog.DropEvent
