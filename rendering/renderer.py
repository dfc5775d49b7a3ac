"""Starts a worker process for each document, at most a few at once, and tenants take turns.

A worker is a new Python process (vfork and exec: forking a process that uses gRPC can deadlock). It takes 0.1 s to
start, so there is no pool: each document has a process of its own, with its own limits, an environment without the
settings of the service, and a temporary folder that is deleted afterwards.
"""

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Final
from uuid import UUID

from prometheus_client import Histogram

from kit.fairness import FairSlots
from kit.settings import Settings
from rendering.errors import DocumentTooLarge, RenderingFailed, RenderingTimedOut
from rendering.exits import OUT_OF_CPU_TIME, OUT_OF_MEMORY

_DURATION: Final = Histogram(
    "billing_rendering_duration_seconds",
    "Time to render a document, without the wait for a turn.",
    ("layout", "outcome"),
    buckets=(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 60.0),
)
_ROOT: Final = Path(__file__).parents[1]
_KILL_GRACE_S: Final = 1.0
"""By which the limit on CPU time, which also holds without us, is above the limit on time."""
_STDERR_MAX: Final = 300


class Renderer:
    """Renders documents by their layouts."""

    def __init__(self, settings: Settings) -> None:
        self._timeout_s = settings.rendering_timeout_s
        self._memory_bytes = settings.rendering_memory_bytes_max
        self._slots = FairSlots("renderings", settings.rendering_workers_max, settings.tenant_reserve)

    async def render(self, tenant_id: UUID, layout: str, payload: bytes) -> bytes:
        """Return the document that the module `layout` makes of `payload`, which is JSON.

        Raises RenderingTimedOut, DocumentTooLarge, RenderingFailed, and Overloaded if no worker becomes free.
        """
        await self._slots.acquire(tenant_id, within_s=self._timeout_s)
        begin, outcome = time.monotonic(), "failed"
        try:
            document = await self._run(layout, payload)
            outcome = "done"
        except (RenderingTimedOut, DocumentTooLarge) as error:
            outcome = error.reason.lower()
            raise
        finally:
            self._slots.release(tenant_id)
            _DURATION.labels(layout, outcome).observe(time.monotonic() - begin)
        return document

    async def _run(self, layout: str, payload: bytes) -> bytes:
        with tempfile.TemporaryDirectory(prefix="rendering-") as folder:
            worker = _Worker(self._command(layout), folder)
            ended = asyncio.create_task(asyncio.to_thread(worker.run, payload, self._timeout_s))
            try:
                await asyncio.shield(ended)
            except asyncio.CancelledError:
                worker.kill()
                await asyncio.wait([ended])
                raise
        if worker.exit_code:
            raise self._error(layout, worker)
        return worker.output

    def _command(self, layout: str) -> Sequence[str]:
        cpu_s = int(self._timeout_s + _KILL_GRACE_S)
        return [sys.executable, "-P", "-m", "rendering.worker", layout, str(self._memory_bytes), str(cpu_s)]

    def _error(self, layout: str, worker: "_Worker") -> Exception:
        if worker.timed_out or worker.exit_code in OUT_OF_CPU_TIME:
            return RenderingTimedOut(self._timeout_s)
        if worker.exit_code in OUT_OF_MEMORY or b"memory allocation of" in worker.message:
            return DocumentTooLarge(self._memory_bytes)
        message = worker.message.decode(errors="replace").strip().rpartition("\n")[2]
        return RenderingFailed(f"{layout}: exit code {worker.exit_code}: {message[:_STDERR_MAX]}")


class _Worker:
    """A process that renders one document. A thread waits for it, and another one may kill it."""

    def __init__(self, command: Sequence[str], folder: str) -> None:
        self._command, self._folder = command, folder
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = Lock()
        self._killed = False
        self.timed_out = False
        self.exit_code = 0
        self.output, self.message = b"", b""
        """What it wrote to stdout and stderr."""

    def run(self, payload: bytes, timeout_s: float) -> None:
        """Start the process and wait until it ends."""
        with self._lock:
            if self._killed:
                return
            process = self._process = self._start()
        try:
            self.output, self.message = process.communicate(payload, timeout_s)
        except subprocess.TimeoutExpired:
            self.timed_out = True
            process.kill()
            process.communicate()
        self.exit_code = process.returncode

    def _start(self) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(  # noqa: S603 - our own interpreter and module
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=self._folder,
            env=_environment(self._folder),
        )

    def kill(self) -> None:
        """End the process, or prevent that it starts."""
        with self._lock:
            self._killed = True
            if self._process:
                self._process.kill()


def _environment(folder: str) -> Mapping[str, str]:
    return {
        "PYTHONPATH": str(_ROOT),
        "PYTHONHASHSEED": "0",
        "PATH": os.environ.get("PATH", ""),
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "HOME": folder,
        "TMPDIR": folder,
        # One thread: a worker takes no more than one core, and less address space.
        "RAYON_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "2",
    }
