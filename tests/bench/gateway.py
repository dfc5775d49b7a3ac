"""Group gateway: REST through the gateway compared with hand-written routes, and the cost of its codec."""

import contextlib
import timeit
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Final
from uuid import uuid4

import orjson
from grpc import aio

from contract import codec
from contract.violations import Violations
from deploy.local.ports import free_port
from tests.bench import handwritten
from tests.bench.data import Factory, new_key
from tests.bench.figures import rate_goal
from tests.bench.load import CALLERS, Call, Runner, WrongReply, slices
from tests.bench.plan import Bench, Part
from tests.bench.stack import Process, Stack, process, python
from tests.gateway.conftest import BASE, BUDGET
from tests.gateway.wire import Wire, get

_CHARGE_BODY: Final = b'{"amount":{"currency_code":"EUR","amount":"0.01"}}'
_BUDGETS: Final = 100
_FLOORS_OF: Final[Mapping[str, Sequence[str]]] = {
    "charge_rest": ("floor_rest_charge",),
    "get_rest": ("floor_rest_echo",),
}
_GOALS: Final = (
    rate_goal("charge_rest", "floor_rest_charge", 0.75),
    rate_goal("get_rest", "floor_rest_echo", 0.75),
)


@contextlib.asynccontextmanager
async def _connections(server: Process) -> AsyncIterator[list[Wire]]:
    """Open a connection for each caller."""
    wires = [await Wire.open(server.port) for _ in range(CALLERS)]
    try:
        yield wires
    finally:
        for wire in wires:
            wire.close()


@contextlib.asynccontextmanager
async def _get_runner(server: Process, tokens: Sequence[str]) -> AsyncIterator[Runner]:
    """Return a runner in which all callers get the same budget."""
    requests = [get(f"{BASE}/budgets/{BUDGET}", token) for token in tokens]
    async with _connections(server) as wires:

        async def call(caller: int) -> int:
            return _check(*await wires[caller].send(requests[caller]), BUDGET)

        yield slices(call, pid=server.pid)


@contextlib.asynccontextmanager
async def _charge_runner(server: Process, tokens: Sequence[str], budget_ids: Sequence[str]) -> AsyncIterator[Runner]:
    """Return a runner in which all callers charge budgets, each time with a new key."""
    async with _connections(server) as wires:
        yield slices(_charge(wires, tokens, budget_ids), pid=server.pid)


def _charge(wires: Sequence[Wire], tokens: Sequence[str], budget_ids: Sequence[str]) -> Call:
    async def call(caller: int) -> int:
        key = new_key()
        head = (
            f"POST {BASE}/budgets/{budget_ids[caller % len(budget_ids)]}/charge HTTP/1.1\r\nHost: gateway\r\n"
            f"Authorization: Bearer {tokens[caller]}\r\nIdempotency-Key: {key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(_CHARGE_BODY)}\r\n\r\n"
        )
        return _check(*await wires[caller].send(head.encode() + _CHARGE_BODY), key)

    return call


def _check(status: int, body: bytes, expected: str) -> int:
    if status != 200 or f'"{expected}"'.encode() not in body:
        raise WrongReply(f"{status} {body[:300]!r}")
    return 1


@contextlib.asynccontextmanager
async def _routes(stack: Stack, address: str) -> AsyncIterator[Process]:
    """Run the hand-written routes in front of a service."""
    port = free_port()
    command = python("-m", "tests.bench.handwritten", "routes", str(port), address)
    async with process(stack.folder / f"handwritten-{port}.log", port, command) as started:
        yield started


async def measure(bench: Bench) -> None:
    """Measure both routes in turn with their floors."""
    stack, tenant_id = bench.stack, uuid4()
    tokens = [stack.token(tenant_id, f"user-{number}") for number in range(CALLERS)]
    async with contextlib.AsyncExitStack() as exits:
        enter = exits.enter_async_context
        runners: dict[str, Runner] = {}
        if "charge_rest" in bench.selected:
            entities, budgets = [
                await enter(aio.insecure_channel(each.address)) for each in (stack.entities, stack.budgets)
            ]
            budget_ids = await Factory(entities, budgets, stack.metadata(tenant_id)).tree(_BUDGETS)
            floor = await enter(_routes(stack, stack.budgets.address))
            runners["floor_rest_charge"] = await enter(_charge_runner(floor, tokens, budget_ids))
            runners["charge_rest"] = await enter(_charge_runner(stack.gateway, tokens, budget_ids))
        if "get_rest" in bench.selected:
            port = free_port()
            command = python("-m", "tests.bench.handwritten", "budget", str(port))
            backend = await enter(process(stack.folder / "backend.log", port, command))
            floor = await enter(_routes(stack, backend.address))
            gateway = await enter(stack.served("gateway", backend=backend))
            runners["floor_rest_echo"] = await enter(_get_runner(floor, tokens))
            runners["get_rest"] = await enter(_get_runner(gateway, tokens))
        await bench.measure(_FLOORS_OF, runners, _GOALS)


async def measure_codec(bench: Bench) -> None:
    """Measure how many microseconds the codec takes for a budget in each direction."""
    message = handwritten.budget()
    encode, decode = codec.encoder(message.DESCRIPTOR), codec.decoder(message.DESCRIPTOR)
    json_text, kind = codec.dumps(encode(message)), type(message)
    bench.report.cases["codec"] = {
        "encode_us": _us(lambda: codec.dumps(encode(message))),
        "decode_us": _us(lambda: decode(kind(), orjson.loads(json_text), "", Violations())),
    }


def _us(function: Callable[[], object], number: int = 5_000) -> float:
    return round(min(timeit.repeat(function, number=number, repeat=7)) / number * 1e6, 2)


PART: Final = Part("gateway", tuple(_FLOORS_OF), measure)
CODEC: Final = Part("gateway", ("codec",), measure_codec)
