"""The command line of the local stack: `python -m deploy.local COMMAND`. `make help` lists the same commands."""

import argparse
import asyncio
import contextlib
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Final
from urllib.parse import urlsplit

from deploy import options
from deploy.local import home
from deploy.local.processes import (
    GATEWAY,
    PROCESSES,
    SIMULATORS,
    Layout,
    PortTaken,
    choose_layout,
    metrics_port_name,
    port_name,
)
from deploy.local.servers import ServerFailed
from deploy.local.supervision import NotRunning, SupervisorFailed, running_layout

_NOT_HEALTHY: Final = 3
_ROLE: Final = "billing_admin"


_FAILURES: Final = (
    options.InvalidOption, NotRunning, PortTaken, ServerFailed, SupervisorFailed, OSError, RuntimeError,
)  # fmt: skip
"""Failures whose message is all that a user needs."""


def _up(arguments: argparse.Namespace) -> int:
    """Start all processes, wait until they are healthy, load the sample data, print URLs and a token."""
    from deploy.local import stack

    started = time.monotonic()
    layout, ran_already = stack.up()
    if ran_already:
        print(f"already running: http://127.0.0.1:{layout.gateway_port}")
        return 0
    _seed(arguments)
    print(f"up in {time.monotonic() - started:.1f} s\n")
    _show(layout)
    return 0


def _show(layout: Layout) -> None:
    from deploy.local import keys

    rest = f"http://127.0.0.1:{layout.gateway_port}"
    rows = [
        ("REST", f"{rest}/api/enterprise-billing"),
        ("Swagger UI", f"{rest}/docs"),
    ]
    for process in PROCESSES:
        port, metrics = (layout.ports[name(process.name)] for name in (port_name, metrics_port_name))
        protocol = "REST" if process.name == GATEWAY else "gRPC"
        rows.append((process.name, f"127.0.0.1:{port} ({protocol})   http://127.0.0.1:{metrics}/metrics"))
    rows += [
        (simulator.name, f"127.0.0.1:{layout.ports[port_name(simulator.name)]} (gRPC, simulator)")
        for simulator in SIMULATORS
        if simulator.serves
    ]
    for label, text in rows:
        print(f"  {label:<16} {text}")
    print(f"\n  Token ({_ROLE} of acme; for another role: make -s token ROLE=…):\n\n{keys.token()}\n")
    print(f'  curl -H "Authorization: Bearer $(make -s token)" {rest}/api/enterprise-billing/budgets')


def _down(_arguments: argparse.Namespace) -> int:
    """Stop all processes, keep the data."""
    from deploy.local import stack

    print("stopped" if stack.down() else "nothing was running")
    return 0


def _status(_arguments: argparse.Namespace) -> int:
    """Show each process; the exit code is 0 if all are healthy."""
    from deploy.local import stack
    from deploy.local.supervision import Supervisor

    supervisor = Supervisor()
    if not supervisor.is_running():
        print("not running")
        return _NOT_HEALTHY
    layout = choose_layout(running=True)
    for info in supervisor.processes():
        port = layout.ports.get(port_name(info.name), "")
        up_for = f"{time.time() - info.since:.0f} s" if info.is_running else ""
        print(f"{info.name:<12} {info.state:<9} pid {info.pid:<8} port {port:<6} {up_for}")
    healthy = stack.is_healthy(supervisor, layout)
    print("healthy" if healthy else "not healthy")
    return 0 if healthy else _NOT_HEALTHY


def _logs(arguments: argparse.Namespace) -> int:
    """Follow the logs."""
    from deploy.local import logs

    supervised = ["supervisord", "postgres", "nats", *(one.name for one in (*PROCESSES, *SIMULATORS))]
    logs.follow(options.names("NAME", arguments.name, supervised))
    return 0


def _events(arguments: argparse.Namespace) -> int:
    """Follow the published events."""
    from deploy.local import events

    options.names("FROM", arguments.since, ("now", "start"))
    asyncio.run(events.follow(running_layout().nats_url, from_start=arguments.since == "start"))
    return 0


def _seed(_arguments: argparse.Namespace) -> int:
    """Load missing sample data."""
    from deploy.local import seed

    created, existing = seed.load(running_layout().gateway_port)
    print(f"sample data: {created} created, {existing} existed")
    return 0


def _dead_letters(arguments: argparse.Namespace) -> int:
    """List the dead letters of a tenant, and redrive or drop some of them."""
    from deploy.local import dead_letters

    lines = asyncio.run(
        dead_letters.run(running_layout(), tenant=arguments.tenant, redrive=arguments.redrive, drop=arguments.drop)
    )
    print("\n".join(lines) or f"tenant {arguments.tenant} has no dead letters")
    return 0


def _token(arguments: argparse.Namespace) -> int:
    """Print a token."""
    from deploy.local import keys
    from kit.auth import CONFINED_ROLES, ROLES

    roles = options.names("ROLE", arguments.role, [role for role in ROLES if role != "service"], required=True)
    entities = _ids("ENTITY_SCOPE", arguments.entity_scope) or None
    departments = _ids("DEPARTMENT_SCOPE", arguments.department_scope) or None
    if CONFINED_ROLES.issuperset(roles) and not (entities or departments):
        raise options.InvalidOption(
            f"ROLE={arguments.role} grants nothing without a scope: set ENTITY_SCOPE or DEPARTMENT_SCOPE"
        )
    token = keys.token(
        tenant=arguments.tenant,
        subject=arguments.sub,
        roles=roles,
        entity_scope=entities,
        department_scope=departments,
    )
    print(token)
    return 0


def _address(arguments: argparse.Namespace) -> int:
    """Print the address of a process."""
    ports = choose_layout(running=True).ports
    listening = [one.name for one in (*PROCESSES, *SIMULATORS) if port_name(one.name) in ports]
    options.names("SERVICE", arguments.service, listening)
    print(f"127.0.0.1:{ports[port_name(arguments.service)]}")
    return 0


def _psql(arguments: argparse.Namespace) -> int:
    """Open psql as the administrator, or with the role of a service."""
    names = options.names("SERVICE", arguments.service, [process.name for process in PROCESSES])
    layout = running_layout()
    if names:
        url = layout.url_as(f"{arguments.service}_app")
    else:
        url = urlsplit(layout.admin_url)._replace(path=f"/{layout.database}").geturl()
    program = layout.postgres.program("psql")
    os.execv(program, [program, url, *arguments.psql_arguments])  # noqa: S606


def _migrate(_arguments: argparse.Namespace) -> int:
    """Migrate the database to the newest revision."""
    from deploy.local import stack

    home.make()
    asyncio.run(stack.prepare_database(running_layout()))
    return 0


def _reset(_arguments: argparse.Namespace) -> int:
    """Stop all processes and delete data, keys and logs."""
    from deploy.local import stack

    stack.reset()
    return 0


def _ids(option: str, text: str) -> Sequence[str]:
    """Return the ids of a scope. Raises InvalidOption for ids of another kind."""
    from kit import ids
    from kit.errors import InvalidFields

    kind = {"ENTITY_SCOPE": ids.ENTITY, "DEPARTMENT_SCOPE": ids.DEPARTMENT}[option]
    for part in options.split(text):
        try:
            kind.parse(part)
        except InvalidFields:
            raise options.InvalidOption(f"{option}={text}: {part} {kind.describe(part)}") from None
    return options.split(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m deploy.local", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, run: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=run.__doc__, description=run.__doc__)
        command.set_defaults(run=run)
        return command

    def option(command: argparse.ArgumentParser, name: str, default: str, meaning: str) -> None:
        """Add an option that can also be set by an environment variable of its name, as `make` does."""
        variable = name.upper()
        flag = f"--{name.replace('_', '-')}"
        command.add_argument(flag, default=os.environ.get(variable) or default, help=f"{meaning} [{variable}]")

    for name, run in (("up", _up), ("down", _down), ("status", _status), ("seed", _seed), ("migrate", _migrate)):
        add(name, run)
    add("reset", _reset)
    option(add("logs", _logs), "name", "", "only these processes")
    since = add("events", _events)
    since.add_argument("--from", dest="since", default=os.environ.get("FROM") or "now", help="now or start [FROM]")
    letters = add("dead-letters", _dead_letters)
    option(letters, "tenant", "acme", "short name or id")
    option(letters, "redrive", "", "id of the event to be delivered again, or all")
    option(letters, "drop", "", "id of the event to be dropped, or all")
    token = add("token", _token)
    option(token, "role", _ROLE, "one or more roles")
    option(token, "tenant", "acme", "short name or id")
    option(token, "sub", "local-user", "user id")
    option(token, "entity_scope", "", "ids that the user is limited to")
    option(token, "department_scope", "", "ids that the user is limited to")
    option(add("address", _address), "service", GATEWAY, "the process")
    psql = add("psql", _psql)
    option(psql, "service", "", "use the role of this service")
    psql.add_argument("psql_arguments", metavar="ARGUMENT", nargs="*", help="arguments of psql")
    return parser


def main() -> int:
    """Run a command; return the exit code."""
    arguments = _parser().parse_args()
    try:
        return int(arguments.run(arguments))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        with contextlib.suppress(OSError):
            sys.stdout.close()
        return 0
    except _FAILURES as failure:
        print(failure, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
