"""Start and stop the stack: servers → database → services. All processes are ready, or none is left running."""

import asyncio
import contextlib
import fcntl
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Final

import asyncpg

from deploy.database import migrate, provision, roles
from deploy.local import home, keys, paths, processes, supervision
from deploy.local.ports import http_json, is_free, is_listening
from deploy.local.processes import GATEWAY, PROCESSES, SIMULATORS, Layout, port_name
from deploy.local.supervision import SERVER_GROUP, SERVICE_GROUP, SIMULATOR_GROUP, ProcessInfo, Supervisor

_READY_S: Final = 90.0
_LEFTOVERS_S: Final = 15.0
_STARTS_MAX: Final = 3
_LOG_LINES: Final = 25


class StartFailed(RuntimeError):
    """The stack did not start; the message names the process and ends with its log."""


def up() -> tuple[Layout, bool]:
    """Start missing processes and wait until all are ready; return the layout and whether the stack ran already.

    Raises StartFailed after stopping all processes.
    """
    home.make()
    with _exclusive(), _stopped_on_failure():
        supervisor = Supervisor()
        layout = _running_layout(supervisor)
        if layout is None:
            layout = _launch(supervisor)
        elif is_healthy(supervisor, layout):
            return layout, True
        _start_processes(supervisor, layout)
        supervisor.detach()
    return layout, False


def _running_layout(supervisor: Supervisor) -> Layout | None:
    """Return the layout of the running stack; None if it does not run or its settings have changed."""
    if not supervisor.is_running():
        return None
    layout = processes.choose_layout(running=True)
    if supervision.config(layout) == supervision.written_config():
        return layout
    print("settings have changed: restarting")
    return None


def _launch(supervisor: Supervisor) -> Layout:
    _stop()
    keys.ensure([process.name for process in PROCESSES if process.has_key])
    layout = processes.choose_layout(running=False)
    processes.save_ports(layout)
    supervisor.launch(supervision.config(layout))
    return layout


def _start_processes(supervisor: Supervisor, layout: Layout) -> None:
    started = time.time()
    for server in layout.servers:
        server.prepare()
        supervisor.start(f"{SERVER_GROUP}:{server.name}")
    _wait_until(supervisor, started, lambda: _servers_ready(supervisor, layout))
    print(f"servers ready, {time.time() - started:.1f} s")
    asyncio.run(prepare_database(layout))
    print(f"database ready, {time.time() - started:.1f} s")
    supervisor.start(f"{SERVICE_GROUP}:*")
    supervisor.start(f"{SIMULATOR_GROUP}:*")
    _wait_until(supervisor, started, lambda: is_healthy(supervisor, layout))
    print(f"services ready, {time.time() - started:.1f} s")


async def prepare_database(layout: Layout) -> None:
    """Create or update roles, schemas and tables."""
    services = [process.name for process in PROCESSES]
    passwords = home.passwords(role for service in services for role in roles(service))
    try:
        await provision(layout.admin_url, layout.database, services, passwords)
        for service in services:
            await migrate(service, layout.url_as(roles(service)[0]))
    except asyncpg.PostgresError as error:
        raise StartFailed(f"preparing the database failed: {error}") from error


def _servers_ready(supervisor: Supervisor, layout: Layout) -> bool:
    pids = {info.name: info.pid for info in supervisor.processes() if info.is_running}
    return all(server.name in pids and server.is_ready(pids[server.name]) for server in layout.servers)


def is_healthy(supervisor: Supervisor, layout: Layout) -> bool:
    """True if all processes run and accept connections, and the gateway reaches every service."""
    serving = [process.name for process in PROCESSES]
    serving += [simulator.name for simulator in SIMULATORS if simulator.serves]
    return (
        all(info.is_running for info in supervisor.processes())
        and all(is_listening(layout.ports[port_name(name)]) for name in serving)
        and http_json(layout.gateway_port, "/readyz").get("degraded") is False
    )


def _wait_until(supervisor: Supervisor, started: float, is_done: Callable[[], bool]) -> None:
    """Wait for the condition. Raises StartFailed after a timeout or when a process keeps crashing."""
    pids: dict[str, set[int]] = {}
    while not is_done():
        for info in supervisor.processes():
            process_pids = pids.setdefault(info.name, set())
            if info.pid:
                process_pids.add(info.pid)
            if info.state == "FATAL" or len(process_pids) >= _STARTS_MAX:
                raise StartFailed(f"{info.name} keeps crashing. {_log_end(info)}")
        if time.time() > started + _READY_S:
            raise StartFailed(_unready(supervisor))
        time.sleep(0.05)


def _unready(supervisor: Supervisor) -> str:
    infos = supervisor.processes()
    failing = [info for info in infos if not info.is_running] or [info for info in infos if info.name == GATEWAY]
    return f"not ready after {_READY_S:.0f} s: " + "\n".join(
        f"{info.name} is {info.state}. {_log_end(info)}" for info in failing
    )


def _log_end(info: ProcessInfo) -> str:
    lines = info.log.read_text(errors="replace").splitlines()[-_LOG_LINES:] if info.log.exists() else []
    return "\n".join([f"Last lines of {info.log}:", *(f"    {line}" for line in lines)])


def down() -> bool:
    """Stop all processes, services before servers; return whether any ran."""
    home.make()
    with _exclusive():
        return _stop()


def _stop() -> bool:
    """Stop all processes and wait until their ports are free, also after a stack that was killed."""
    was_running = supervision.stored_pid() is not None
    supervision.stop()
    if was_running:
        ports = list(processes.saved_ports().values())
        deadline = time.monotonic() + _LEFTOVERS_S
        while not all(map(is_free, ports)) and time.monotonic() < deadline:
            time.sleep(0.02)
    return was_running


def reset() -> None:
    """Stop all processes and delete all files of the stack; an external database or NATS is not touched."""
    down()
    shutil.rmtree(paths.accessible_folder(home.POSTGRES), ignore_errors=True)
    for folder in home.CONTENTS:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _exclusive() -> Iterator[None]:
    """Allow one start or stop at a time; the lock is released when the process ends."""
    with (home.RUN / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _stopped_on_failure() -> Iterator[None]:
    """Stop all processes if the block fails or is interrupted."""

    def exit_on(number: int, _frame: object) -> None:
        sys.exit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, exit_on)
    try:
        yield
    except BaseException:
        supervision.stop()
        raise
