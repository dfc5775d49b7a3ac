"""Replicas of services as processes that can be killed and restarted."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

import grpc
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from deploy.local import die_with_parent, paths, servers
from deploy.local.ports import free_port
from deploy.local.servers import Nats, Postgres, Running
from tests.harness.databases import Cluster, Copy
from tests.harness.tokens import AUDIENCE, ISSUER, Keys

ROOT: Final = Path(__file__).parents[2]
_START_TIMEOUT_S: Final = 60.0
_TOKEN_S: Final = 4 * 3600
CHANNEL: Final = (
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 300),
    ("grpc.use_local_subchannel_pool", 1),
)


class Replica:
    """A process on a fixed port that can be killed and started again."""

    def __init__(self, module: str, environment: Mapping[str, str], folder: Path, *arguments: str) -> None:
        self.port = free_port()
        self.log = folder / f"{module}-{self.port}.log"
        self._environment = {**environment, "BILLING_LISTEN": f"127.0.0.1:{self.port}"}
        self._command = [*die_with_parent.command(parent=str(os.getpid())), sys.executable, "-m", module, *arguments]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """Address for gRPC."""
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Process id; 0 if it does not run."""
        return self._process.pid if self._process and self._process.poll() is None else 0

    async def start(self) -> None:
        """Start the process and wait until it serves."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("BILLING_")}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: ASYNC220 - some milliseconds
                self._command, cwd=ROOT, env={**inherited, **self._environment},
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        deadline = time.monotonic() + _START_TIMEOUT_S
        async with aio.insecure_channel(self.address, options=CHANNEL) as channel:
            while not await _serves(channel):
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"the process does not serve:\n{self.log.read_text(errors='replace')[-3000:]}")
                await asyncio.sleep(0.05)

    async def end(self, number: signal.Signals) -> None:
        """Send a signal, for example SIGKILL, and wait until the process has ended."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(number)
            await asyncio.to_thread(process.wait)


async def _serves(channel: aio.Channel) -> bool:
    try:
        check: aio.UnaryUnaryMultiCallable[Any, Any] = health_pb2_grpc.HealthStub(channel).Check  # type: ignore[attr-defined]
        reply = await check(health_pb2.HealthCheckRequest(), timeout=1.0)
    except grpc.RpcError:
        return False
    return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)


@dataclass(slots=True, kw_only=True)
class ChaosStack:
    """The replicas and the servers that they use."""

    database: Copy
    keys: Keys
    entities: str
    replicas: Sequence[Replica]
    postgres: Running[Postgres] | None = None
    nats: Running[Nats] | None = None
    tenant: UUID = field(default_factory=uuid4)

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Metadata with a long-lived token of the role finance."""
        token = self.keys.token(self.tenant, exp=int(time.time()) + _TOKEN_S)
        return (("authorization", f"Bearer {token}"),)


def environment(service: str, database: Copy, nats_url: str, keys: Keys) -> dict[str, str]:
    """Return the environment of a process."""
    return {
        "BILLING_DATABASE_URL": database.url(f"{service}_app"),
        "BILLING_NATS_URL": nats_url,
        "BILLING_ISSUER": ISSUER,
        "BILLING_AUDIENCE": AUDIENCE,
        "BILLING_JWKS": str(keys.jwks),
        "BILLING_SERVICE_JWKS": str(keys.service_jwks),
        "BILLING_SERVICE_KEY": str(keys.service_key(service)),
        "BILLING_PAGE_KEY": "a secret of the chaos",
        "BILLING_LOG_LEVEL": "WARNING",
        "BILLING_TRACE_RATIO": "0",
    }


@contextlib.asynccontextmanager
async def replicas(
    database: Copy, nats_url: str, keys: Keys, entities: str, folder: Path, *, count: int = 2
) -> AsyncIterator[Sequence[Replica]]:
    """Run replicas of the budgets service during the block."""
    variables = environment("budgets", database, nats_url, keys) | {
        "BILLING_ADDRESSES": json.dumps({"entities": entities})
    }
    async with _running([Replica("services.budgets.main", variables, folder) for _ in range(count)]) as started:
        yield started


@contextlib.asynccontextmanager
async def entities_replicas(
    database: Copy, nats_url: str, keys: Keys, folder: Path, *, count: int = 2
) -> AsyncIterator[Sequence[Replica]]:
    """Run replicas of the entities service during the block."""
    variables = environment("entities", database, nats_url, keys)
    async with _running([Replica("services.entities.main", variables, folder) for _ in range(count)]) as started:
        yield started


@contextlib.asynccontextmanager
async def _running(started: Sequence[Replica]) -> AsyncIterator[Sequence[Replica]]:
    try:
        await asyncio.gather(*(replica.start() for replica in started))
        yield started
    finally:
        await asyncio.gather(*(replica.end(signal.SIGTERM) for replica in started))


@contextlib.asynccontextmanager
async def running_stack() -> AsyncIterator[ChaosStack]:
    """Run the replicas with their own PostgreSQL and NATS in a temporary folder."""
    folder = paths.accessible_temporary_folder("billing-chaos-")
    try:
        with servers.postgres(folder / "postgres") as postgres, servers.nats(folder / "nats") as nats:
            cluster = await Cluster.prepared(postgres.url)
            database = await cluster.copy("chaos")
            (folder / "keys").mkdir()
            keys = Keys.create(folder / "keys")
            entities = Replica("services.entities.main", environment("entities", database, nats.url, keys), folder)
            await entities.start()
            try:
                async with replicas(database, nats.url, keys, entities.address, folder) as started:
                    yield ChaosStack(
                        database=database, keys=keys, entities=entities.address, replicas=started, postgres=postgres,
                        nats=nats,
                    )  # fmt: skip
            finally:
                await entities.end(signal.SIGTERM)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def restart(server: Running[Postgres] | Running[Nats], number: signal.Signals) -> None:
    """Stop a server with a signal and start it again with the same data."""

    def stop_and_start() -> None:
        pid = server.pid
        os.kill(pid, number)
        while die_with_parent.command_line(pid):  # until it has ended; `kill` below reaps it
            time.sleep(0.02)
        server.kill()
        server.start()

    await asyncio.to_thread(stop_and_start)
