"""The processes of the stack and what each is told. A new service is a line in PROCESSES and one in deploy.database."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from deploy.database import role_url, roles
from deploy.local import home, keys, places
from deploy.local.ports import free_port, is_free
from deploy.local.servers import Nats, Postgres, Server


@dataclass(frozen=True)
class Process:
    """One of our services: its module, and whom it calls: services, and outside systems by what they are to it."""

    name: str
    module: str
    needs: tuple[str, ...] = ()
    outside: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Simulator:
    """What stands for an outside system, and whether it serves."""

    name: str
    module: str
    serves: bool = False


SIMULATORS: Final = (
    Simulator("licensing", "deploy.simulators.licensing"),
    Simulator("directory", "deploy.simulators.directory", serves=True),
)
PROCESSES: Final = (
    Process("entities", "services.entities.main", needs=("approvals",), outside={"users": "directory"}),
    Process("budgets", "services.budgets.main", needs=("entities", "approvals")),
    Process("approvals", "services.approvals.main", needs=("entities", "budgets"), outside={"users": "directory"}),
    Process("gateway", "gateway.main", needs=("entities", "budgets", "approvals")),
)
GATEWAY: Final = "gateway"
GATEWAY_PORT: Final = 8000
_PORTS_FILE: Final = home.RUN / "ports.json"


class PortTaken(Exception):
    """Somebody else listens on a port that was asked for."""

    def __init__(self, name: str, port: int) -> None:
        super().__init__(f"port {port} is taken by another program; choose one with {name}=…")


@dataclass(frozen=True)
class Layout:
    """What runs where."""

    ports: Mapping[str, int]
    """By the variable that sets it, for example BUDGETS_PORT."""

    @property
    def servers(self) -> tuple[Server, ...]:
        """The servers that we run ourselves: those that were not given by URL."""
        return tuple(
            server
            for server, given in ((self.postgres, "DATABASE_URL"), (self.nats, "NATS_URL"))
            if not os.environ.get(given)
        )

    @property
    def postgres(self) -> Postgres:
        """Our own PostgreSQL."""
        data = places.open_place(home.POSTGRES) / "data"
        return Postgres(data, self.ports["POSTGRES_PORT"], home.secret("postgres"))

    @property
    def nats(self) -> Nats:
        """Our own NATS."""
        return Nats(home.NATS, self.ports["NATS_PORT"], self.ports["NATS_MONITOR_PORT"], home.secret("nats"))

    @property
    def admin_url(self) -> str:
        """PostgreSQL as its administrator: ours, or what DATABASE_URL names."""
        return os.environ.get("DATABASE_URL") or self.postgres.url

    @property
    def database(self) -> str:
        """The database of the suite: that of DATABASE_URL, unless it is the administrator's own."""
        named = urlsplit(self.admin_url).path.strip("/")
        return "billing" if named in {"", "postgres"} else named

    @property
    def nats_url(self) -> str:
        """NATS: ours, or what NATS_URL names."""
        return os.environ.get("NATS_URL") or self.nats.url

    @property
    def gateway_port(self) -> int:
        """Where REST is served."""
        return self.ports[port_name(GATEWAY)]

    def url_as(self, role: str) -> str:
        """The database as one of the suite's roles."""
        return role_url(self.admin_url, role, home.passwords([role])[role], self.database)

    def environment(self, process: Process) -> dict[str, str]:
        """What a process is told; the fields of kit.settings.Settings."""
        called = {**{name: name for name in process.needs}, **process.outside}
        addresses = {name: f"127.0.0.1:{self.ports[port_name(by)]}" for name, by in called.items()}
        metrics = "" if process.name == GATEWAY else f"127.0.0.1:{self.ports[metrics_port_name(process.name)]}"
        return {
            "BILLING_DATABASE_URL": self.url_as(roles(process.name)[1]),
            "BILLING_NATS_URL": self.nats_url,
            "BILLING_LISTEN": f"127.0.0.1:{self.ports[port_name(process.name)]}",
            "BILLING_METRICS_LISTEN": metrics,
            "BILLING_ADDRESSES": json.dumps(addresses),
            "BILLING_JWKS": str(keys.USERS_JWKS),
            "BILLING_SERVICE_JWKS": str(keys.SERVICES_JWKS),
            "BILLING_SERVICE_KEY": str(keys.service_key(process.name)),
            "BILLING_PAGE_KEY": home.secret("page"),
            "PYTHONUNBUFFERED": "1",
        }

    def simulator_environment(self, simulator: Simulator) -> dict[str, str]:
        """What a simulator is told."""
        listen = {"BILLING_LISTEN": f"127.0.0.1:{self.ports[port_name(simulator.name)]}"} if simulator.serves else {}
        return {
            "BILLING_NATS_URL": self.nats_url,
            "BILLING_SERVICE_JWKS": str(keys.SERVICES_JWKS),
            "PYTHONUNBUFFERED": "1",
            **listen,
        }


def port_name(process: str) -> str:
    """The variable that sets where a process serves."""
    return f"{process.upper()}_PORT"


def metrics_port_name(process: str) -> str:
    """The variable that sets where a process shows its metrics."""
    return f"{process.upper()}_METRICS_PORT"


def port_names() -> list[str]:
    """All variables that set a port."""
    services = [name for process in PROCESSES for name in (port_name(process.name), metrics_port_name(process.name))]
    services.remove(metrics_port_name(GATEWAY))  # it has them beside its REST
    simulators = [port_name(simulator.name) for simulator in SIMULATORS if simulator.serves]
    return ["POSTGRES_PORT", "NATS_PORT", "NATS_MONITOR_PORT", *services, *simulators]


def remembered() -> dict[str, int]:
    """The ports of the last start."""
    return json.loads(_PORTS_FILE.read_bytes()) if _PORTS_FILE.exists() else {}


def layout(*, running: bool) -> Layout:
    """Ports from the environment, else those of the last start, else free ones; the gateway's is 8000 unless set.

    While the stack runs its ports are taken, by itself; else a remembered port that somebody else took is replaced,
    and one that was asked for raises PortTaken.
    """
    last = remembered()
    fixed = {name: int(os.environ[name]) for name in port_names() if os.environ.get(name)}
    if running:
        return Layout({name: fixed.get(name) or last.get(name) or free_port() for name in port_names()})
    fixed.setdefault(port_name(GATEWAY), GATEWAY_PORT)
    for name, port in fixed.items():
        if not is_free(port):
            raise PortTaken(name, port)
    usual = {name: port for name, port in last.items() if is_free(port)}
    return Layout({name: fixed.get(name) or usual.get(name) or free_port() for name in port_names()})


def remember(chosen: Layout) -> None:
    """Take the same ports the next time."""
    home.write(_PORTS_FILE, json.dumps(dict(chosen.ports), indent=2).encode())
