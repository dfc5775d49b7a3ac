"""Real PostgreSQL and NATS from their pip wheels, on loopback.

`Postgres` and `Nats` say how one server is laid out, started and known to be ready; the local stack hands them to its
process manager. Tests and trials start their own:

    with postgres(durable=False) as server:
        connect(server.url)
"""

import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Final, Generic, Protocol, TypeVar

from deploy.local import bound, places
from deploy.local.ports import answers, free_port, http_status

_READY_LINE: Final = 7
_READY_S: Final = 60.0
_STOP_S: Final = 30.0
_TRIES: Final = 5


class ServerFailed(Exception):
    """A server did not start; the text ends with what it said."""

    def __init__(self, name: str, said: str) -> None:
        super().__init__(f"{name} failed:\n{said[-2000:].strip() or '(it said nothing)'}")


class Server(Protocol):
    """One server: how it is laid out, started, known to be ready, and stopped."""

    @property
    def name(self) -> str:
        """What it is called."""

    @property
    def url(self) -> str:
        """How clients reach it."""

    @property
    def user(self) -> str | None:
        """The account that it runs as; None: ours."""

    @property
    def stop_signal(self) -> str:
        """What ends it in good order."""

    @property
    def environment(self) -> Mapping[str, str]:
        """What it needs beyond the environment of who starts it."""

    def prepare(self) -> None:
        """Lay out what it needs on disk, unless that is done already."""

    def command(self) -> list[str]:
        """Starts it in the foreground."""

    def is_ready(self, pid: int) -> bool:
        """Whether the server with this process id takes connections."""


@dataclass(frozen=True)
class Postgres:
    """A PostgreSQL cluster in a folder, served on a port."""

    data: Path
    port: int
    password: str
    durable: bool = True
    settings: Mapping[str, str] = field(default_factory=dict)
    """Of postgresql.conf, beyond our own."""
    name: str = "postgres"
    user: str | None = places.ACCOUNT
    stop_signal: str = "INT"  # disconnects everybody and writes a checkpoint
    environment: Mapping[str, str] = field(default_factory=lambda: {"LC_ALL": "C.UTF-8", "TZ": "UTC"})

    @property
    def url(self) -> str:
        """The superuser's."""
        return f"postgresql://postgres:{self.password}@127.0.0.1:{self.port}/postgres"

    def program(self, name: str) -> str:
        """The path of one of PostgreSQL's programs."""
        return str(places.postgres_programs(self.data.parent) / name)

    def prepare(self) -> None:
        """Run initdb unless the folder is a finished cluster; else sweep away what a crash left."""
        if (self.data / "PG_VERSION").exists():
            self._forget_dead_postmaster()
            return
        unfinished = self.data.with_name(f"{self.data.name}.new")
        for folder in (self.data, unfinished):
            shutil.rmtree(folder, ignore_errors=True)
        self.data.parent.mkdir(parents=True, exist_ok=True)
        self.data.parent.chmod(0o711)
        unfinished.mkdir(mode=0o700)
        places.give_to_account(unfinished)
        password_file = unfinished.with_suffix(".password")
        password_file.touch(mode=0o600)
        password_file.write_text(self.password)
        places.give_to_account(password_file)
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
        ran = subprocess.run(
            command if self.durable else [*command, "--no-sync"],
            check=False, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            cwd="/", env={**os.environ, **self.environment}, **places.as_account(),
        )  # fmt: skip
        if ran.returncode != 0:
            raise ServerFailed("initdb", ran.stdout)

    def _forget_dead_postmaster(self) -> None:
        """Remove the pid file of a server that is gone: its id may be another process's by now."""
        file = self.data / "postmaster.pid"
        if file.exists() and os.fsencode(self.data) not in bound.command_line(int(file.read_text().split()[0])):
            file.unlink()

    def command(self) -> list[str]:
        """Starts it in the foreground."""
        settings = {"max_connections": "300", **self.settings}
        if not self.durable:
            settings |= {"fsync": "off", "full_page_writes": "off"}
        given = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [
            self.program("postgres"), "-D", str(self.data), "-h", "127.0.0.1", "-p", str(self.port), "-k", "", *given,
        ]  # fmt: skip

    def is_ready(self, pid: int) -> bool:
        """Whether the server with this process id takes connections."""
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) > _READY_LINE and lines[0] == str(pid) and lines[_READY_LINE].strip() == "ready"


@dataclass(frozen=True)
class Nats:
    """A NATS server with JetStream in a folder, served on a port."""

    store: Path
    port: int
    monitor_port: int
    token: str
    durable: bool = True
    name: str = "nats"
    user: str | None = None
    stop_signal: str = "TERM"
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """With the token that it asks for."""
        return f"nats://{self.token}@127.0.0.1:{self.port}"

    def prepare(self) -> None:
        """Write its configuration."""
        self.store.mkdir(mode=0o700, parents=True, exist_ok=True)
        config = self.store / "nats.conf"
        config.touch(mode=0o600)
        config.write_text(f"""\
server_name: billing
listen: "127.0.0.1:{self.port}"
http: "127.0.0.1:{self.monitor_port}"
authorization {{ token: "{self.token}" }}
jetstream {{
  store_dir: "{self.store}"
  max_mem: 256MB
  max_file: 10GB
  # Unless told so, it flushes what it acknowledged only after two minutes.
  sync_interval: {"always" if self.durable else "2m"}
}}
""")

    def command(self) -> list[str]:
        """Starts it in the foreground."""
        return [str(places.nats_program()), "-c", str(self.store / "nats.conf")]

    def is_ready(self, pid: int) -> bool:  # noqa: ARG002 - the port is the proof
        """Whether it takes connections and JetStream works."""
        # Asked first, because a client that is refused waits two seconds before it tries again.
        return answers(self.port) and http_status(self.monitor_port, "/healthz?js-enabled-only=true") == HTTPStatus.OK


def bound_command(server: Server, parent: str) -> list[str]:
    """Starts it in the foreground, to end with its parent process."""
    shim = bound.command(parent=parent, signal_name=server.stop_signal, user=server.user)
    return [*shim, *server.command()]


AnyServer = TypeVar("AnyServer", bound=Server)


class Running(Generic[AnyServer]):
    """A server that runs for us; it ends with us at the latest."""

    def __init__(self, server: AnyServer, log: Path) -> None:
        self.server = server
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """How clients reach it."""
        return self.server.url

    @property
    def pid(self) -> int:
        """Its process id."""
        if self._process is None:
            raise RuntimeError("it does not run")
        return self._process.pid

    def start(self) -> None:
        """Start it, also after kill(), and wait until it is ready. After a crash it may need more than one try."""
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
                bound_command(self.server, str(os.getpid())),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/",
                env={**os.environ, **self.server.environment}, process_group=0,
            )  # fmt: skip

    def kill(self) -> None:
        """Let it crash."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it in good order."""
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
    """A PostgreSQL for the time of the block, in a folder that goes with it unless one is given.

    Port 0 takes a free one. `durable=False` is faster and loses everything with the machine: for tests.
    """

    def laid_out(place: Path, password: str) -> Postgres:
        return Postgres(places.open_place(place) / "data", port or free_port(), password, durable=durable)

    with _running(laid_out, folder) as running:
        yield running


@contextmanager
def nats(folder: Path | None = None, *, port: int = 0, durable: bool = True) -> Iterator[Running[Nats]]:
    """A NATS server for the time of the block, in a folder that goes with it unless one is given."""

    def laid_out(place: Path, token: str) -> Nats:
        return Nats(place / "jetstream", port or free_port(), free_port(), token, durable=durable)

    with _running(laid_out, folder) as running:
        yield running


@contextmanager
def _running(laid_out: Callable[[Path, str], AnyServer], folder: Path | None) -> Iterator[Running[AnyServer]]:
    place = folder or places.open_temporary_folder("billing-")
    place.mkdir(parents=True, exist_ok=True)
    running = Running(laid_out(place, _secret(place / "secret")), place / "log")
    try:
        try:
            running.start()
        except ServerFailed:  # perhaps somebody took the port between the choice and the start
            running.stop()
            running.server = laid_out(place, _secret(place / "secret"))
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
