"""A tenant that overloads the services: `python -m tests.flows.noisy_tenant GATEWAY_URL BUDGETS TOKEN BUDGET SECONDS`.

It runs until its time is over, as a process of its own, and prints how its calls ended.
"""

import asyncio
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

import grpc
import httpx
from billing.budgets.v1 import ledger_service_pb2 as pb
from billing.budgets.v1.alert_service_pb2 import WatchAlertsRequest
from grpc import aio

_BATCHES, _BODIES, _STREAMS = 60, 4, 512
_LEDGER = "/billing.budgets.v1.LedgerService"


class NoisyTenant:
    """Sends bodies of valid size that are expensive to refuse, opens streams, and posts batches."""

    def __init__(self, url: str, address: str, token: str, budget_id: str, until: float) -> None:
        self.outcomes: Counter[str] = Counter()
        self._until = until
        self._budget_id = budget_id
        self._token = token
        self._channel = aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
        self._http = httpx.AsyncClient(
            base_url=f"{url}/api/enterprise-billing", headers={"authorization": f"Bearer {token}"}, timeout=30
        )

    async def run(self) -> None:
        """Send requests of all kinds concurrently."""
        empty = b"\x0a\x00"
        requests = [
            (f"{_LEDGER}/BatchCharge", empty * 2_000_000),
            (f"{_LEDGER}/BatchCharge", empty * 32_000),
            (f"{_LEDGER}/CheckAvailability", b"\x22\x00" * 150_000),
            (f"{_LEDGER}/CheckAvailability", self._check(1_000)),
            (f"{_LEDGER}/BatchCharge", b"\xff" * 4_000_000),
        ]
        bodies = [
            ("/approval-rules", b'{"name":"x","steps":[{"approvers":[' + b"1," * 1_900_000 + b"1]}]}"),
            (f"/budgets/{self._budget_id}/check-availability", b'{"lines":[' + b"{}," * 149_999 + b"{}]}"),
            ("/budgets/charges/batch", b'{"charges":[' + b"{}," * 99_999 + b"{}]}"),
        ]
        work: list[Callable[[], Awaitable[object]]] = [self._batch] * _BATCHES
        for method, payload in requests:
            work += [lambda method=method, payload=payload: self._call(method, payload)] * _BODIES  # type: ignore[misc]
        for path, body in bodies:
            work += [lambda path=path, body=body: self._post(path, body)] * _BODIES  # type: ignore[misc]
        streams = [asyncio.create_task(self._watch()) for _ in range(_STREAMS)]
        await asyncio.gather(*map(self._repeat, work))
        for stream in streams:
            stream.cancel()
        await asyncio.gather(*streams, return_exceptions=True)

    async def _repeat(self, send: Callable[[], Awaitable[object]]) -> None:
        while time.monotonic() < self._until:
            try:
                await send()
                self.outcomes["OK"] += 1
            except aio.AioRpcError as error:
                self.outcomes[error.code().name] += 1
            except httpx.HTTPError as error:
                self.outcomes[type(error).__name__] += 1
            await asyncio.sleep(0)

    async def _call(self, method: str, payload: bytes) -> None:
        rpc: Any = self._channel.unary_unary(method)
        await rpc(payload, metadata=self._metadata(), timeout=20)

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self._token}"),)

    def _check(self, count: int) -> bytes:
        request = pb.CheckAvailabilityRequest(id=self._budget_id)
        request.amount.currency_code, request.amount.amount = "EUR", "1.00"
        for _ in range(count):
            request.lines.add().amount.CopyFrom(request.amount)
        return request.SerializeToString()

    async def _batch(self) -> None:
        request, key = pb.BatchChargeRequest(), uuid4().hex
        for n in range(500):
            charge = request.charges.add(id=self._budget_id, request_id=f"{key}-{n}")
            charge.amount.currency_code, charge.amount.amount = "EUR", "0.01"
        await self._call(f"{_LEDGER}/BatchCharge", request.SerializeToString())
        self.outcomes["batches"] += 1

    async def _post(self, path: str, body: bytes) -> None:
        response = await self._http.post(path, content=body, headers={"content-type": "application/json"})
        self.outcomes[f"HTTP {response.status_code}"] += 1

    async def _watch(self) -> None:
        rpc: Any = self._channel.unary_stream("/billing.budgets.v1.AlertService/WatchAlerts")
        while time.monotonic() < self._until:
            call = rpc(WatchAlertsRequest().SerializeToString(), metadata=self._metadata())
            try:
                await call.read()
                self.outcomes["streams"] += 1
                await call.read()
            except grpc.RpcError:
                self.outcomes["streams refused"] += 1
                await asyncio.sleep(1)  # the retry delay of the refusal
            finally:
                call.cancel()


async def _main() -> None:
    url, address, token, budget_id, seconds = sys.argv[1:]
    os.nice(10)  # its own work, which would run on another machine, must not take the processor from the services
    tenant = NoisyTenant(url, address, token, budget_id, time.monotonic() + float(seconds))
    sys.stdout.write("started\n")
    sys.stdout.flush()
    await tenant.run()
    sys.stdout.write(f"{json.dumps(tenant.outcomes)}\n")


if __name__ == "__main__":
    asyncio.run(_main())
