"""Floors: minimal implementations of a case, the upper bound of what is possible."""

import contextlib
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from random import Random
from typing import Final

import asyncpg
import grpc
import uvloop
from billing.budgets.v1 import charge_pb2
from billing.budgets.v1 import ledger_service_pb2 as pb
from grpc import aio

from deploy.local.ports import free_port
from tests.bench.load import Call, WrongReply
from tests.bench.stack import Process, process, python

SQL_CONNECTIONS: Final = 16
_ROOM: Final = 10**12
_SCHEMA: Final = """
    create schema if not exists floor;
    create table if not exists floor.budgets (id int primary key, amount numeric not null, spent numeric not null);
    create table if not exists floor.entries (
        id bigint generated always as identity primary key, budget_id int not null references floor.budgets,
        request_id text not null unique, amount numeric not null, spent_after numeric not null,
        create_time timestamptz not null default now()
    );
    create table if not exists floor.commits (id bigint generated always as identity primary key);
    insert into floor.budgets select n, 1000000000000, 0 from generate_series(1, 1000) n on conflict do nothing;
"""
_CHARGE: Final = """
    with moved as (
        update floor.budgets set spent = spent + $2 where id = $1 and spent + $2 <= amount returning id, spent
    )
    insert into floor.entries (budget_id, request_id, amount, spent_after)
    select id, $3, $2, spent from moved returning id
"""
_COMMIT: Final = "insert into floor.commits default values"


async def _serve(port: int, template: charge_pb2.Charge) -> None:
    """Return the same charge for every request, with its key."""

    async def charge(request: pb.ChargeRequest, _: object) -> charge_pb2.Charge:
        reply = charge_pb2.Charge()
        reply.CopyFrom(template)
        reply.request_id = request.request_id
        return reply

    handler = grpc.unary_unary_rpc_method_handler(
        charge, pb.ChargeRequest.FromString, charge_pb2.Charge.SerializeToString
    )
    service = pb.DESCRIPTOR.services_by_name["LedgerService"].full_name
    server = aio.server()
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, {"Charge": handler})])
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


@contextlib.asynccontextmanager
async def echo(folder: Path, reply: charge_pb2.Charge) -> AsyncIterator[Process]:
    """Run a bare gRPC server that returns this charge."""
    file, port = folder / "reply.bin", free_port()
    file.write_bytes(reply.SerializeToString())
    command = python("-m", "tests.bench.floors", str(port), str(file))
    async with process(folder / "echo.log", port, command) as started:
        yield started


@contextlib.asynccontextmanager
async def sql(admin_url: str) -> "AsyncIterator[Sequence[asyncpg.Connection]]":
    """Open connections to the same PostgreSQL and create separate tables."""
    async with contextlib.AsyncExitStack() as exits:
        connections = []
        for _ in range(SQL_CONNECTIONS):
            connection = await asyncpg.connect(admin_url)
            exits.push_async_callback(connection.close)
            connections.append(connection)
        await connections[0].execute(_SCHEMA)
        yield connections


def charge_call(connections: "Sequence[asyncpg.Connection]", budgets: int) -> Call:
    """Return a call with one statement per charge: the conditional update and the entry."""
    random, numbers = Random(1), iter(range(_ROOM))  # noqa: S311 - which budget, not a secret

    async def call(caller: int) -> int:
        budget, key = random.randint(1, budgets), f"{budgets}-{next(numbers)}"
        if await connections[caller].fetchval(_CHARGE, budget, 1, key) is None:
            raise WrongReply(f"budget {budget} has no room")
        return 1

    return call


def commit_call(connection: "asyncpg.Connection") -> Call:
    """Return a call with the smallest transaction that is written to disk."""

    async def call(_: int) -> int:
        if await connection.execute(_COMMIT) != "INSERT 0 1":
            raise WrongReply("no row was inserted")
        return 1

    return call


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1]), charge_pb2.Charge.FromString(Path(sys.argv[2]).read_bytes())))
