"""The gateway against a hand-written route to the same backend, and what its codec costs.

`python -m tests.bench.gateway [SLICES]`: for SLICES (default 12) rounds, half a second of each in turn, so that both
see the same machine. Everything runs on this machine over loopback: the backend, the two servers and the callers.
"""

import asyncio
import contextlib
import json
import os
import platform
import statistics
import sys
import tempfile
import time
import timeit
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
import uvicorn
import uvloop
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc import aio
from pydantic import SecretStr

from contract import codec, descriptors
from kit.settings import Settings
from tests.gateway import backend as backends
from tests.gateway.conftest import BASE, BUDGET
from tests.gateway.process import free_port, listening, running
from tests.gateway.wire import Wire, get
from tests.harness.tokens import AUDIENCE, ISSUER, Keys

CALLERS = 32
SLICE_S = 0.5
PATH = f"{BASE}/budgets/{BUDGET}"


def budget() -> Message:
    """A budget as the budgets service would send it."""
    made: Any = GetMessageClass(descriptors.pool().FindMessageTypeByName("billing.budgets.v1.Budget"))(
        id=BUDGET, entity_id="ent_019a5c7e2f407b3c8d1e5a6f7b8c9d0e", name="Cloud", category="cloud", period_type=1,
        period_start_date="2026-10-01", period_end_date="2026-11-01", time_zone="Europe/Berlin", utilisation_bp=8000,
        overspend_policy=1, alert_thresholds_bp=[5000, 8000, 9000, 10000], state=2, etag="7",
    )  # fmt: skip
    for name, amount in (("amount", "1250.00"), ("spent", "1000.00"), ("available", "250.00")):
        money = getattr(made, name)
        money.currency_code, money.amount = "EUR", amount
    made.create_time.FromJsonString("2026-10-01T12:00:00.123456Z")
    made.update_time.FromJsonString("2026-10-02T12:00:00Z")
    return made  # type: ignore[no-any-return]


async def handwritten(scope: Mapping[str, Any], _: object, send: Callable[[Mapping[str, Any]], Any]) -> None:
    """The floor: one route, written for this message, with nothing around it."""
    get_budget, budget_type, request_type = _floor_parts()
    headers = dict(scope["headers"])
    metadata = (("authorization", headers.get(b"authorization", b"").decode()),)
    request = request_type(id=scope["path"].rpartition("/")[2])
    raw = await get_budget(request.SerializeToString(), timeout=10, metadata=metadata)
    b = budget_type.FromString(raw)
    found = {
        "id": b.id, "entity_id": b.entity_id, "department_id": b.department_id, "parent_id": b.parent_id,
        "name": b.name, "category": b.category, "gl_code": b.gl_code, "period_type": b.PeriodType.Name(b.period_type),
        "period_start_date": b.period_start_date, "period_end_date": b.period_end_date, "time_zone": b.time_zone,
        "amount": {"currency_code": b.amount.currency_code, "amount": b.amount.amount},
        "spent": {"currency_code": b.spent.currency_code, "amount": b.spent.amount},
        "available": {"currency_code": b.available.currency_code, "amount": b.available.amount},
        "utilisation_bp": b.utilisation_bp, "overspend_policy": b.OverspendPolicy.Name(b.overspend_policy),
        "alert_thresholds_bp": list(b.alert_thresholds_bp), "state": b.State.Name(b.state), "etag": b.etag,
        "create_time": b.create_time.ToDatetime(), "update_time": b.update_time.ToDatetime(),
    }  # fmt: skip
    body = orjson.dumps(found, option=orjson.OPT_NAIVE_UTC | orjson.OPT_UTC_Z)
    answer_headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": answer_headers})
    await send({"type": "http.response.body", "body": body})


_parts: list[Any] = []


def _floor_parts() -> list[Any]:
    if not _parts:
        options = [("grpc.lb_policy_name", "round_robin")]
        channel = aio.insecure_channel(os.environ["FLOOR_BACKEND"], options=options)
        pool = descriptors.pool()
        types = [
            GetMessageClass(pool.FindMessageTypeByName(f"billing.budgets.v1.{name}"))
            for name in ("Budget", "GetBudgetRequest")
        ]
        _parts.extend([channel.unary_unary("/billing.budgets.v1.BudgetService/GetBudget"), *types])
    return _parts


def serve_floor(port: int) -> None:
    """Serve the hand-written route, with the same server and loop."""
    config = uvicorn.Config(
        handwritten,
        port=port,
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
    )
    uvloop.run(uvicorn.Server(config).serve())


async def load(port: int, request: bytes) -> tuple[int, float]:
    """Calls made in half a second, and how long it was; each answer is checked."""
    wires = [await Wire.open(port) for _ in range(CALLERS)]
    until = time.perf_counter() + SLICE_S
    calls = 0

    async def call(wire: Wire) -> None:
        nonlocal calls
        while time.perf_counter() < until:
            status, body = await wire.send(request)
            if status != 200 or BUDGET.encode() not in body:
                raise RuntimeError(f"{status} {body[:200]!r}")
            calls += 1

    started = time.perf_counter()
    await asyncio.gather(*map(call, wires))
    seconds = time.perf_counter() - started
    for wire in wires:
        wire.close()
    return calls, seconds


def codec_figures() -> dict[str, float]:
    """Microseconds that a budget takes each way."""
    message: Any = budget()
    encode, decode = codec.encoder(message.DESCRIPTOR), codec.decoder(message.DESCRIPTOR)
    json_text, kind = codec.dumps(encode(message)), type(message)
    number = 5_000

    def us(function: Callable[[], object]) -> float:
        return round(min(timeit.repeat(function, number=number, repeat=7)) / number * 1e6, 2)

    return {
        "encode_us": us(lambda: codec.dumps(encode(message))),
        "decode_us": us(lambda: decode(kind(), orjson.loads(json_text), "", [])),
    }


def serve_backend(port: int) -> None:
    """Serve what both are in front of."""

    async def serve() -> None:
        async with backends.serving(port) as backend:
            backend.remembers = False
            backend.replies["GetBudget"] = budget()
            await asyncio.Event().wait()

    uvloop.run(serve())


@contextlib.asynccontextmanager
async def part(function: str, port: int) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process of this module that serves on a port."""
    code = f"from tests.bench.gateway import {function}; {function}({port})"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code)
    try:
        (await listening(port)).close()
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def measure(slices: int) -> dict[str, Any]:
    """Both in turn."""
    with tempfile.TemporaryDirectory() as folder:
        keys = Keys.made_in(Path(folder))
        backend_port, request = free_port(), get(PATH, keys.token(uuid4()))
        os.environ["FLOOR_BACKEND"] = address = f"127.0.0.1:{backend_port}"
        async with part("serve_backend", backend_port):
            floor_port = free_port()
            async with part("serve_floor", floor_port) as floor, running(_settings(keys, address)) as gateway:
                floor_side, gateway_side = Side(floor_port, floor.pid), Side(gateway.port, gateway.process.pid)
                return await _interleaved(slices, floor_side, gateway_side, request)


def _settings(keys: Keys, address: str) -> Settings:
    """Everything on, but for the database of the rate limit: it is asked once in thousands of calls."""
    return Settings(
        database_url=SecretStr(os.environ.get("GATEWAY_DATABASE_URL", "postgresql://gateway_app:x@127.0.0.1:1/billing")),
        nats_url="nats://127.0.0.1:1", page_key=SecretStr("x"), issuer=ISSUER, audience=AUDIENCE, jwks=str(keys.jwks),
        service_jwks=str(keys.service_jwks), addresses={"entities": address, "budgets": address},
        rate_limit=100_000_000, trace_ratio=0.0,
    )  # fmt: skip


@dataclass
class Side:
    """One of the two servers, with what was measured of it."""

    port: int
    pid: int
    rates: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)
    """Processor time of its process for each call."""

    async def measure(self, request: bytes) -> None:
        """One slice."""
        before = self._cpu_s()
        calls, seconds = await load(self.port, request)
        self.rates.append(calls / seconds)
        self.cpu_us.append((self._cpu_s() - before) / calls * 1e6)

    def _cpu_s(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def _interleaved(slices: int, floor: Side, gateway: Side, request: bytes) -> dict[str, Any]:
    for side in (floor, gateway):
        await load(side.port, request)  # connections and caches
    for _ in range(slices):
        await floor.measure(request)
        await gateway.measure(request)
    ratios = [ours / theirs for ours, theirs in zip(gateway.rates, floor.rates, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return {
        "slices": slices,
        "floor_per_s": round(statistics.median(floor.rates)),
        "gateway_per_s": round(statistics.median(gateway.rates)),
        "ratio": round(middle, 3),
        "ratio_iqr": [round(low, 3), round(high, 3)],
        "floor_cpu_us": round(statistics.median(floor.cpu_us)),
        "gateway_cpu_us": round(statistics.median(gateway.cpu_us)),
    }


def main() -> None:
    """Measure and print as JSON."""
    slices = int(sys.argv[1]) if len(sys.argv) > 1 else 12
    found = {
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, {platform.system()} {platform.release()}",
        "codec": codec_figures(),
        "get": uvloop.run(measure(slices)),
    }
    print(json.dumps(found, indent=2))  # noqa: T201


if __name__ == "__main__":
    main()
