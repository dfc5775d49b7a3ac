"""Fixtures of the flow tests: the complete stack as `make up` starts it, used over REST."""

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


def eventually(condition: Callable[[], Any], within_s: float = 20.0) -> Any:
    """Poll `condition` and return its first true result; nothing signals a change of the stack."""
    deadline = time.monotonic() + within_s
    while not (result := condition()):
        assert time.monotonic() < deadline, f"the condition did not hold within {within_s} s"
        time.sleep(0.05)
    return result


@dataclass(frozen=True, slots=True)
class Stack:
    """A running stack with its own state."""

    environment: Mapping[str, str]

    @property
    def url(self) -> str:
        """The URL of its gateway."""
        return f"http://127.0.0.1:{self.environment['GATEWAY_PORT']}"

    def local(self, *command: str, **variables: str) -> str:
        """Run `python -m deploy.local` with the variables that make would pass; return its output."""
        return self.run([sys.executable, "-m", "deploy.local", *command], **variables)

    def run(self, command: list[str], **variables: str) -> str:
        """Run a command and return its output; the test fails if the command fails."""
        completed = subprocess.run(
            command,
            cwd=ROOT,
            env={**self.environment, **variables},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert completed.returncode == 0, (
            f"{command} → {completed.returncode}\n{completed.stdout[-4000:]}\n{completed.stderr[-4000:]}"
        )
        return completed.stdout

    def client(self, **token: str) -> httpx.Client:
        """Return a REST client with a token: `stack.client(ROLE="finance", TENANT="acme")`."""
        bearer = self.local("token", **token).strip()
        base = f"{self.url}/api/enterprise-billing"
        return httpx.Client(base_url=base, headers={"Authorization": f"Bearer {bearer}"}, timeout=20.0)

    def processes(self) -> dict[str, dict[str, Any]]:
        """Return the processes that `status` lists, by name."""
        rows = [line.split() for line in self.local("status").splitlines()]
        return {row[0]: {"state": row[1], "pid": int(row[3])} for row in rows if len(row) > 4}


@pytest.fixture(scope="session")
def collector(tmp_path_factory: TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Runs a collector of spans; its address, and the file with the spans."""
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
    inherited = {name: value for name, value in os.environ.items() if name not in {"DATABASE_URL", "NATS_URL"}}
    environment = {**inherited, "BILLING_HOME": str(home), "GATEWAY_PORT": str(free_port())}
    environment |= {"BILLING_OTLP_ENDPOINT": collector[0], "BILLING_TRACE_RATIO": "0"}
    running = Stack(environment)
    running.local("up")
    yield running
    running.local("reset")
