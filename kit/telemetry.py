"""Traces, metrics and logs of a process.

Every call belongs to a trace, whose id is in its log lines, audit rows and events; spans are recorded only if the trace
is sampled. Metric and attribute names follow OpenTelemetry's stable RPC conventions.
"""

import asyncio
import json
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
from functools import lru_cache, partial
from uuid import uuid4

import orjson
import structlog
from opentelemetry import trace as otel
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from prometheus_client import Counter, Gauge, Histogram, start_http_server

from kit import failures
from kit.settings import Settings
from kit.version import VERSION

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()

DURATION_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""In seconds."""
_RPC = ("rpc_method", "rpc_response_status_code")
SERVER_DURATION = Histogram(
    "rpc_server_call_duration_seconds", "Duration of incoming calls.", _RPC, buckets=DURATION_BUCKETS
)
CLIENT_DURATION = Histogram(
    "rpc_client_call_duration_seconds", "Duration of outgoing calls.", _RPC, buckets=DURATION_BUCKETS
)
CALLS_IN_PROGRESS = Gauge("billing_calls_in_progress", "Calls in progress.")
BUILD_INFO = Gauge("billing_build_info", "Always 1; the label is the version of this process.", ("version",))
BUILD_INFO.labels(VERSION).set(1)
OUTBOX_OLDEST = Gauge("billing_outbox_oldest_seconds", "Age of the oldest unpublished event.")
OUTBOX_UNPUBLISHED = Gauge("billing_outbox_unpublished", "Events in the outbox that are not published yet.")
EVENTS_PUBLISHED = Counter("billing_events_published", "Events published.", ("type",))
EVENTS_CONSUMED = Counter("billing_events_consumed", "Deliveries by outcome.", ("consumer", "outcome"))
EVENTS_PENDING = Gauge("billing_events_pending", "Events that a consumer has not received yet.", ("consumer",))
EVENT_AGE = Histogram(
    "billing_event_age_seconds",
    "Time from an event's transaction to its effect.",
    ("consumer",),
    buckets=DURATION_BUCKETS,
)

_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_TRACEBACK_LENGTH_MAX = 4000
"""Only the end of a longer traceback is logged; chained ones of SQLAlchemy are ten times as long."""
_sampling_ratio = 0.0


@dataclass(frozen=True, slots=True)
class Trace:
    """A position in a trace, as in W3C Trace Context."""

    trace_id: str
    span_id: str
    sampled: bool

    @classmethod
    def from_header(cls, traceparent: str | None) -> "Trace":
        """Parse a `traceparent` header; starts a new trace if it is missing or invalid."""
        match = _TRACEPARENT.fullmatch(traceparent or "")
        if match and match[1].strip("0") and match[2].strip("0"):
            return cls(match[1], match[2], sampled=bool(int(match[3], 16) & 1))
        return cls(f"{random.getrandbits(128) | 1:032x}", _span_id(), sampled=random.random() < _sampling_ratio)  # noqa: S311

    @staticmethod
    def is_header(text: str) -> bool:
        """True if this is a valid `traceparent` header."""
        match = _TRACEPARENT.fullmatch(text)
        return bool(match and match[1].strip("0") and match[2].strip("0"))

    def header(self) -> str:
        """Format as a `traceparent` header."""
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"


def _span_id() -> str:
    return f"{random.getrandbits(64) | 1:016x}"


current: ContextVar[Trace | None] = ContextVar("trace", default=None)
"""Trace of the call, event or timer that is being handled."""


def span(
    name: str, trace: Trace, kind: otel.SpanKind, attributes: Mapping[str, str | int]
) -> AbstractContextManager[Trace]:
    """Enter a span of the trace, which is recorded if the trace is sampled; yields the position inside the span."""
    return _recorded(name, trace, kind, attributes) if trace.sampled else nullcontext(trace)


@contextmanager
def _recorded(name: str, trace: Trace, kind: otel.SpanKind, attributes: Mapping[str, str | int]) -> Iterator[Trace]:
    parent = otel.SpanContext(int(trace.trace_id, 16), int(trace.span_id, 16), is_remote=True, trace_flags=_SAMPLED)
    context = otel.set_span_in_context(otel.NonRecordingSpan(parent))
    # An exception that passes is no fault by itself: `set_outcome` decides, by the code that the caller gets.
    with _tracer().start_as_current_span(
        name,
        context,
        kind,
        dict(attributes),  # copied, since the exporter holds on to the attributes until it sends its batch
        record_exception=False,
        set_status_on_exception=False,
    ) as recorded:
        yield Trace(trace.trace_id, f"{recorded.get_span_context().span_id or 1:016x}", sampled=True)


def set_outcome(
    attributes: Mapping[str, str | int],
    *,
    error_type: str = "",
    fault: bool = False,
    exception: BaseException | None = None,
) -> None:
    """Set the outcome of the span that is entered, if it is recorded.

    `error_type` is the reason of an error. Only a `fault` sets the status ERROR, and only the `exception` of a fault is
    recorded, with its stack trace: a refusal is an expected result, so its status stays UNSET.
    """
    entered = otel.get_current_span()
    if not entered.is_recording():
        return
    entered.set_attributes(attributes)
    if error_type:
        entered.set_attribute("error.type", error_type)
    if fault:
        entered.set_status(otel.StatusCode.ERROR, error_type)
        if exception is not None:
            entered.add_event(
                "exception",
                {
                    "exception.type": type(exception).__qualname__,
                    "exception.message": failures.describe(exception),
                    "exception.stacktrace": failures.stack_trace(exception)[-_TRACEBACK_LENGTH_MAX:],
                },
            )


FAULTS = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})
"""gRPC codes that are faults of the server, as in OpenTelemetry's conventions for gRPC."""


_SAMPLED = otel.TraceFlags(otel.TraceFlags.SAMPLED)


@lru_cache(maxsize=1)
def _tracer() -> otel.Tracer:
    return otel.get_tracer("enterprise-billing")


class _Logger:
    """Writes lines to the buffer of standard output, and flushes it only after warnings and errors.

    Otherwise `flush_logs` does: structlog's own BytesLogger flushes after each line, a system call for every RPC.
    """

    def msg(self, line: bytes) -> None:
        sys.stdout.buffer.write(line + b"\n")

    debug = info = msg

    def warning(self, line: bytes) -> None:
        self.msg(line)
        sys.stdout.buffer.flush()

    error = critical = exception = fatal = warning


def configure(settings: Settings) -> None:
    """Set up logs, spans and metrics of this process; call it once, at start."""
    global _sampling_ratio  # noqa: PLW0603 - read by every call that starts a trace
    _sampling_ratio = settings.trace_ratio
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    structlog.configure(
        processors=[_add_trace, partial(_format, settings.service)],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: _Logger(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_LibraryFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    if settings.otlp_endpoint:
        provider = TracerProvider(sampler=ALWAYS_ON, resource=resource(settings.service))
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(settings.otlp_endpoint, insecure=True)))
        otel.set_tracer_provider(provider)
    if settings.metrics_listen:
        host, _, port = settings.metrics_listen.rpartition(":")
        start_http_server(int(port), host)


def resource(service: str) -> Resource:
    """Return what identifies this process in traces."""
    return Resource(
        {
            "service.name": service,
            "service.namespace": "enterprise-billing",
            "service.version": VERSION,
            "service.instance.id": uuid4().hex,
        }
    )


def _format(service: str, _: object, level: str, event: structlog.typing.EventDict) -> bytes:
    """Format a log line as JSON, in one step: every call logs one, and a chain of processors takes 50 % longer."""
    if "error" in event or "exc_info" in event:
        event = hide_values(event)
    message = event.pop("event")
    line = {"service": service, "level": level, "timestamp": datetime.now(UTC), "message": message, **event}
    try:
        return orjson.dumps(line, default=str, option=orjson.OPT_UTC_Z)
    except TypeError:  # text of a caller that is not valid UTF-8
        return json.dumps(line, default=str).encode()


def hide_values(event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Replace the exceptions of a log line by texts without values of requests and rows: `error` and `exc_info`."""
    if isinstance(error := event.get("error"), BaseException):
        event["error"] = failures.describe(error)
    if isinstance(error := event.pop("exc_info", None), BaseException):
        event["exception"] = failures.stack_trace(error)[-_TRACEBACK_LENGTH_MAX:]
    return event


class _LibraryFormatter(logging.Formatter):
    """Formats the log records of libraries as JSON."""

    def format(self, record: logging.LogRecord) -> str:
        line = {"level": record.levelname, "logger": record.name, "message": record.getMessage()}
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            # Further lines, such as those of asyncio, repeat the exception.
            line["message"] = line["message"].partition("\n")[0]
            line["exception"] = failures.stack_trace(error)[-_TRACEBACK_LENGTH_MAX:]
        return json.dumps(line)


def _add_trace(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    trace = current.get()
    if trace is not None:
        event["trace_id"] = trace.trace_id
    return event


async def flush_logs(every_s: float = 0.2) -> None:
    """Flush buffered log lines periodically, until cancelled."""
    while True:
        await asyncio.sleep(every_s)
        sys.stdout.buffer.flush()


def shut_down() -> None:
    """Flush logs and spans; a collector that does not answer delays it by two seconds at most."""
    sys.stdout.buffer.flush()
    provider = otel.get_tracer_provider()
    if isinstance(provider, TracerProvider):
        shutdown = threading.Thread(target=provider.shutdown, daemon=True)
        shutdown.start()
        shutdown.join(timeout=2.0)
