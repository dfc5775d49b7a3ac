"""Runs the gateway as a separate process."""

import asyncio
import contextlib
import json
import os
import socket
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from kit.settings import Settings
from tests.gateway.wire import Wire

ROOT = Path(__file__).parents[2]
_UP_WITHIN_S = 20.0


@dataclass(frozen=True, slots=True)
class Process:
    """A running gateway."""

    port: int
    process: asyncio.subprocess.Process


def free_port() -> int:
    """Return a free port outside the range of ephemeral ports."""
    for port in range(21_000 + os.getpid() % 5_000, 32_000):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no port is free")


@contextlib.asynccontextmanager
async def running(settings: Settings, module: str = "gateway.main") -> AsyncIterator[Process]:
    """Run the process inside the block; it is killed at the end if it still runs."""
    port = free_port()
    process_settings = settings.model_copy(update={"listen": f"127.0.0.1:{port}"})
    environment = {
        f"BILLING_{name.upper()}": _text(value)
        for name, value in process_settings
        if value is not None and name in settings.model_fields_set | {"listen"}
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, cwd=ROOT, env={**os.environ, **environment}, stdout=asyncio.subprocess.DEVNULL
    )
    try:
        await _ready(port)
        yield Process(port, process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def _text(value: object) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return json.dumps(value) if isinstance(value, dict) else str(value)


async def _ready(port: int) -> None:
    status = 0
    async with asyncio.timeout(_UP_WITHIN_S):
        while status != 200:
            wire = await connect(port)
            status, _ = await wire.send(b"GET /readyz HTTP/1.1\r\nHost: gateway\r\n\r\n")
            wire.close()


async def connect(port: int) -> Wire:
    """Connect as soon as the process listens."""
    async with asyncio.timeout(_UP_WITHIN_S):
        while True:
            with contextlib.suppress(OSError):
                return await Wire.open(port)
            await asyncio.sleep(0.05)
