"""Group budgets: charges and availability checks, compared with a bare gRPC server and bare SQL."""

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from random import Random
from typing import Final
from uuid import uuid4

from billing.budgets.v1 import charge_pb2
from billing.budgets.v1 import ledger_service_pb2 as pb
from billing.budgets.v1.ledger_service_pb2_grpc import LedgerServiceStub
from grpc import aio

from tests.bench import floors
from tests.bench.data import CENT, ChargeTarget, Factory, concurrently, new_key
from tests.bench.figures import Goal, rate_goal
from tests.bench.load import CALLERS, TIMEOUT_S, Call, Runner, WrongReply, slices
from tests.bench.plan import Bench, Part

_BATCH: Final = 500
_BATCH_CALLERS: Final = 4
_TENANTS: Final = 100

_FLOORS_OF: Final[Mapping[str, Sequence[str]]] = {
    "charge_hot": ("floor_grpc_echo", "floor_sql_hot"),
    "charge_spread": ("floor_grpc_echo", "floor_sql_spread"),
    "charge_tenants": ("charge_spread",),
    "check_availability": ("floor_grpc_echo",),
    "charge_batch": ("floor_sql_hot",),
    "charge_1_caller": ("floor_grpc_echo_1_caller", "floor_commit_1_caller"),
}
_GOALS: Final = (
    rate_goal("charge_hot", "floor_grpc_echo", 0.75),
    rate_goal("charge_hot", "floor_sql_hot", 1.5),
    rate_goal("charge_spread", "floor_grpc_echo", 0.65),
    rate_goal("charge_tenants", "charge_spread", 0.8),
    rate_goal("check_availability", "floor_grpc_echo", 0.85),
    Goal("charge_batch/per_s", "charge_batch", (), lambda ours: ours.per_s, at_least=20_000),
    rate_goal("charge_batch", "floor_sql_hot", 8),
    Goal(
        "charge_1_caller/commits_above_echo",
        "charge_1_caller",
        ("floor_grpc_echo_1_caller", "floor_commit_1_caller"),
        lambda ours, echo, commit: (ours.p50_s - echo.p50_s) / commit.p50_s,
        at_most=1.5,
    ),
)


def charge_call(stub: LedgerServiceStub, targets: Sequence[ChargeTarget]) -> Call:
    """Return a call that charges a cent to one of the budgets, with a new key."""
    random = Random(1)  # noqa: S311 - which budget, not a secret

    async def call(_: int) -> int:
        target, key = random.choice(targets), new_key()
        request = pb.ChargeRequest(id=random.choice(target.budget_ids), amount=CENT, request_id=key)
        reply = await stub.Charge(request, metadata=target.metadata, timeout=TIMEOUT_S)
        if reply.request_id != key or reply.verdict != charge_pb2.Charge.ACCEPTED:
            raise WrongReply(str(reply))
        return 1

    return call


def check_call(stub: LedgerServiceStub, targets: Sequence[ChargeTarget]) -> Call:
    """Return a call that checks whether one of the budgets has a cent."""
    random = Random(1)  # noqa: S311 - which budget, not a secret

    async def call(_: int) -> int:
        target = random.choice(targets)
        request = pb.CheckAvailabilityRequest(id=random.choice(target.budget_ids), amount=CENT)
        reply = await stub.CheckAvailability(request, metadata=target.metadata, timeout=TIMEOUT_S)
        if reply.verdict != charge_pb2.Availability.AVAILABLE or reply.chain[0].budget_id != request.id:
            raise WrongReply(str(reply))
        return 1

    return call


def batch_call(stub: LedgerServiceStub, targets: Sequence[ChargeTarget]) -> Call:
    """Return a call with a batch of charges of a cent, each to one of the budgets; counts the charges."""
    random = Random(1)  # noqa: S311 - which budget, not a secret

    async def call(_: int) -> int:
        target, keys = random.choice(targets), [new_key() for _ in range(_BATCH)]
        charges = [pb.ChargeRequest(id=random.choice(target.budget_ids), amount=CENT, request_id=key) for key in keys]
        request = pb.BatchChargeRequest(charges=charges)
        reply = await stub.BatchCharge(request, metadata=target.metadata, timeout=TIMEOUT_S)
        accepted = [result.charge for result in reply.results]
        if [charge.request_id for charge in accepted if charge.verdict == charge_pb2.Charge.ACCEPTED] != keys:
            raise WrongReply(str(reply)[:500])
        return _BATCH

    return call


@contextlib.asynccontextmanager
async def _runners(bench: Bench) -> AsyncIterator[dict[str, Runner]]:
    """Return the runners; creates many budgets only for the cases that need them."""
    stack, tenant_id = bench.stack, uuid4()
    pid = stack.budgets.pid
    async with contextlib.AsyncExitStack() as exits:
        entities, budgets = [
            await exits.enter_async_context(aio.insecure_channel(each.address))
            for each in (stack.entities, stack.budgets)
        ]
        stub = LedgerServiceStub(budgets)
        people = [stack.metadata(tenant_id, f"user-{number}") for number in range(CALLERS)]
        hot_ids = await Factory(entities, budgets, people[0]).tree(1)
        hot = [ChargeTarget(metadata, hot_ids) for metadata in people]
        first = pb.ChargeRequest(id=hot_ids[0], amount=CENT, request_id=new_key())
        reply = await stub.Charge(first, metadata=people[0], timeout=TIMEOUT_S)
        echo = await exits.enter_async_context(floors.echo(stack.folder, reply))
        channel = await exits.enter_async_context(aio.insecure_channel(echo.address))
        echoed = charge_call(LedgerServiceStub(channel), [ChargeTarget(None, hot_ids)])
        connections = await exits.enter_async_context(floors.sql(stack.database.admin_url))
        runners = {
            "floor_grpc_echo": slices(echoed, pid=echo.pid),
            "floor_grpc_echo_1_caller": slices(echoed, callers=1),
            "floor_sql_hot": slices(floors.charge_call(connections, 1), callers=floors.SQL_CONNECTIONS),
            "floor_sql_spread": slices(floors.charge_call(connections, 1000), callers=floors.SQL_CONNECTIONS),
            "floor_commit_1_caller": slices(floors.commit_call(connections[0]), callers=1),
            "charge_hot": slices(charge_call(stub, hot), pid=pid),
            "charge_1_caller": slices(charge_call(stub, hot), callers=1),
            "check_availability": slices(check_call(stub, hot), pid=pid),
        }
        if bench.selected & {"charge_spread", "charge_tenants", "charge_batch"}:
            leaves = await Factory(entities, budgets, people[0]).tree(10, 10, 10)
            spread = [ChargeTarget(metadata, leaves) for metadata in people]
            runners["charge_spread"] = slices(charge_call(stub, spread), pid=pid)
            runners["charge_batch"] = slices(batch_call(stub, spread), callers=_BATCH_CALLERS, pid=pid)
        if "charge_tenants" in bench.selected:
            runners["charge_tenants"] = slices(charge_call(stub, await _tenants(bench, entities, budgets)), pid=pid)
        yield runners


async def _tenants(bench: Bench, entities: aio.Channel, budgets: aio.Channel) -> list[ChargeTarget]:
    """Return a target in each of many tenants, with ten budgets two levels below the root."""

    async def tenant() -> ChargeTarget:
        metadata = bench.stack.metadata(uuid4())
        return ChargeTarget(metadata, await Factory(entities, budgets, metadata).tree(1, 1, 10))

    return await concurrently([tenant] * _TENANTS)


async def measure(bench: Bench) -> None:
    """Measure charges and availability checks in turn with their floors."""
    async with _runners(bench) as runners:
        await bench.measure(_FLOORS_OF, runners, _GOALS)


PART: Final = Part("budgets", tuple(_FLOORS_OF), measure)
