"""The processes of the local stack, their ports and settings. A new service needs a line in PROCESSES."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from deploy import nats_users, options
from deploy.database import role_url, roles
from deploy.local import home, keys, paths
from deploy.local.ports import free_port, is_free
from deploy.local.servers import Nats, Postgres, Server


@dataclass(frozen=True)
class Process:
    """One of our services: its module, and the services that it calls."""

    name: str
    module: str
    calls: tuple[str, ...] = ()
    outside: Mapping[str, str] = field(default_factory=dict)
    """The outside systems that it calls: simulator by name in the setting `addresses`."""

    @property
    def has_key(self) -> bool:
        """True if it calls others as itself. The gateway forwards the tokens of its callers."""
        return self.name != GATEWAY


@dataclass(frozen=True)
class Simulator:
    """The simulator of an outside system; `serves` if it has a gRPC address."""

    name: str
    module: str
    system: str
    """The name in the packages of its protos, platform.<system>.v1."""
    serves: bool = False


SIMULATORS: Final = (
    Simulator("licensing", "deploy.simulators.licensing", "licensing"),
    Simulator("payments", "deploy.simulators.payments", "payments"),
    Simulator("directory", "deploy.simulators.directory", "users", serves=True),
)
PROCESSES: Final = (
    Process("entities", "services.entities.main", calls=("approvals",), outside={"users": "directory"}),
    Process("budgets", "services.budgets.main", calls=("entities", "approvals")),
    Process("approvals", "services.approvals.main", calls=("entities", "budgets"), outside={"users": "directory"}),
    Process("gateway", "gateway.main", calls=("entities", "budgets", "approvals")),
)
GATEWAY: Final = "gateway"
GATEWAY_PORT: Final = 8000
_PORT_MAX: Final = 65_535
_PORTS_FILE: Final = home.RUN / "ports.json"


class PortTaken(Exception):
    """Another program listens on a requested port."""

    def __init__(self, name: str, port: int) -> None:
        super().__init__(f"port {port} is used by another program; choose another one with {name}=…")


@dataclass(frozen=True)
class Layout:
    """Ports, URLs and settings of all processes."""

    ports: Mapping[str, int]
    """Port by its environment variable, for example BUDGETS_PORT."""

    @property
    def servers(self) -> tuple[Server, ...]:
        """The servers that the stack runs: those whose URL is not set in the environment."""
        return tuple(
            server
            for server, variable in ((self.postgres, "DATABASE_URL"), (self.nats, "NATS_URL"))
            if not os.environ.get(variable)
        )

    @property
    def postgres(self) -> Postgres:
        """The stack's own PostgreSQL."""
        data = paths.accessible_folder(home.POSTGRES) / "data"
        return Postgres(data, self.ports["POSTGRES_PORT"], home.secret("postgres"))

    @property
    def nats(self) -> Nats:
        """The stack's own NATS."""
        passwords = {user: home.secret(f"nats-{user.name}") for user in nats_users.users()}
        return Nats(home.NATS, self.ports["NATS_PORT"], self.ports["NATS_MONITOR_PORT"], passwords)

    @property
    def admin_url(self) -> str:
        """URL of the PostgreSQL administrator: DATABASE_URL, else that of our own server."""
        return os.environ.get("DATABASE_URL") or self.postgres.url

    @property
    def database(self) -> str:
        """Name of the database: that of DATABASE_URL, or "billing" if it names the administrator's own database."""
        name = urlsplit(self.admin_url).path.strip("/")
        return "billing" if name in {"", "postgres"} else name

    @property
    def nats_url(self) -> str:
        """URL of the administrator of NATS: NATS_URL, else that of our own server."""
        return os.environ.get("NATS_URL") or self.nats.url

    def nats_url_as(self, user: str) -> str:
        """Return the URL of NATS for a user: NATS_URL, else that of our own server."""
        return os.environ.get("NATS_URL") or self.nats.url_as(user)

    @property
    def gateway_port(self) -> int:
        """Port of the REST API."""
        return self.ports[port_name(GATEWAY)]

    def url_as(self, role: str) -> str:
        """Return the URL of the database for a role."""
        return role_url(self.admin_url, role, home.passwords([role])[role], self.database)

    def environment(self, process: Process) -> dict[str, str]:
        """Return the environment of a process: the fields of kit.settings.Settings."""
        targets = {**{name: name for name in process.calls}, **process.outside}
        addresses = {name: f"127.0.0.1:{self.ports[port_name(process_name)]}" for name, process_name in targets.items()}
        return {
            "BILLING_DATABASE_URL": self.url_as(roles(process.name)[1]),
            "BILLING_NATS_URL": self.nats_url_as(process.name) if process.name in nats_users.SERVICES else "",
            "BILLING_LISTEN": f"127.0.0.1:{self.ports[port_name(process.name)]}",
            "BILLING_METRICS_LISTEN": f"127.0.0.1:{self.ports[metrics_port_name(process.name)]}",
            "BILLING_ADDRESSES": json.dumps(addresses),
            "BILLING_JWKS": str(keys.USERS_JWKS),
            "BILLING_SERVICE_JWKS": str(keys.SERVICES_JWKS),
            "BILLING_PAGE_KEY": home.secret("page"),
            "PYTHONUNBUFFERED": "1",
            **({"BILLING_SERVICE_KEY": str(keys.service_key(process.name))} if process.has_key else {}),
        }

    def simulator_environment(self, simulator: Simulator) -> dict[str, str]:
        """Return the environment of a simulator."""
        listen = {"BILLING_LISTEN": f"127.0.0.1:{self.ports[port_name(simulator.name)]}"} if simulator.serves else {}
        return {
            "BILLING_NATS_URL": self.nats_url_as(nats_users.system_user(simulator.system)),
            "BILLING_SERVICE_JWKS": str(keys.SERVICES_JWKS),
            "PYTHONUNBUFFERED": "1",
            **listen,
        }


def port_name(process: str) -> str:
    """Return the environment variable of the port of a process."""
    return f"{process.upper()}_PORT"


def metrics_port_name(process: str) -> str:
    """Return the environment variable of the metrics port of a process."""
    return f"{process.upper()}_METRICS_PORT"


def port_names() -> list[str]:
    """Return the environment variables of all ports."""
    services = [name for process in PROCESSES for name in (port_name(process.name), metrics_port_name(process.name))]
    simulators = [port_name(simulator.name) for simulator in SIMULATORS if simulator.serves]
    return ["POSTGRES_PORT", "NATS_PORT", "NATS_MONITOR_PORT", *services, *simulators]


def saved_ports() -> dict[str, int]:
    """Return the ports of the last start."""
    return json.loads(_PORTS_FILE.read_bytes()) if _PORTS_FILE.exists() else {}


def choose_layout(*, running: bool) -> Layout:
    """Choose the ports: from the environment, else those of the last start, else free ones (gateway: 8000).

    While the stack is `running`, its ports are in use by itself and not checked. Otherwise a saved port that is in use
    is replaced. Raises PortTaken if a requested port is in use.
    """
    last = saved_ports()
    requested = {name: os.environ[name] for name in port_names() if os.environ.get(name)}
    fixed = {name: options.whole_number(name, text, 1, _PORT_MAX) for name, text in requested.items()}
    if running:
        return Layout({name: fixed.get(name) or last.get(name) or free_port() for name in port_names()})
    fixed.setdefault(port_name(GATEWAY), GATEWAY_PORT)
    for name, port in fixed.items():
        if not is_free(port):
            raise PortTaken(name, port)
    free = {name: port for name, port in last.items() if is_free(port)}
    return Layout({name: fixed.get(name) or free.get(name) or free_port() for name in port_names()})


def save_ports(layout: Layout) -> None:
    """Save the ports for the next start."""
    home.write(_PORTS_FILE, json.dumps(dict(layout.ports), indent=2).encode())
