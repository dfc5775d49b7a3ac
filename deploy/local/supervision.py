"""supervisord, which keeps the stack's processes running: its configuration, its start, and talking to it.

All processes are bound to it, so that nothing is left should it be killed.
"""

import contextlib
import hashlib
import http.client
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
import xmlrpc.client
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from deploy.local import bound, home, places
from deploy.local.processes import PROCESSES, SIMULATORS, Layout

SERVERS: Final = "servers"
SERVICES: Final = "services"
OUTSIDE: Final = "outside"
"""The group of the simulators."""

_CONFIG: Final = home.RUN / "supervisord.conf"
_PID: Final = home.RUN / "supervisord.pid"
_SAID: Final = home.LOGS / "supervisord.err"
_SOCKET_PATH_MAX: Final = 90  # the system's limit is 107, and supervisord first binds the path with its pid behind
_ANSWER_S: Final = 15.0
_STOP_S: Final = 60.0
_UNSPEAKABLE: Final = re.compile(r"['\"%]|\s[;#]")
_PARENT: Final = "%(ENV_BOUND_PID)s"


class Silent(Exception):
    """supervisord does not answer; the text ends with what it said."""


@dataclass(frozen=True)
class Seen:
    """A process as supervisord sees it."""

    name: str
    state: str
    pid: int
    since: float
    log: Path

    @property
    def is_running(self) -> bool:
        """Whether it runs as far as is known; STARTING is its first second."""
        return self.state in {"RUNNING", "STARTING"} and self.pid > 0


def socket_path() -> Path:
    """Where supervisord is talked to; in the folder for temporary files if the path would be too long for a socket."""
    path = home.RUN / "supervisor.sock"
    if len(os.fsencode(path)) <= _SOCKET_PATH_MAX:
        return path
    name = hashlib.sha256(os.fsencode(home.HOME)).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"billing-{os.geteuid()}-{name}" / "supervisor.sock"


def _make_socket_folder() -> None:
    folder = socket_path().parent
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.geteuid():
        raise PermissionError(f"{folder} belongs to somebody else")


def config(layout: Layout) -> str:
    """What supervisord runs. Nothing starts by itself: services follow when the servers are ready and migrated."""
    for path in (home.HOME, places.ROOT, Path(sys.executable)):
        if _UNSPEAKABLE.search(str(path)):
            raise Silent(f"supervisord cannot be told of a path with quotes or %, or with ; or # after a space: {path}")
    sections = [
        _section("unix_http_server", {"file": str(socket_path()), "chmod": "0600"}),
        _section(
            "supervisord",
            {
                "logfile": str(home.LOGS / "supervisord.log"),
                "logfile_maxbytes": "5MB",
                "logfile_backups": "1",
                "pidfile": str(_PID),
                "silent": "true",
                "childlogdir": str(home.LOGS),
                **({"user": "root"} if os.geteuid() == 0 else {}),
            },
        ),
        _section(
            "rpcinterface:supervisor",
            {"supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"},
        ),
        _section("rpcinterface:bond", {"supervisor.rpcinterface_factory": "deploy.local.bound:bond"}),
    ]
    for server in layout.servers:
        shim = bound.command(parent=_PARENT, signal_name=server.stop_signal, user=server.user)
        stop = {"stopsignal": server.stop_signal, "stopwaitsecs": "30", "directory": "/"}
        sections.append(_program(server.name, shim, server.command(), server.environment, stop))
    for process in PROCESSES:
        command = [sys.executable, "-m", process.module]
        stop = {"stopwaitsecs": "15", "directory": str(places.ROOT)}
        shim = bound.command(parent=_PARENT)
        sections.append(_program(process.name, shim, command, layout.environment(process), stop))
    for simulator in SIMULATORS:
        command = [sys.executable, "-m", simulator.module]
        stop = {"directory": str(places.ROOT)}
        shim = bound.command(parent=_PARENT)
        sections.append(_program(simulator.name, shim, command, layout.simulator_environment(simulator), stop))
    # Groups are stopped in falling order of priority, the programs of one group all at once.
    if layout.servers:
        sections.append(_group(SERVERS, 1, [server.name for server in layout.servers]))
    sections.append(_group(SERVICES, 2, [process.name for process in PROCESSES]))
    sections.append(_group(OUTSIDE, 3, [simulator.name for simulator in SIMULATORS]))
    return "\n".join(sections)


def _section(name: str, values: Mapping[str, str]) -> str:
    return "\n".join([f"[{name}]", *(f"{key} = {_escaped(value)}" for key, value in values.items()), ""])


def _group(name: str, priority: int, programs: list[str]) -> str:
    return _section(f"group:{name}", {"programs": ",".join(programs), "priority": str(priority)})


def _program(
    name: str, shim: list[str], command: list[str], environment: Mapping[str, str], more: Mapping[str, str]
) -> str:
    values = ",".join(f"{key}='{value}'" for key, value in environment.items())
    return _section(
        f"program:{name}",
        {
            "command": " ".join(shlex.quote(word) for word in [*shim, *command]),
            "environment": values,
            "autostart": "false",
            "autorestart": "true",
            "startretries": "20",
            "redirect_stderr": "true",
            "stdout_logfile": str(log_of(name)),
            "stdout_logfile_maxbytes": "10MB",
            "stdout_logfile_backups": "2",
            **more,
        },
    )


def _escaped(text: str) -> str:
    """The text with each "%" doubled but that of the parent's id."""
    return text.replace("%", "%%").replace(_PARENT.replace("%", "%%"), _PARENT)


def log_of(name: str) -> Path:
    """The log of a process."""
    return home.LOGS / f"{name}.log"


class Supervisor:
    """The running supervisord."""

    def __init__(self) -> None:
        self._call = xmlrpc.client.ServerProxy("http://localhost", transport=_UnixTransport(socket_path()))

    def answers(self) -> bool:
        """Whether it is there."""
        try:
            self._call.supervisor.getState()
        except (OSError, http.client.HTTPException, xmlrpc.client.Error):
            return False
        return True

    def launch(self, text: str) -> None:
        """Start it with this configuration. Until unbind() it ends when we end."""
        _forget()
        _make_socket_folder()
        home.write(_CONFIG, text.encode())
        shim = bound.command(parent=str(os.getpid()), signal_name="TERM")
        daemon = [sys.executable, "-m", "supervisor.supervisord", "--nodaemon", "--configuration", str(_CONFIG)]
        with _SAID.open("wb") as said:
            process = subprocess.Popen(
                [*shim, *daemon],
                cwd=places.ROOT,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )
        deadline = time.monotonic() + _ANSWER_S
        while not self.answers():
            if process.poll() is not None or time.monotonic() > deadline:
                raise Silent(f"supervisord did not start:\n{_SAID.read_text(errors='replace')[-2000:]}")
            time.sleep(0.01)

    def unbind(self) -> None:
        """Let it outlive us."""
        self._call.bond.unbind()

    def start(self, name: str) -> None:
        """Start a process (`group:name`) or all of a group (`group:*`) unless they run."""
        with contextlib.suppress(xmlrpc.client.Fault):  # it was faster than we
            if name.endswith(":*"):
                self._call.supervisor.startProcessGroup(name.removesuffix(":*"), False)
            else:
                self._call.supervisor.startProcess(name, False)

    def processes(self) -> list[Seen]:
        """What it looks after, servers first."""
        found = cast("list[dict[str, Any]]", self._call.supervisor.getAllProcessInfo())
        order = [SERVERS, SERVICES, OUTSIDE]
        return [
            Seen(info["name"], info["statename"], info["pid"], info["start"], Path(info["stdout_logfile"]))
            for info in sorted(found, key=lambda info: order.index(info["group"]))
        ]


def written_config() -> str:
    """The configuration of the last start."""
    return _CONFIG.read_text() if _CONFIG.exists() else ""


def left_pid() -> int | None:
    """The process id of a supervisord that ended without cleaning up, or that still runs."""
    return int(_PID.read_text()) if _PID.exists() else None


def end() -> None:
    """End supervisord with all that it looks after, services first. Nothing happens if it is not there."""
    pid = left_pid()
    if pid is not None and _is_ours(pid):
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + _STOP_S
        while _is_ours(pid) and time.monotonic() < deadline:
            time.sleep(0.02)
        if _is_ours(pid):
            os.kill(pid, signal.SIGKILL)  # and by their bonds all others
    _forget()


def _forget() -> None:
    """Remove what a supervisord that is gone left behind."""
    for stale in (_PID, socket_path()):
        stale.unlink(missing_ok=True)
    if socket_path().parent != home.RUN:
        with contextlib.suppress(OSError):
            socket_path().parent.rmdir()


def _is_ours(pid: int) -> bool:
    """Whether this process is our supervisord, and not another that got its id."""
    return os.fsencode(_CONFIG) in bound.command_line(pid)


class _UnixTransport(xmlrpc.client.Transport):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def make_connection(self, _host: object) -> http.client.HTTPConnection:
        return _UnixConnection(self._path)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_ANSWER_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))
