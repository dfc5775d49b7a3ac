"""Real PostgreSQL and NATS servers from pip wheels, on the loopback interface.

`Postgres` and `Nats` prepare the files of a server, give its command and check whether it is ready; the local stack
runs them under its process manager. Tests start their own:

    with postgres(durable=False) as server:
        connect(server.url)
"""

import hashlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Final, Generic, Protocol, TypeVar

from deploy import nats_users
from deploy.local import die_with_parent, paths
from deploy.local.ports import free_port, http_status, is_listening
from deploy.nats_users import NatsUser

_READY_LINE: Final = 7
_READY_S: Final = 60.0
_STOP_S: Final = 30.0
_TRIES: Final = 5


class ServerFailed(Exception):
    """A server did not start; the message ends with its output."""

    def __init__(self, name: str, output: str) -> None:
        super().__init__(f"{name} failed:\n{output[-2000:].strip() or '(no output)'}")


class Server(Protocol):
    """A server: its files, command, readiness check and stop signal."""

    @property
    def name(self) -> str:
        """Name of the process."""

    @property
    def url(self) -> str:
        """URL of clients."""

    @property
    def user(self) -> str | None:
        """The account that it runs as; None for the current user."""

    @property
    def stop_signal(self) -> str:
        """Signal for an orderly stop."""

    @property
    def environment(self) -> Mapping[str, str]:
        """Environment variables in addition to those of the parent."""

    def prepare(self) -> None:
        """Create its files unless they exist."""

    def command(self) -> list[str]:
        """Return the command that runs it in the foreground."""

    def is_ready(self, pid: int) -> bool:
        """True if the server with this process id accepts connections."""


@dataclass(frozen=True)
class Postgres:
    """A PostgreSQL cluster in a folder, listening on a port."""

    data: Path
    port: int
    password: str
    durable: bool = True
    settings: Mapping[str, str] = field(default_factory=dict)
    """Settings of postgresql.conf in addition to our own."""
    name: str = "postgres"
    user: str | None = paths.ACCOUNT
    stop_signal: str = "INT"  # closes all connections and writes a checkpoint
    environment: Mapping[str, str] = field(default_factory=lambda: {"LC_ALL": "C.UTF-8", "TZ": "UTC"})

    @property
    def url(self) -> str:
        """URL of the superuser."""
        return f"postgresql://postgres:{self.password}@127.0.0.1:{self.port}/postgres"

    def program(self, name: str) -> str:
        """Return the path of one of PostgreSQL's programs."""
        return str(paths.postgres_programs(self.data.parent) / name)

    def prepare(self) -> None:
        """Run initdb unless the folder has a complete cluster; then remove a stale pid file of a crash."""
        if (self.data / "PG_VERSION").exists():
            self._remove_stale_pid_file()
            return
        unfinished = self.data.with_name(f"{self.data.name}.new")
        for folder in (self.data, unfinished):
            shutil.rmtree(folder, ignore_errors=True)
        self.data.parent.mkdir(parents=True, exist_ok=True)
        self.data.parent.chmod(0o711)
        unfinished.mkdir(mode=0o700)
        paths.chown_to_account(unfinished)
        password_file = unfinished.with_suffix(".password")
        password_file.touch(mode=0o600)
        password_file.write_text(self.password)
        paths.chown_to_account(password_file)
        try:
            self._initdb(unfinished, password_file)
        finally:
            password_file.unlink()
        unfinished.rename(self.data)

    def _initdb(self, folder: Path, password_file: Path) -> None:
        command = [
            self.program("initdb"), "-D", str(folder), "-U", "postgres", f"--pwfile={password_file}",
            "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8", "--data-checksums", "--no-instructions",
        ]  # fmt: skip
        result = subprocess.run(
            command if self.durable else [*command, "--no-sync"],
            check=False, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            cwd="/", env={**os.environ, **self.environment}, **paths.as_account(),
        )  # fmt: skip
        if result.returncode != 0:
            raise ServerFailed("initdb", result.stdout)

    def _remove_stale_pid_file(self) -> None:
        """Remove the pid file of a dead server: another process may have its id by now."""
        file = self.data / "postmaster.pid"
        if file.exists() and os.fsencode(self.data) not in die_with_parent.command_line(
            int(file.read_text().split()[0])
        ):
            file.unlink()

    def command(self) -> list[str]:
        """Return the command that runs it in the foreground."""
        # Errors in its log without DETAIL, which has the values of rows.
        settings = {"max_connections": "300", "log_error_verbosity": "terse", **self.settings}
        if not self.durable:
            settings |= {"fsync": "off", "full_page_writes": "off"}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [
            self.program("postgres"), "-D", str(self.data), "-h", "127.0.0.1", "-p", str(self.port), "-k", "", *options,
        ]  # fmt: skip

    def is_ready(self, pid: int) -> bool:
        """True if the server with this process id accepts connections."""
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) > _READY_LINE and lines[0] == str(pid) and lines[_READY_LINE].strip() == "ready"


@dataclass(frozen=True)
class Nats:
    """A NATS server with JetStream in a folder, listening on a port."""

    store: Path
    port: int
    monitor_port: int
    passwords: Mapping[NatsUser, str]
    """The users; the first one is the administrator."""
    durable: bool = True
    name: str = "nats"
    user: str | None = None
    stop_signal: str = "TERM"

    @property
    def environment(self) -> Mapping[str, str]:
        """A digest of the users: `make up` restarts the server if they change."""
        return {"NATS_USERS": hashlib.sha256(self._authorization().encode()).hexdigest()[:16]}

    @property
    def url(self) -> str:
        """URL of the administrator."""
        return self.url_as(next(iter(self.passwords)).name)

    def url_as(self, name: str) -> str:
        """Return the URL of a user."""
        (password,) = (password for user, password in self.passwords.items() if user.name == name)
        return f"nats://{name}:{password}@127.0.0.1:{self.port}"

    def _authorization(self) -> str:
        return nats_users.authorization({user: json.dumps(password) for user, password in self.passwords.items()})

    def prepare(self) -> None:
        """Write its configuration."""
        self.store.mkdir(mode=0o700, parents=True, exist_ok=True)
        config = self.store / "nats.conf"
        config.touch(mode=0o600)
        config.write_text(f"""\
server_name: billing
listen: "127.0.0.1:{self.port}"
http: "127.0.0.1:{self.monitor_port}"
{self._authorization()}
jetstream {{
  store_dir: "{self.store}"
  max_mem: 256MB
  max_file: 10GB
  # The default flushes acknowledged messages to disk only every two minutes.
  sync_interval: {"always" if self.durable else "2m"}
}}
""")

    def command(self) -> list[str]:
        """Return the command that runs it in the foreground."""
        return [str(paths.nats_program()), "-c", str(self.store / "nats.conf")]

    def is_ready(self, pid: int) -> bool:  # noqa: ARG002 - the port is enough
        """True if it accepts connections and JetStream is ready."""
        # The port is checked first: an HTTP client waits two seconds after a refused connection.
        return (
            is_listening(self.port) and http_status(self.monitor_port, "/healthz?js-enabled-only=true") == HTTPStatus.OK
        )


def command_with_parent(server: Server, parent: str) -> list[str]:
    """Return the command that runs it in the foreground and stops it when the parent process ends."""
    shim = die_with_parent.command(parent=parent, signal_name=server.stop_signal, user=server.user)
    return [*shim, *server.command()]


AnyServer = TypeVar("AnyServer", bound=Server)


class Running(Generic[AnyServer]):
    """A server process; it ends with this process at the latest."""

    def __init__(self, server: AnyServer, log: Path) -> None:
        self.server = server
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """URL of clients."""
        return self.server.url

    @property
    def pid(self) -> int:
        """Its process id."""
        if self._process is None:
            raise RuntimeError(f"{self.server.name} is not running")
        return self._process.pid

    def start(self) -> None:
        """Start it and wait until it is ready; also after kill(). The start after a crash may need several attempts."""
        deadline = time.monotonic() + _READY_S
        for _ in range(_TRIES):
            process = self._process = self._spawn()
            while process.poll() is None and time.monotonic() < deadline:
                if self.server.is_ready(process.pid):
                    return
                time.sleep(0.01)
        raise ServerFailed(self.server.name, self.log.read_text(errors="replace"))

    def _spawn(self) -> subprocess.Popen[bytes]:
        self.server.prepare()
        with self.log.open("ab") as log:
            return subprocess.Popen(
                command_with_parent(self.server, str(os.getpid())),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/",
                env={**os.environ, **self.server.environment}, process_group=0,
            )  # fmt: skip

    def kill(self) -> None:
        """Kill it with SIGKILL, as in a crash."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Stop it in an orderly way."""
        self._end(signal.Signals[f"SIG{self.server.stop_signal}"])

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.send_signal(number)
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def postgres(folder: Path | None = None, *, port: int = 0, durable: bool = True) -> Iterator[Running[Postgres]]:
    """Run PostgreSQL during the block, in `folder` or in a temporary one.

    Port 0 selects a free one. `durable=False` is faster and loses data when the machine crashes: for tests.
    """

    def create(place: Path, password: str) -> Postgres:
        return Postgres(paths.accessible_folder(place) / "data", port or free_port(), password, durable=durable)

    with _running(create, folder) as running:
        yield running


@contextmanager
def nats(
    folder: Path | None = None, *, port: int = 0, durable: bool = True, users: Sequence[NatsUser] = (nats_users.ADMIN,)
) -> Iterator[Running[Nats]]:
    """Run NATS during the block, in `folder` or in a temporary one. All users have the same password."""

    def create(place: Path, password: str) -> Nats:
        passwords = dict.fromkeys(users, password)
        return Nats(place / "jetstream", port or free_port(), free_port(), passwords, durable=durable)

    with _running(create, folder) as running:
        yield running


@contextmanager
def _running(create: Callable[[Path, str], AnyServer], folder: Path | None) -> Iterator[Running[AnyServer]]:
    place = folder or paths.accessible_temporary_folder("billing-")
    place.mkdir(parents=True, exist_ok=True)
    running = Running(create(place, _secret(place / "secret")), place / "log")
    try:
        try:
            running.start()
        except ServerFailed:  # another process may have taken the port between its choice and the start
            running.stop()
            running.server = create(place, _secret(place / "secret"))
            running.start()
        yield running
    finally:
        running.stop()
        if folder is None:
            shutil.rmtree(place, ignore_errors=True)


def _secret(file: Path) -> str:
    if not file.exists():
        file.touch(mode=0o600)
        file.write_text(secrets.token_hex(16))
    return file.read_text()
