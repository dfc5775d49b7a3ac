"""Traces, metrics and logs of a process.

Every call belongs to a trace, whose id stands in its log lines, audit rows and events; a span is made
only where the trace is sampled. Metric and attribute names are those of OpenTelemetry's stable RPC conventions.
"""

import asyncio
import io
import logging
import random
import re
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache

import orjson
import structlog
from opentelemetry import trace as otel
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from prometheus_client import Counter, Gauge, Histogram, start_http_server

from kit.settings import Settings

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_RPC = ("rpc_method", "rpc_response_status_code")
SERVER_DURATION = Histogram("rpc_server_call_duration_seconds", "Duration of calls served.", _RPC, buckets=_SECONDS)
CLIENT_DURATION = Histogram("rpc_client_call_duration_seconds", "Duration of calls made.", _RPC, buckets=_SECONDS)
CALLS_UNDER_WAY = Gauge("billing_calls_under_way", "Calls being served just now.")
OUTBOX_OLDEST = Gauge("billing_outbox_oldest_seconds", "Age of the oldest event that is not published yet.")
EVENTS_PUBLISHED = Counter("billing_events_published", "Events published.", ("type",))
EVENTS_CONSUMED = Counter("billing_events_consumed", "Deliveries by outcome.", ("consumer", "outcome"))
EVENT_AGE = Histogram(
    "billing_event_age_seconds", "From an event's transaction to its effect.", ("consumer",), buckets=_SECONDS
)

_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_EXCEPTION_CHARACTERS = 4000
"""The end of a traceback tells; SQLAlchemy's chains are ten times as long."""
_ratio = 0.0


@dataclass(frozen=True, slots=True)
class Trace:
    """Where in a trace we are, as W3C Trace Context has it."""

    trace_id: str
    span_id: str
    sampled: bool

    @classmethod
    def from_header(cls, traceparent: str | None) -> "Trace":
        """The caller's trace; a new one where there is none or the header is damaged."""
        match = _TRACEPARENT.fullmatch(traceparent or "")
        if match and match[1].strip("0") and match[2].strip("0"):
            return cls(match[1], match[2], sampled=bool(int(match[3], 16) & 1))
        return cls(f"{random.getrandbits(128) | 1:032x}", _span_id(), sampled=random.random() < _ratio)  # noqa: S311

    def header(self) -> str:
        """This place as a `traceparent` header."""
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"


def _span_id() -> str:
    return f"{random.getrandbits(64) | 1:016x}"


current: ContextVar[Trace | None] = ContextVar("trace", default=None)
"""The trace of the call or event that is being worked on."""


def span(
    name: str, trace: Trace, kind: otel.SpanKind, attributes: Mapping[str, str | int]
) -> AbstractContextManager[Trace]:
    """A step of the trace, recorded where it is sampled; gives the place for what happens inside."""
    return _recorded(name, trace, kind, attributes) if trace.sampled else nullcontext(trace)


@contextmanager
def _recorded(name: str, trace: Trace, kind: otel.SpanKind, attributes: Mapping[str, str | int]) -> Iterator[Trace]:
    parent = otel.SpanContext(int(trace.trace_id, 16), int(trace.span_id, 16), is_remote=True, trace_flags=_SAMPLED)
    context = otel.set_span_in_context(otel.NonRecordingSpan(parent))
    # attributes live on in the exporter's batch, so they are copied here
    with _tracer().start_as_current_span(name, context, kind, dict(attributes)) as recorded:
        yield Trace(trace.trace_id, f"{recorded.get_span_context().span_id or 1:016x}", sampled=True)


_SAMPLED = otel.TraceFlags(otel.TraceFlags.SAMPLED)


@lru_cache(maxsize=1)
def _tracer() -> otel.Tracer:
    return otel.get_tracer("enterprise-billing")


class _Out(io.RawIOBase):
    """Standard output, written in pieces: a log line costs a copy, not a system call."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: list[bytes] = []
        self._lock = threading.Lock()

    def writable(self) -> bool:
        return True

    def write(self, line: object, /) -> int:
        piece = bytes(line)  # type: ignore[call-overload]  # RawIOBase names no narrower type
        self._lines.append(piece)
        return len(piece)

    def flush(self) -> None:
        with self._lock:
            lines, self._lines = self._lines, []
            if lines:
                sys.stdout.buffer.write(b"".join(lines))
                sys.stdout.buffer.flush()


_out = _Out()


class _Lines:
    """The logger at the bottom of structlog: hands lines to `_out`, and from warnings on at once to the system."""

    def msg(self, line: bytes) -> None:
        _out.write(line + b"\n")

    debug = info = msg

    def warning(self, line: bytes) -> None:
        self.msg(line)
        _out.flush()

    error = critical = exception = fatal = warning


def configure(settings: Settings) -> None:
    """Set up logs, spans and metrics of this process; call it once, at start."""
    global _ratio  # noqa: PLW0603 - read on every call that starts a trace
    _ratio = settings.trace_ratio
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    structlog.configure(
        processors=[_add_trace, lambda _, level, event: _line(settings.service, level, event)],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: _Lines(),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(
        level=logging.WARNING, stream=sys.stderr, format='{"level":"%(levelname)s","message":"%(message)s"}'
    )
    if settings.otlp_endpoint:
        provider = TracerProvider(sampler=ALWAYS_ON, resource=Resource({"service.name": settings.service}))
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(settings.otlp_endpoint, insecure=True)))
        otel.set_tracer_provider(provider)
    if settings.metrics_listen:
        host, _, port = settings.metrics_listen.rpartition(":")
        start_http_server(int(port), host)


def _line(service: str, level: str, event: structlog.typing.EventDict) -> bytes:
    """The event as JSON, in one step: every call writes one, and a chain of processors costs half as much again."""
    if "exc_info" in event:
        event = structlog.processors.format_exc_info(None, level, event)
        if "exception" in event:
            event["exception"] = event["exception"][-_EXCEPTION_CHARACTERS:]
    message = event.pop("event")
    line = {"service": service, "level": level, "timestamp": datetime.now(UTC), "message": message, **event}
    return orjson.dumps(line, default=str, option=orjson.OPT_UTC_Z)


def _add_trace(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    trace = current.get()
    if trace is not None:
        event["trace_id"] = trace.trace_id
    return event


async def flush_logs(every_s: float = 0.2) -> None:
    """Hand log lines to the system several times a second, until cancelled."""
    while True:
        await asyncio.sleep(every_s)
        _out.flush()


def shut_down() -> None:
    """Hand over what is left of logs and spans; a dead collector delays it by two seconds at most."""
    _out.flush()
    provider = otel.get_tracer_provider()
    if isinstance(provider, TracerProvider):
        ending = threading.Thread(target=provider.shutdown, daemon=True)
        ending.start()
        ending.join(timeout=2.0)
