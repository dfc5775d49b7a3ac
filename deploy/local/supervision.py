"""supervisord, which keeps the processes of the stack running: its configuration, start and XML-RPC client.

All processes end with supervisord, so that none is left if it is killed.
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

from deploy.local import die_with_parent, home, paths
from deploy.local.processes import PROCESSES, SIMULATORS, Layout, choose_layout

SERVER_GROUP: Final = "servers"
SERVICE_GROUP: Final = "services"
SIMULATOR_GROUP: Final = "simulators"

_CONFIG: Final = home.RUN / "supervisord.conf"
_PID: Final = home.RUN / "supervisord.pid"
_STDERR: Final = home.LOGS / "supervisord.err"
_SOCKET_PATH_MAX: Final = 90  # the limit is 107, and supervisord first binds the path with its pid appended
_RESPONSE_S: Final = 15.0
_STOP_S: Final = 60.0
_UNSUPPORTED: Final = re.compile(r"['\"%]|\s[;#]")
_PARENT: Final = "%(ENV_PARENT_PID)s"


class NotRunning(Exception):
    """The local stack is not running."""

    def __init__(self) -> None:
        super().__init__(f"the local stack in {home.HOME} is not running; `make up` starts it")


class SupervisorFailed(Exception):
    """supervisord can't be started; the message ends with its output."""


@dataclass(frozen=True)
class ProcessInfo:
    """State of a process, from supervisord."""

    name: str
    state: str
    pid: int
    since: float
    log: Path

    @property
    def is_running(self) -> bool:
        """True if it runs; STARTING is its first second."""
        return self.state in {"RUNNING", "STARTING"} and self.pid > 0


def socket_path() -> Path:
    """Return the socket of supervisord; in the temporary folder if the path would be too long for a socket."""
    path = home.RUN / "supervisor.sock"
    if len(os.fsencode(path)) <= _SOCKET_PATH_MAX:
        return path
    name = hashlib.sha256(os.fsencode(home.HOME)).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"billing-{os.geteuid()}-{name}" / "supervisor.sock"


def _make_socket_folder() -> None:
    folder = socket_path().parent
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.geteuid():
        raise PermissionError(f"{folder} belongs to another user")


def config(layout: Layout) -> str:
    """Return the configuration of supervisord. Nothing starts by itself: services wait for servers and migrations."""
    for path in (home.HOME, paths.ROOT, Path(sys.executable)):
        if _UNSUPPORTED.search(str(path)):
            raise SupervisorFailed(
                f"supervisord does not support quotes, %, or a space before ; or # in a path: {path}"
            )
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
        _section(
            "rpcinterface:parent_link", {"supervisor.rpcinterface_factory": "deploy.local.die_with_parent:parent_link"}
        ),
    ]
    for server in layout.servers:
        shim = die_with_parent.command(parent=_PARENT, signal_name=server.stop_signal, user=server.user)
        stop = {"stopsignal": server.stop_signal, "stopwaitsecs": "30", "directory": "/"}
        sections.append(_program(server.name, shim, server.command(), server.environment, stop))
    for process in PROCESSES:
        command = [sys.executable, "-m", process.module]
        stop = {"stopwaitsecs": "15", "directory": str(paths.ROOT)}
        shim = die_with_parent.command(parent=_PARENT)
        sections.append(_program(process.name, shim, command, layout.environment(process), stop))
    for simulator in SIMULATORS:
        command = [sys.executable, "-m", simulator.module]
        stop = {"directory": str(paths.ROOT)}
        shim = die_with_parent.command(parent=_PARENT)
        sections.append(_program(simulator.name, shim, command, layout.simulator_environment(simulator), stop))
    # Groups are stopped in descending order of priority; the programs of a group stop concurrently.
    if layout.servers:
        sections.append(_group(SERVER_GROUP, 1, [server.name for server in layout.servers]))
    sections.append(_group(SERVICE_GROUP, 2, [process.name for process in PROCESSES]))
    sections.append(_group(SIMULATOR_GROUP, 3, [simulator.name for simulator in SIMULATORS]))
    return "\n".join(sections)


def _section(name: str, values: Mapping[str, str]) -> str:
    return "\n".join([f"[{name}]", *(f"{key} = {_escape(value)}" for key, value in values.items()), ""])


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


def _escape(text: str) -> str:
    """Double each "%" except in the placeholder of the parent's id."""
    return text.replace("%", "%%").replace(_PARENT.replace("%", "%%"), _PARENT)


def log_of(name: str) -> Path:
    """Return the log file of a process."""
    return home.LOGS / f"{name}.log"


def running_layout() -> Layout:
    """Return the layout of the running stack. Raises NotRunning."""
    if not Supervisor().is_running():
        raise NotRunning
    return choose_layout(running=True)


class Supervisor:
    """Client of the running supervisord."""

    def __init__(self) -> None:
        self._call = xmlrpc.client.ServerProxy("http://localhost", transport=_UnixTransport(socket_path()))

    def is_running(self) -> bool:
        """True if supervisord responds."""
        try:
            self._call.supervisor.getState()
        except (OSError, http.client.HTTPException, xmlrpc.client.Error):
            return False
        return True

    def launch(self, text: str) -> None:
        """Start supervisord with this configuration. It ends with this process until detach() is called."""
        _remove_stale_files()
        _make_socket_folder()
        home.write(_CONFIG, text.encode())
        shim = die_with_parent.command(parent=str(os.getpid()), signal_name="TERM")
        daemon = [sys.executable, "-m", "supervisor.supervisord", "--nodaemon", "--configuration", str(_CONFIG)]
        with _STDERR.open("wb") as stderr:
            process = subprocess.Popen(
                [*shim, *daemon],
                cwd=paths.ROOT,
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                start_new_session=True,
            )
        deadline = time.monotonic() + _RESPONSE_S
        while not self.is_running():
            if process.poll() is not None or time.monotonic() > deadline:
                raise SupervisorFailed(f"supervisord did not start:\n{_STDERR.read_text(errors='replace')[-2000:]}")
            time.sleep(0.01)

    def detach(self) -> None:
        """Let supervisord run on when this process ends."""
        self._call.parent_link.detach()

    def start(self, name: str) -> None:
        """Start a process (`group:name`) or all processes of a group (`group:*`) unless they run."""
        with contextlib.suppress(xmlrpc.client.Fault):  # it runs already
            if name.endswith(":*"):
                self._call.supervisor.startProcessGroup(name.removesuffix(":*"), False)
            else:
                self._call.supervisor.startProcess(name, False)

    def processes(self) -> list[ProcessInfo]:
        """Return all processes, servers first."""
        processes = cast("list[dict[str, Any]]", self._call.supervisor.getAllProcessInfo())
        order = [SERVER_GROUP, SERVICE_GROUP, SIMULATOR_GROUP]
        return [
            ProcessInfo(info["name"], info["statename"], info["pid"], info["start"], Path(info["stdout_logfile"]))
            for info in sorted(processes, key=lambda info: order.index(info["group"]))
        ]


def written_config() -> str:
    """Return the configuration of the last start."""
    return _CONFIG.read_text() if _CONFIG.exists() else ""


def stored_pid() -> int | None:
    """Return the process id in the pid file, of a running or a crashed supervisord; None if there is no file."""
    return int(_PID.read_text()) if _PID.exists() else None


def stop() -> None:
    """Stop supervisord and all processes, services first. Does nothing if it does not run."""
    pid = stored_pid()
    if pid is not None and _is_ours(pid):
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + _STOP_S
        while _is_ours(pid) and time.monotonic() < deadline:
            time.sleep(0.02)
        if _is_ours(pid):
            os.kill(pid, signal.SIGKILL)  # its processes end with it
    _remove_stale_files()


def _remove_stale_files() -> None:
    """Remove the pid file and the socket of a supervisord that has ended."""
    for stale in (_PID, socket_path()):
        stale.unlink(missing_ok=True)
    if socket_path().parent != home.RUN:
        with contextlib.suppress(OSError):
            socket_path().parent.rmdir()


def _is_ours(pid: int) -> bool:
    """True if this process is our supervisord, not another process that reuses its id."""
    return os.fsencode(_CONFIG) in die_with_parent.command_line(pid)


class _UnixTransport(xmlrpc.client.Transport):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def make_connection(self, _host: object) -> http.client.HTTPConnection:
        return _UnixConnection(self._path)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_RESPONSE_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))
