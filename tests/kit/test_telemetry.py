"""Traces go on where a caller began them; log lines bear them; ending never waits for a dead collector."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.trace import SpanKind

from kit import telemetry
from kit.telemetry import Trace

hexadecimal = st.text("0123456789abcdef", min_size=1)


@given(st.integers(1, 2**128 - 1), st.integers(1, 2**64 - 1), st.booleans())
def test_a_header_reads_back(trace_id: int, span_id: int, sampled: bool) -> None:  # noqa: FBT001 - hypothesis gives it
    trace = Trace(f"{trace_id:032x}", f"{span_id:016x}", sampled)
    assert Trace.from_header(trace.header()) == trace


@given(st.text() | hexadecimal)
def test_any_other_header_starts_a_trace(header: str) -> None:
    trace = Trace.from_header(header)
    assert Trace.from_header(trace.header()) == trace
    assert trace.trace_id not in header or not header


@pytest.mark.parametrize("sampled", [True, False])
def test_a_span_keeps_the_trace_whether_it_is_recorded_or_not(sampled: bool) -> None:  # noqa: FBT001
    trace = Trace("1" * 32, "2" * 16, sampled)
    with telemetry.span("work", trace, SpanKind.SERVER, {"key": "value"}) as inside:
        assert inside.trace_id == trace.trace_id
        assert inside.sampled == sampled


def test_ending_waits_for_nobody() -> None:
    started = time.monotonic()
    telemetry.shut_down()
    assert time.monotonic() - started < 2.5
