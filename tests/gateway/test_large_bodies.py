"""The worst bodies of valid size, on a gateway process: refused at once, while other tenants get their responses."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from uuid import uuid4

import pytest

from kit.settings import Settings
from tests.gateway.backend import Backend
from tests.gateway.conftest import BASE, BUDGET
from tests.gateway.process import Process, running
from tests.gateway.raw import memory_mib, post, send
from tests.gateway.wire import Wire, get

RULES = f"{BASE}/approval-rules"
AVAILABILITY = f"{BASE}/budgets/{BUDGET}/check-availability"
BATCH = f"{BASE}/budgets/charges/batch"
MANY_APPROVERS = b'{"name":"x","steps":[{"approvers":[' + b"1," * 1_900_000 + b"1]}]}"
MANY_LINES = b'{"lines":[' + b"{}," * 150_000 + b"{}]}"
MANY_CHARGES = b'{"charges":[' + b"{}," * 100_000 + b"{}]}"


@pytest.fixture(scope="module")
async def process(settings: Callable[..., Settings], session_backend: Backend) -> AsyncIterator[Process]:
    addresses = dict.fromkeys(("entities", "budgets", "approvals"), session_backend.address)
    async with running(settings("gateway", addresses=addresses)) as process:
        yield process


@contextlib.asynccontextmanager
async def other_tenant(port: int, token: str) -> AsyncIterator[list[float]]:
    """Send GETs inside the block, the first one before it; yields the list of their durations."""
    wire, durations, running = await Wire.open(port), list[float](), True
    request = get(f"{BASE}/budgets/{BUDGET}", token)

    async def call() -> None:
        started = time.monotonic()
        assert (await asyncio.wait_for(wire.send(request), 5))[0] == 200
        durations.append(time.monotonic() - started)

    async def call_repeatedly() -> None:
        while running:
            await call()
            await asyncio.sleep(0.002)  # a rate that does not load the gateway itself

    await call()
    calling = asyncio.create_task(call_repeatedly())
    try:
        yield durations
    finally:
        running = False
        await calling
        wire.close()


@pytest.mark.parametrize(
    ("role", "path", "body", "status", "code"),
    [
        ("nobody", RULES, MANY_APPROVERS, 403, "PERMISSION_MISSING"),
        ("billing_admin", RULES, MANY_APPROVERS, 413, "MESSAGE_TOO_LARGE"),
        ("viewer", AVAILABILITY, MANY_LINES, 413, "MESSAGE_TOO_LARGE"),
        ("billing_admin", BATCH, MANY_CHARGES, 413, "MESSAGE_TOO_LARGE"),
        ("billing_admin", BATCH, b'{"charges":[' + b"{}," * 9_000 + b"{}]}", 400, "INVALID_FIELDS"),
        ("billing_admin", BATCH, b'{"charges":[' + b"1," * 499 + b"1]}", 400, "INVALID_FIELDS"),
        ("billing_admin", BATCH, b'{"charges":["' + b'\\u00e9",' * 1_000 + b"1]}", 400, "MALFORMED_BODY"),
        ("billing_admin", BATCH, b"[" * 4_000_000, 413, "MESSAGE_TOO_LARGE"),
        ("billing_admin", BATCH, b'{"a":' * 700_000, 413, "MESSAGE_TOO_LARGE"),
        ("billing_admin", BATCH, b'{"' + b"," * 4_000_000 + b'":1}', 400, "INVALID_FIELDS"),
        ("billing_admin", RULES, b'{"name":"' + b":" * 4_000_000 + b'","colour":1}', 400, "INVALID_FIELDS"),
        ("billing_admin", RULES, b'{"name":' + b"1" * 4_000_000 + b"}", 400, "MALFORMED_BODY"),
    ],
)  # fmt: skip
async def test_other_tenants_are_served_while_a_bad_body_is_refused(
    process: Process,
    backend: Backend,
    token: Callable[..., str],
    role: str,
    path: str,
    body: bytes,
    status: int,
    code: str,
) -> None:
    backend.records_calls = False
    request = post(token(role=role), f"Content-Length: {len(body)}", body=body, path=path)
    async with other_tenant(process.port, token(tenant=uuid4())) as durations:
        started = time.monotonic()
        for _ in range(5):
            raw = await send(process.port, request)
            response = await asyncio.wait_for(raw.response(), 5)
            assert response[0] == status, response[2][:500]
            assert json.loads(response[2])["code"] == code
            assert len(response[2]) < 16_384
        took = time.monotonic() - started
    backend.records_calls = True
    assert took / 5 < 1
    assert max(durations) < 0.5, "generous, for a busy machine; alone on it, a response takes 60 ms at most"
    assert memory_mib(process) < 400


async def test_valid_batch_is_accepted(process: Process, token: Callable[..., str]) -> None:
    money = {"currency_code": "EUR", "amount": "12.50"}
    charges = [{"id": BUDGET, "request_id": str(i), "amount": money, "description": "," * 100} for i in range(500)]
    body = json.dumps({"charges": charges}).encode()
    raw = await send(process.port, post(token(), f"Content-Length: {len(body)}", body=body, path=BATCH))
    assert (await raw.response())[0] == 200
