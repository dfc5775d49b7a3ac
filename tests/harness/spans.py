"""The spans of this process, recorded in memory."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from opentelemetry import trace as otel
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from kit import telemetry
from tests.harness.observe import eventually


class _Provider(TracerProvider):
    """Records until the process ends, although a test of telemetry shuts down the provider of its process."""

    def shutdown(self) -> None:
        """Do nothing: the spans of later tests are recorded, too."""


@lru_cache(maxsize=1)
def _exporter() -> InMemorySpanExporter:
    """Record the sampled spans of this process from now on."""
    exporter = InMemorySpanExporter()
    provider = _Provider(resource=telemetry.resource("tests"))
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    otel.set_tracer_provider(provider)
    return exporter


class RecordedSpans:
    """The spans of one trace."""

    def __init__(self, trace_id: str) -> None:
        self.trace_id = trace_id
        self._exporter = _exporter()

    def all(self) -> list[ReadableSpan]:
        """Return the spans that have ended, in the order of their end."""
        return [
            span for span in self._exporter.get_finished_spans() if f"{span.context.trace_id:032x}" == self.trace_id
        ]

    async def of(self, kind: SpanKind, name: str = "") -> ReadableSpan:
        """Return the only span of this kind, and of this name if one is given, once it has ended."""

        async def ended() -> list[ReadableSpan]:
            return [span for span in self.all() if span.kind is kind and name in {"", span.name}]

        (span,) = await eventually(ended, about=f"span of kind {kind.name}")
        return span


def outcome(span: ReadableSpan) -> tuple[StatusCode, Any, Any]:
    """Return the status, the response status code and the error type of a span."""
    attributes: Mapping[str, Any] = span.attributes or {}
    code = attributes.get("rpc.response.status_code") or attributes.get("http.response.status_code")
    return span.status.status_code, code, attributes.get("error.type")


def parent_id(span: ReadableSpan) -> int | None:
    """Return the span id of the parent."""
    return span.parent.span_id if span.parent else None
