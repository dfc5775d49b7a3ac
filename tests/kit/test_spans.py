"""Spans of calls, transactions and events: refusals are no errors, faults are, and every hop has its own span."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import asyncpg
import pytest
from billing.budgets.v1.events_pb2 import BudgetClosed
from grpc import StatusCode, aio
from nats.js import JetStreamContext
from opentelemetry.trace import SpanKind
from opentelemetry.trace import StatusCode as SpanStatus

from eventing import outbox
from eventing.outbox import Relay
from kit import tasks, telemetry
from kit.db import Database
from kit.errors import Conflict, FailedPrecondition, Unavailable
from kit.origin import Call, Origin
from kit.telemetry import Trace
from kit.version import VERSION
from serving import clients
from tests.harness.callers import Caller, refusal
from tests.harness.observe import PublishedEvents
from tests.harness.spans import RecordedSpans, outcome, parent_id
from tests.kit.conftest import ServedProbe
from tests.kit.probe import DoReply, DoRequest, ProbeStub

METHOD = "billing.probe.v1.ProbeService/Do"


class BudgetFull(FailedPrecondition):
    reason = "BUDGET_FULL"


@pytest.fixture
def trace() -> Trace:
    """A sampled trace."""
    return replace(Trace.from_header(None), sampled=True)


@pytest.fixture
def spans(trace: Trace) -> RecordedSpans:
    return RecordedSpans(trace.trace_id)


def raising(probe: ServedProbe, error: Exception) -> None:
    async def fail(request: Any, call: Call) -> DoReply:
        raise error

    probe.servicer.on_call = fail


class TestServer:
    async def test_success_has_its_code(
        self, probe: ServedProbe, finance: Caller, trace: Trace, spans: RecordedSpans
    ) -> None:
        await replace(finance, trace=trace).call(probe.stub.Do, DoRequest())
        assert outcome(await spans.of(SpanKind.SERVER)) == (SpanStatus.UNSET, "OK", None)

    @pytest.mark.parametrize(
        ("error", "code", "reason"),
        [
            (BudgetFull("full"), "FAILED_PRECONDITION", "BUDGET_FULL"),
            (Conflict(), "ABORTED", "CONFLICT"),
        ],
    )
    async def test_refusal_leaves_the_status_unset(
        self, probe: ServedProbe, finance: Caller, trace: Trace, spans: RecordedSpans,
        error: Exception, code: str, reason: str,
    ) -> None:  # fmt: skip
        raising(probe, error)
        await refusal(replace(finance, trace=trace).call(probe.stub.Do, DoRequest()))
        span = await spans.of(SpanKind.SERVER)
        assert outcome(span) == (SpanStatus.UNSET, code, reason)
        assert span.events == ()

    async def test_invalid_request_leaves_the_status_unset(
        self, probe: ServedProbe, finance: Caller, trace: Trace, spans: RecordedSpans
    ) -> None:
        await refusal(replace(finance, trace=trace).call(probe.stub.Do, DoRequest(time_zone="Mars/Base")))
        assert outcome(await spans.of(SpanKind.SERVER)) == (SpanStatus.UNSET, "INVALID_ARGUMENT", "INVALID_FIELDS")

    async def test_internal_fault_is_an_error_with_its_stack_trace(
        self, probe: ServedProbe, finance: Caller, trace: Trace, spans: RecordedSpans
    ) -> None:
        raising(probe, ZeroDivisionError("by zero"))
        await refusal(replace(finance, trace=trace).call(probe.stub.Do, DoRequest()))
        span = await spans.of(SpanKind.SERVER)
        assert outcome(span) == (SpanStatus.ERROR, "INTERNAL", "INTERNAL")
        (event,) = span.events
        assert event.attributes
        assert event.attributes["exception.type"] == "ZeroDivisionError"

    async def test_unavailable_dependency_is_an_error_without_stack_trace(
        self, probe: ServedProbe, finance: Caller, trace: Trace, spans: RecordedSpans
    ) -> None:
        raising(probe, Unavailable("The database"))
        await refusal(replace(finance, trace=trace).call(probe.stub.Do, DoRequest()))
        span = await spans.of(SpanKind.SERVER)
        assert outcome(span) == (SpanStatus.ERROR, "UNAVAILABLE", "UNAVAILABLE")
        assert span.events == ()

    async def test_call_that_is_not_sampled_has_no_span(
        self, probe: ServedProbe, finance: Caller, trace: Trace, spans: RecordedSpans
    ) -> None:
        await replace(finance, trace=replace(trace, sampled=False)).call(probe.stub.Do, DoRequest())
        assert spans.all() == []


class TestClient:
    async def test_server_span_is_below_the_client_span(
        self, probe: ServedProbe, finance: Caller, trace: Trace, spans: RecordedSpans
    ) -> None:
        raising(probe, BudgetFull("full"))
        with pytest.raises(aio.AioRpcError), clients.observed_call(METHOD, trace) as inner:
            await replace(finance, trace=inner).call(probe.stub.Do, DoRequest())
        client, server = await spans.of(SpanKind.CLIENT), await spans.of(SpanKind.SERVER)
        assert outcome(client) == outcome(server) == (SpanStatus.UNSET, "FAILED_PRECONDITION", "BUDGET_FULL")
        assert parent_id(server) == client.context.span_id
        assert client.events == ()

    async def test_unreachable_service_is_an_error(self, trace: Trace, spans: RecordedSpans) -> None:
        async with aio.insecure_channel("127.0.0.1:1") as channel:
            with pytest.raises(aio.AioRpcError), clients.observed_call(METHOD, trace):
                await ProbeStub(channel).Do(DoRequest(), timeout=5)
        assert outcome(await spans.of(SpanKind.CLIENT)) == (SpanStatus.ERROR, "UNAVAILABLE", "UNAVAILABLE")

    async def test_call_in_time_is_measured_by_its_code(self, trace: Trace) -> None:
        labels = {"rpc_method": METHOD, "rpc_response_status_code": StatusCode.OK.name}
        before = _count(labels)
        with clients.observed_call(METHOD, replace(trace, sampled=False)):
            pass
        assert _count(labels) == before + 1


def _count(labels: dict[str, str]) -> float:
    samples = (sample for metric in telemetry.CLIENT_DURATION.collect() for sample in metric.samples)
    return sum(each.value for each in samples if each.name.endswith("_count") and each.labels == labels)


class TestDatabase:
    async def test_transaction_has_a_span(
        self, db: Database, origin: Callable[..., Origin], trace: Trace, spans: RecordedSpans
    ) -> None:
        async with db.read(origin(trace=trace)) as tx:
            await tx.now()
        span = await spans.of(SpanKind.CLIENT, "transaction")
        assert span.attributes == {"db.system.name": "postgresql", "db.namespace": "budgets"}
        assert span.status.status_code is SpanStatus.UNSET

    async def test_failed_statement_is_an_error_with_its_sqlstate(
        self, db: Database, origin: Callable[..., Origin], trace: Trace, spans: RecordedSpans
    ) -> None:
        with pytest.raises(asyncpg.UndefinedTableError):
            async with db.read(origin(trace=trace)) as tx:
                await tx.fetch("select * from nothing")
        assert outcome(await spans.of(SpanKind.CLIENT)) == (SpanStatus.ERROR, None, "42P01")

    async def test_refusal_inside_a_transaction_is_no_error(
        self, db: Database, origin: Callable[..., Origin], trace: Trace, spans: RecordedSpans
    ) -> None:
        with pytest.raises(BudgetFull):
            async with db.write(origin(trace=trace)):
                raise BudgetFull("full")
        assert outcome(await spans.of(SpanKind.CLIENT)) == (SpanStatus.UNSET, None, None)


class TestEvents:
    async def test_published_event_has_a_producer_span_that_consumers_continue(
        self, db: Database, jetstream: JetStreamContext, origin: Callable[..., Origin], trace: Trace,
        spans: RecordedSpans, published_events: PublishedEvents,
    ) -> None:  # fmt: skip
        relay = asyncio.create_task(Relay(db, jetstream, "budgets").run())
        async with db.write(origin(trace=trace)) as tx:
            outbox.append(tx, BudgetClosed(budget_id="b", entity_id="e"))
        await published_events.first(BudgetClosed)
        await tasks.cancel_and_wait(relay)
        span = await spans.of(SpanKind.PRODUCER)
        assert span.name == "publish billing.budgets.v1.BudgetClosed"
        assert span.attributes
        assert span.attributes["messaging.operation.type"] == "send"
        sent = Trace.from_header(published_events.headers(BudgetClosed)["traceparent"])
        assert (sent.trace_id, int(sent.span_id, 16)) == (trace.trace_id, span.context.span_id)


def test_spans_name_version_and_instance_of_the_process() -> None:
    attributes = telemetry.resource("budgets").attributes
    assert (attributes["service.name"], attributes["service.version"]) == ("budgets", VERSION)
    assert attributes["service.instance.id"]
