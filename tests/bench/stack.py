"""The measured processes: real services over loopback, with their own durable PostgreSQL and NATS."""

import asyncio
import contextlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import grpc
from grpc import aio
from grpc_health.v1 import health, health_pb2
from pydantic import SecretStr

from deploy.local import die_with_parent, paths, servers
from deploy.local.ports import free_port, http_json, is_listening
from deploy.local.processes import GATEWAY, PROCESSES
from kit.settings import Settings
from tests.bench.load import TIMEOUT_S
from tests.harness.databases import Cluster, Copy
from tests.harness.services import settings_for
from tests.harness.tokens import Keys

ROOT = Path(__file__).parents[2]
_START_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 15.0
_POLL_S = 0.05
_TOKEN_S = 3600
_NO_LIMIT = 100_000_000

Metadata = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Process:
    """A running process."""

    port: int
    pid: int
    log: Path

    @property
    def address(self) -> str:
        """Address for gRPC."""
        return f"127.0.0.1:{self.port}"

    @property
    def resident_mib(self) -> float:
        """Resident memory in MiB."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        kib = next(line for line in status.splitlines() if line.startswith("VmRSS:")).split()[1]
        return round(int(kib) / 1024, 1)


@dataclass(frozen=True, slots=True)
class Stack:
    """All processes, as `make up` starts them."""

    folder: Path
    cluster: Cluster
    database: Copy
    nats_url: str
    keys: Keys
    collector: Process
    services: dict[str, Process]
    """Processes by name, including the gateway."""
    ports: dict[str, int]
    """Port of each process; chosen before the start since services call each other."""

    @property
    def entities(self) -> Process:
        """The entities service."""
        return self.services["entities"]

    @property
    def budgets(self) -> Process:
        """The budgets service."""
        return self.services["budgets"]

    @property
    def gateway(self) -> Process:
        """The gateway."""
        return self.services[GATEWAY]

    def metadata(self, tenant_id: UUID, subject: str = "alice") -> Metadata:
        """Return the metadata of a call with a token."""
        return (("authorization", f"Bearer {self.token(tenant_id, subject)}"),)

    def token(self, tenant_id: UUID, subject: str = "alice") -> str:
        """Return a token with the role finance, valid for an hour."""
        return self.keys.token(tenant_id, subject=subject, exp=int(time.time()) + _TOKEN_S)

    def admin(self) -> "contextlib.AbstractAsyncContextManager[asyncpg.Connection]":
        """Connect to the database of the stack as the superuser."""
        return connected(self.database.admin_url)

    @contextlib.asynccontextmanager
    async def served(
        self, name: str, *, backend: Process | None = None, database: Copy | None = None, port: int = 0
    ) -> AsyncIterator[Process]:
        """Start a process of a service; `backend` replaces the services that it calls, `database` that of the stack."""
        description = next(each for each in PROCESSES if each.name == name)
        port = port or free_port()
        settings = settings_for(
            name,
            database or self.database,
            self.nats_url,
            self.keys,
            addresses={
                service: backend.address if backend else f"127.0.0.1:{self.ports[service]}"
                for service in description.calls
            },
            listen=f"127.0.0.1:{port}",
            metrics_listen=f"127.0.0.1:{free_port()}",
            rate_limit=_NO_LIMIT,
            otlp_endpoint=self.collector.address,
            trace_ratio=Settings.model_fields["trace_ratio"].default,
        )
        log = self.folder / f"{name}-{port}.log"
        async with process(log, port, python("-m", description.module), _environment(settings)) as started:
            await _until_ready(started, http=name == GATEWAY)
            yield started


@contextlib.asynccontextmanager
async def connected(url: str) -> "AsyncIterator[asyncpg.Connection]":
    """Open a connection for the block."""
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


@contextlib.asynccontextmanager
async def running() -> AsyncIterator[Stack]:
    """Run the stack in a temporary folder."""
    folder = paths.accessible_temporary_folder("billing-bench-")
    try:
        with servers.postgres(folder / "postgres") as postgres, servers.nats(folder / "nats") as nats:
            cluster = await Cluster.prepared(postgres.url)
            database = await cluster.copy("stack")
            (folder / "keys").mkdir()
            keys = Keys.create(folder / "keys")
            async with contextlib.AsyncExitStack() as exits:
                port = free_port()
                collecting = python("-m", "tests.flows.collector", str(port), str(folder / "spans.jsonl"))
                collector = await exits.enter_async_context(process(folder / "collector.log", port, collecting))
                ports = {each.name: free_port() for each in PROCESSES}
                stack = Stack(folder, cluster, database, nats.url, keys, collector, {}, ports)
                for each in PROCESSES:
                    serving = stack.served(each.name, port=ports[each.name])
                    stack.services[each.name] = await exits.enter_async_context(serving)
                yield stack
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _environment(settings: Settings) -> dict[str, str]:
    """Return the settings as environment variables, without defaults."""
    variables = {f"BILLING_{name.upper()}": _text(getattr(settings, name)) for name in settings.model_fields_set}
    return {**variables, "PYTHONUNBUFFERED": "1"}


def _text(value: object) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return json.dumps(value) if isinstance(value, dict) else str(value)


def python(*arguments: str) -> list[str]:
    """Return a command of this Python interpreter."""
    return [sys.executable, *arguments]


@contextlib.asynccontextmanager
async def process(
    log: Path, port: int, command: list[str], environment: Mapping[str, str] | None = None
) -> AsyncIterator[Process]:
    """Run a command that listens on a port, until the block ends or this process ends."""
    started = _spawn(log, command, environment or {})
    try:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not is_listening(port):
            if started.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command} does not listen: {_output(log)}")
            await asyncio.sleep(_POLL_S)
        yield Process(port, started.pid, log)
    finally:
        await asyncio.to_thread(_end, started)


def _spawn(log: Path, command: Sequence[str], environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    with log.open("ab") as out:
        return subprocess.Popen(
            [*die_with_parent.command(parent=str(os.getpid()), signal_name="TERM"), *command],
            cwd=ROOT, env={**os.environ, **environment}, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
        )  # fmt: skip


def _end(started: "subprocess.Popen[bytes]") -> None:
    started.terminate()
    try:
        started.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        started.kill()
        started.wait()


def _output(log: Path) -> str:
    return log.read_text(errors="replace")[-3000:]


async def _until_ready(started: Process, *, http: bool) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while not (http_json(started.port, "/readyz").get("degraded") is False if http else await _serves(started)):
        if time.monotonic() > deadline:
            raise RuntimeError(f"not ready: {_output(started.log)}")
        await asyncio.sleep(_POLL_S)


async def _serves(started: Process) -> bool:
    async with aio.insecure_channel(started.address) as channel:
        check: aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/{health.SERVICE_NAME}/Check")
        try:
            raw = await check(b"", timeout=TIMEOUT_S)
        except grpc.RpcError:
            return False
    return health_pb2.HealthCheckResponse.FromString(raw).status == health_pb2.HealthCheckResponse.SERVING


async def machine(stack: Stack) -> dict[str, Any]:
    """Describe the machine, versions and settings of the measurement."""
    async with stack.admin() as admin:
        shown = {
            name: await admin.fetchval(f"show {name}") for name in ("server_version", "fsync", "synchronous_commit")
        }
        forced = await admin.fetchval(
            "select relforcerowsecurity from pg_class where oid = 'budgets.budgets'::regclass"
        )
    libraries = {name: version(name) for name in ("grpcio", "protobuf", "asyncpg", "uvloop", "uvicorn", "nats-py")}
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, {platform.system()} {platform.release()}",
        "load_before": [round(each, 2) for each in os.getloadavg()],
        "versions": {"python": platform.python_version(), "postgres": shown["server_version"], **libraries},
        "settings": {
            "fsync": shown["fsync"],
            "synchronous_commit": shown["synchronous_commit"],
            "row_level_security": "forced" if forced else "off",
            "tokens": "EdDSA, verified",
            "telemetry": "metrics, and the default share of spans sent to a collector",
            "log": "INFO, to a file",
            "event_loop": "uvloop on both sides",
        },
    }
