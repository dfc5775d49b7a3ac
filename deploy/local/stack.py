"""Starting and ending the stack: servers → database → services, all ready or none left."""

import asyncio
import contextlib
import fcntl
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Final

import asyncpg

from deploy.database import migrate, provision, roles
from deploy.local import home, keys, places, processes, supervision
from deploy.local.ports import answers, http_status, is_free
from deploy.local.processes import GATEWAY, PROCESSES, SIMULATORS, Layout, port_name
from deploy.local.supervision import OUTSIDE, SERVERS, SERVICES, Seen, Supervisor

_READY_S: Final = 90.0
_LEFTOVERS_S: Final = 15.0
_STARTS_MAX: Final = 3
_LOG_LINES: Final = 25


class Failed(RuntimeError):
    """The stack did not come up; the text says which part and ends with its log."""


def up() -> tuple[Layout, bool]:
    """Start what does not run and wait until all is ready; gives the layout and whether it ran already.

    Raises Failed, and then nothing runs.
    """
    home.make()
    with _alone(), _ended_if_interrupted():
        supervisor = Supervisor()
        layout = _running(supervisor)
        if layout is None:
            layout = _launch(supervisor)
        elif is_healthy(supervisor, layout):
            return layout, True
        _bring_up(supervisor, layout)
        supervisor.unbind()
    return layout, False


def _running(supervisor: Supervisor) -> Layout | None:
    """The layout of the stack that runs; None if none does, or not as it is wanted now."""
    if not supervisor.answers():
        return None
    layout = processes.layout(running=True)
    if supervision.config(layout) == supervision.written_config():
        return layout
    print("settings changed: starting anew")
    return None


def _launch(supervisor: Supervisor) -> Layout:
    _end()
    keys.ensure([process.name for process in PROCESSES])
    layout = processes.layout(running=False)
    processes.remember(layout)
    supervisor.launch(supervision.config(layout))
    return layout


def _bring_up(supervisor: Supervisor, layout: Layout) -> None:
    started = time.time()
    for server in layout.servers:
        server.prepare()
        supervisor.start(f"{SERVERS}:{server.name}")
    _await(supervisor, started, lambda: _servers_ready(supervisor, layout))
    print(f"servers ready, {time.time() - started:.1f} s")
    asyncio.run(prepare_database(layout))
    print(f"database ready, {time.time() - started:.1f} s")
    supervisor.start(f"{SERVICES}:*")
    supervisor.start(f"{OUTSIDE}:*")
    _await(supervisor, started, lambda: is_healthy(supervisor, layout))
    print(f"services ready, {time.time() - started:.1f} s")


async def prepare_database(layout: Layout) -> None:
    """Bring roles, schemas and tables to their newest form."""
    services = [process.name for process in PROCESSES]
    passwords = home.passwords(role for service in services for role in roles(service))
    try:
        await provision(layout.admin_url, layout.database, services, passwords)
        for service in services:
            await migrate(service, layout.url_as(roles(service)[0]))
    except asyncpg.PostgresError as refused:
        raise Failed(f"the database refused: {refused}") from refused


def _servers_ready(supervisor: Supervisor, layout: Layout) -> bool:
    pids = {seen.name: seen.pid for seen in supervisor.processes() if seen.is_running}
    return all(server.name in pids and server.is_ready(pids[server.name]) for server in layout.servers)


def is_healthy(supervisor: Supervisor, layout: Layout) -> bool:
    """Whether everything runs and takes connections, and the gateway, which asks the services, is ready."""
    serving = [process.name for process in PROCESSES]
    serving += [simulator.name for simulator in SIMULATORS if simulator.serves]
    return (
        all(seen.is_running for seen in supervisor.processes())
        and all(answers(layout.ports[port_name(name)]) for name in serving)
        and http_status(layout.gateway_port, "/readyz") == HTTPStatus.OK
    )


def _await(supervisor: Supervisor, started: float, is_done: Callable[[], bool]) -> None:
    """Wait; raises Failed when it takes too long or a process cannot stay up."""
    pids: dict[str, set[int]] = {}
    while not is_done():
        for seen in supervisor.processes():
            seen_pids = pids.setdefault(seen.name, set())
            if seen.pid:
                seen_pids.add(seen.pid)
            if seen.state == "FATAL" or len(seen_pids) >= _STARTS_MAX:
                raise Failed(f"{seen.name} does not stay up. {_log_end(seen)}")
        if time.time() > started + _READY_S:
            raise Failed(_unready(supervisor))
        time.sleep(0.05)


def _unready(supervisor: Supervisor) -> str:
    seen = supervisor.processes()
    culprits = [each for each in seen if not each.is_running] or [each for each in seen if each.name == GATEWAY]
    return f"not ready after {_READY_S:.0f} s: " + "\n".join(
        f"{each.name} is {each.state}. {_log_end(each)}" for each in culprits
    )


def _log_end(seen: Seen) -> str:
    lines = seen.log.read_text(errors="replace").splitlines()[-_LOG_LINES:] if seen.log.exists() else []
    return "\n".join([f"The end of {seen.log}:", *(f"    {line}" for line in lines)])


def down() -> bool:
    """End everything, services before servers; gives whether something ran."""
    home.make()
    with _alone():
        return _end()


def _end() -> bool:
    """End everything, and wait until a stack that was killed has let go of its ports."""
    left = supervision.left_pid() is not None
    supervision.end()
    if left:
        ports = list(processes.remembered().values())
        deadline = time.monotonic() + _LEFTOVERS_S
        while not all(map(is_free, ports)) and time.monotonic() < deadline:
            time.sleep(0.02)
    return left


def reset() -> None:
    """End everything and delete all that the stack keeps here; an external database or NATS is left as it is."""
    down()
    shutil.rmtree(places.open_place(home.POSTGRES), ignore_errors=True)
    for folder in home.CONTENTS:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """One start or end at a time; the lock goes with the process."""
    with (home.RUN / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _ended_if_interrupted() -> Iterator[None]:
    """If the block fails or is interrupted, nothing keeps running."""

    def interrupted(number: int, _frame: object) -> None:
        sys.exit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupted)
    try:
        yield
    except BaseException:
        supervision.end()
        raise
