"""Traces continue those of callers, and a shutdown does not wait for a collector that does not answer."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.trace import SpanKind

from kit import telemetry
from kit.telemetry import Trace

hexadecimal = st.text("0123456789abcdef", min_size=1)


@given(st.integers(1, 2**128 - 1), st.integers(1, 2**64 - 1), st.booleans())
def test_a_header_parses_to_the_same_trace(trace_id: int, span_id: int, sampled: bool) -> None:  # noqa: FBT001 - hypothesis passes it
    trace = Trace(f"{trace_id:032x}", f"{span_id:016x}", sampled)
    assert Trace.from_header(trace.header()) == trace


@given(st.text() | hexadecimal)
def test_an_invalid_header_starts_a_new_trace(header: str) -> None:
    trace = Trace.from_header(header)
    assert Trace.from_header(trace.header()) == trace
    assert trace.trace_id not in header or not header


@pytest.mark.parametrize("sampled", [True, False])
def test_a_span_stays_in_the_trace(sampled: bool) -> None:  # noqa: FBT001
    trace = Trace("1" * 32, "2" * 16, sampled)
    with telemetry.span("work", trace, SpanKind.SERVER, {"key": "value"}) as inside:
        assert inside.trace_id == trace.trace_id
        assert inside.sampled == sampled


def test_shutdown_takes_two_seconds_at_most() -> None:
    started = time.monotonic()
    telemetry.shut_down()
    assert time.monotonic() - started < 2.5
