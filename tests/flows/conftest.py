"""The whole stack as `make up` starts it, for the flows through it: REST in, effects out."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from pytest import TempPathFactory  # noqa: PT013 - a type only

from deploy.local.ports import free_port

ROOT = Path(__file__).parents[2]


def eventually(look: Callable[[], Any], within_s: float = 20.0) -> Any:
    """The first true result of `look`: the stack is looked at from outside, so nothing else tells."""
    deadline = time.monotonic() + within_s
    while not (found := look()):
        assert time.monotonic() < deadline, f"not within {within_s} s"
        time.sleep(0.05)
    return found


@dataclass(frozen=True, slots=True)
class Stack:
    """A running stack, with state of its own."""

    environment: Mapping[str, str]

    @property
    def url(self) -> str:
        """Where its gateway is."""
        return f"http://127.0.0.1:{self.environment['GATEWAY_PORT']}"

    def local(self, *command: str, **given: str) -> str:
        """What `python -m deploy.local` prints; the variables are those that make passes on."""
        return self.run([sys.executable, "-m", "deploy.local", *command], **given)

    def run(self, command: list[str], **given: str) -> str:
        """What a command prints; the test fails if it fails."""
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**self.environment, **given},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{command} → {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        return done.stdout

    def client(self, **token: str) -> httpx.Client:
        """REST with a token: `stack.client(ROLE="finance", TENANT="acme")`."""
        bearer = self.local("token", **token).strip()
        base = f"{self.url}/api/enterprise-billing"
        return httpx.Client(base_url=base, headers={"Authorization": f"Bearer {bearer}"}, timeout=20.0)

    def processes(self) -> dict[str, dict[str, Any]]:
        """What `status` shows, by name."""
        rows = [line.split() for line in self.local("status").splitlines()]
        return {row[0]: {"state": row[1], "pid": int(row[3])} for row in rows if len(row) > 4}


@pytest.fixture(scope="session")
def collector(tmp_path_factory: TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A collector of spans: its address, and the file that it writes them to."""
    port, file = free_port(), tmp_path_factory.mktemp("collector") / "spans.jsonl"
    command = [sys.executable, "-m", "tests.flows.collector", str(port), str(file)]
    process = subprocess.Popen(command, cwd=ROOT)
    yield f"127.0.0.1:{port}", file
    process.kill()
    process.wait()


@pytest.fixture(scope="session")
def stack(tmp_path_factory: TempPathFactory, collector: tuple[str, Path]) -> Iterator[Stack]:
    """The stack of this worker, as `make up` starts it, with spans sent to the collector."""
    home = tmp_path_factory.mktemp("stack")
    kept = {name: value for name, value in os.environ.items() if name not in {"DATABASE_URL", "NATS_URL"}}
    environment = {**kept, "BILLING_HOME": str(home), "GATEWAY_PORT": str(free_port())}
    environment |= {"BILLING_OTLP_ENDPOINT": collector[0], "BILLING_TRACE_RATIO": "0"}
    running = Stack(environment)
    running.local("up")
    yield running
    running.local("reset")
