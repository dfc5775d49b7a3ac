"""The floor of the gateway: two routes written by hand for their messages, without any middleware.

`python -m tests.bench.handwritten routes PORT ADDRESS` serves them in front of the service at ADDRESS,
`python -m tests.bench.handwritten budget PORT` a service that returns the same budget to all callers.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import orjson
import uvicorn
import uvloop
from billing.budgets.v1.budget_pb2 import Budget
from billing.budgets.v1.budget_service_pb2 import GetBudgetRequest
from billing.budgets.v1.budget_service_pb2_grpc import BudgetServiceStub
from billing.budgets.v1.charge_pb2 import ChainBudget, Charge
from billing.budgets.v1.ledger_service_pb2 import ChargeRequest
from billing.budgets.v1.ledger_service_pb2_grpc import LedgerServiceStub
from billing.type.v1.money_pb2 import Money
from grpc import aio

from tests.bench.load import TIMEOUT_S
from tests.bench.stack import Metadata
from tests.gateway import backend as backends
from tests.gateway.conftest import BUDGET

KEEP_ALIVE_S: Final = 600
Send = Callable[[Mapping[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]


class Routes:
    """An ASGI application: GET a budget, POST a charge."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._budgets: BudgetServiceStub | None = None
        self._ledger: LedgerServiceStub | None = None

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        if self._budgets is None or self._ledger is None:  # channels belong to the event loop
            channel = aio.insecure_channel(self._address)
            self._budgets, self._ledger = BudgetServiceStub(channel), LedgerServiceStub(channel)
        headers = dict(scope["headers"])
        metadata = (("authorization", headers[b"authorization"].decode()),)
        if scope["method"] == "GET":
            content = await _budget(self._budgets, scope["path"].rpartition("/")[2], metadata)
        else:
            fields, key = orjson.loads((await receive())["body"]), headers[b"idempotency-key"].decode()
            content = await _charge(self._ledger, scope["path"].split("/")[-2], fields, key, metadata)
        body = orjson.dumps(content, option=orjson.OPT_NAIVE_UTC | orjson.OPT_UTC_Z)
        response_headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": response_headers})
        await send({"type": "http.response.body", "body": body})


async def _budget(stub: BudgetServiceStub, budget_id: str, metadata: Metadata) -> dict[str, Any]:
    b = await stub.GetBudget(GetBudgetRequest(id=budget_id), timeout=TIMEOUT_S, metadata=metadata)
    return {
        "id": b.id, "entity_id": b.entity_id, "department_id": b.department_id, "parent_id": b.parent_id,
        "name": b.name, "category": b.category, "gl_code": b.gl_code, "period_type": b.PeriodType.Name(b.period_type),
        "period_start_date": b.period_start_date, "period_end_date": b.period_end_date, "time_zone": b.time_zone,
        "amount": _money(b.amount), "spent": _money(b.spent), "available": _money(b.available),
        "utilisation_bp": b.utilisation_bp, "overspend_policy": b.OverspendPolicy.Name(b.overspend_policy),
        "alert_thresholds_bp": list(b.alert_thresholds_bp), "state": b.State.Name(b.state), "etag": b.etag,
        "create_time": b.create_time.ToDatetime(), "update_time": b.update_time.ToDatetime(),
    }  # fmt: skip


async def _charge(
    stub: LedgerServiceStub, budget_id: str, fields: Mapping[str, Any], key: str, metadata: Metadata
) -> dict[str, Any]:
    request = ChargeRequest(id=budget_id, amount=Money(**fields["amount"]), request_id=key)
    c = await stub.Charge(request, timeout=TIMEOUT_S, metadata=metadata)
    return {
        "id": c.id, "request_id": c.request_id, "budget_id": c.budget_id, "amount": _money(c.amount),
        "verdict": Charge.Verdict.Name(c.verdict), "chain": [_link(link) for link in c.chain],
        "description": c.description, "reference": c.reference, "actor": c.actor,
        "charge_time": c.charge_time.ToDatetime(), "create_time": c.create_time.ToDatetime(),
    }  # fmt: skip


def _link(link: ChainBudget) -> dict[str, Any]:
    return {
        "budget_id": link.budget_id, "name": link.name, "available_before": _money(link.available_before),
        "available_after": _money(link.available_after), "utilisation_bp": link.utilisation_bp,
        "overspent": link.overspent,
    }  # fmt: skip


def _money(money: Money) -> dict[str, str]:
    return {"currency_code": money.currency_code, "amount": money.amount}


def budget() -> Budget:
    """Return a budget as the budgets service sends it."""
    budget = Budget(
        id=BUDGET, entity_id="ent_019a5c7e2f407b3c8d1e5a6f7b8c9d0e", name="Cloud", category="cloud",
        period_type=Budget.MONTHLY, period_start_date="2026-10-01", period_end_date="2026-11-01",
        time_zone="Europe/Berlin", utilisation_bp=8000, overspend_policy=Budget.BLOCK,
        alert_thresholds_bp=[5000, 8000, 9000, 10000], state=Budget.ACTIVE, etag="7",
        amount=Money(currency_code="EUR", amount="1250.00"), spent=Money(currency_code="EUR", amount="1000.00"),
        available=Money(currency_code="EUR", amount="250.00"),
    )  # fmt: skip
    budget.create_time.FromJsonString("2026-10-01T12:00:00.123456Z")
    budget.update_time.FromJsonString("2026-10-02T12:00:00Z")
    return budget


async def _serve_budget(port: int) -> None:
    async with backends.serving(port) as backend:
        backend.records_calls = False
        backend.replies["GetBudget"] = budget()
        await asyncio.Event().wait()


def main() -> None:
    """Run the command line."""
    part, port = sys.argv[1], int(sys.argv[2])
    if part == "budget":
        uvloop.run(_serve_budget(port))
        return
    config = uvicorn.Config(
        Routes(sys.argv[3]),
        port=port,
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        timeout_keep_alive=KEEP_ALIVE_S,
    )
    uvloop.run(uvicorn.Server(config).serve())


if __name__ == "__main__":
    main()
