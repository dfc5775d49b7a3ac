"""Two replicas of the budgets service as processes of their own, which may be killed and come back."""

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
_UP_WITHIN_S: Final = 60.0
_TOKEN_S: Final = 4 * 3600
CHANNEL: Final = (
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 300),
    ("grpc.use_local_subchannel_pool", 1),
)


class Replica:
    """A process that serves on a port, whatever happens to it in between."""

    def __init__(self, module: str, environment: Mapping[str, str], folder: Path, *arguments: str) -> None:
        self.port = free_port()
        self.log = folder / f"{module}-{self.port}.log"
        self._environment = {**environment, "BILLING_LISTEN": f"127.0.0.1:{self.port}"}
        self._command = [*die_with_parent.command(parent=str(os.getpid())), sys.executable, "-m", module, *arguments]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """As gRPC takes it."""
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The id of the process; 0 where there is none."""
        return self._process.pid if self._process and self._process.poll() is None else 0

    async def start(self) -> None:
        """Start it, and wait until it serves."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("BILLING_")}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: ASYNC220 - some milliseconds
                self._command, cwd=ROOT, env={**kept, **self._environment},
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        deadline = time.monotonic() + _UP_WITHIN_S
        async with aio.insecure_channel(self.address, options=CHANNEL) as channel:
            while not await _serves(channel):
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"it does not serve:\n{self.log.read_text(errors='replace')[-3000:]}")
                await asyncio.sleep(0.05)

    async def end(self, number: signal.Signals) -> None:
        """Send it a signal, SIGKILL among others, and wait until it is gone."""
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
class Stage:
    """What plays: the replicas, and what they stand on."""

    database: Copy
    keys: Keys
    entities: str
    replicas: Sequence[Replica]
    postgres: Running[Postgres] | None = None
    nats: Running[Nats] | None = None
    tenant: UUID = field(default_factory=uuid4)

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Somebody of finance, for long."""
        token = self.keys.token(self.tenant, exp=int(time.time()) + _TOKEN_S)
        return (("authorization", f"Bearer {token}"),)


def environment(service: str, database: Copy, nats_url: str, keys: Keys) -> dict[str, str]:
    """What a process is told."""
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
    """Replicas of the budgets service for the time of the block."""
    told = environment("budgets", database, nats_url, keys) | {"BILLING_ADDRESSES": json.dumps({"entities": entities})}
    started = [Replica("services.budgets.main", told, folder) for _ in range(count)]
    try:
        await asyncio.gather(*(replica.start() for replica in started))
        yield started
    finally:
        await asyncio.gather(*(replica.end(signal.SIGTERM) for replica in started))


@contextlib.asynccontextmanager
async def whole() -> AsyncIterator[Stage]:
    """Everything of its own, PostgreSQL and NATS as well, in a folder that goes with it."""
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
                    yield Stage(
                        database=database, keys=keys, entities=entities.address, replicas=started, postgres=postgres,
                        nats=nats,
                    )  # fmt: skip
            finally:
                await entities.end(signal.SIGTERM)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def restart(server: Running[Postgres] | Running[Nats], number: signal.Signals) -> None:
    """End a server with a signal, and start it again on the same data."""

    def again() -> None:
        pid = server.pid
        os.kill(pid, number)
        while die_with_parent.command_line(pid):  # until it is gone; its exit status is taken by `kill`
            time.sleep(0.02)
        server.kill()
        server.start()

    await asyncio.to_thread(again)
