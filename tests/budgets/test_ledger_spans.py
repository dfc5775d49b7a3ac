"""The transactions of the ledger are in the traces of the callers whose postings they contain."""

import asyncio
from dataclasses import replace

from opentelemetry.trace import SpanKind, StatusCode

from kit.telemetry import Trace
from tests.budgets.budgets_api import BudgetsApi
from tests.harness.spans import RecordedSpans, outcome, parent_id


async def test_a_charge_has_a_span_for_its_transaction(api: BudgetsApi) -> None:
    budget = await api.open("100")
    trace = replace(Trace.from_header(None), sampled=True)
    spans = RecordedSpans(trace.trace_id)
    traced = BudgetsApi(replace(api.who, trace=trace), api.stubs, api.entities)
    others = [api.charge(budget, "1") for _ in range(3)]  # not sampled, so they have no spans
    await asyncio.gather(traced.charge(budget, "10"), *others)
    server = await spans.of(SpanKind.SERVER)
    transaction = await spans.of(SpanKind.CLIENT, "transaction")
    assert parent_id(transaction) == server.context.span_id
    assert outcome(transaction) == (StatusCode.UNSET, None, None)
    attributes = dict(transaction.attributes or {})
    assert attributes.pop("db.operation.batch.size") in {1, 2, 3, 4}
    assert attributes == {"db.system.name": "postgresql", "db.namespace": "budgets"}
