"""The NATS users, and what each of them may do: publish its own events, and consume those that it handles.

No other user can publish the events of a service or of an outside system. `python -m deploy.nats_users` prints the
block `authorization` for the configuration of a server, with the passwords as variables of its environment.
"""

import ast
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from deploy.local.paths import ROOT
from eventing.subjects import STREAM, durable, inbox_prefix

_API: Final = "$JS.API"


@dataclass(frozen=True, slots=True)
class Service:
    """The use of NATS by a service beyond publishing events and handling those in `events/consumers.py`."""

    listens: tuple[str, ...] = ()
    """Events that every replica receives for itself, with an EventBus."""
    streams: bool = False
    """True if it has streaming RPCs, which read its own events."""


SERVICES: Final[Mapping[str, Service]] = {
    "entities": Service(),
    "budgets": Service(listens=("billing.entities.v1.ExchangeRatesChanged",), streams=True),
    "approvals": Service(listens=("billing.entities.v1.ExchangeRatesChanged",), streams=True),
}
OUTSIDE_SYSTEMS: Final[Mapping[str, tuple[str, ...]]] = {
    "licensing": (
        "billing.entities.v1.ContractActivated",
        "billing.entities.v1.ContractAmended",
        "billing.entities.v1.ContractTerminated",
        "billing.entities.v1.ContractExpired",
        "billing.entities.v1.ContractRenewed",
    ),
    "payments": ("billing.entities.v1.RefundRequested",),
    "usage": (),
    "users": (),
}
"""The events that each outside system consumes."""


@dataclass(frozen=True, slots=True)
class NatsUser:
    """A NATS user; by default it may do everything."""

    name: str
    publish: tuple[str, ...] = (">",)
    deny_publish: tuple[str, ...] = ()
    subscribe: tuple[str, ...] = (">",)


ADMIN: Final = NatsUser("admin")
"""For operators: follows all events, and changes the stream."""


def system_user(system: str) -> str:
    """Return the name of the user of an outside system."""
    return f"platform-{system}"


def system_consumer(system: str, event: str) -> str:
    """Return the durable name of the consumer with which the simulator of an outside system receives an event."""
    return f"simulator_{system}_{event.rpartition('.')[2]}"


@lru_cache(maxsize=1)
def users() -> tuple[NatsUser, ...]:
    """Return all users, the administrator first."""
    services = [_of_service(name, service) for name, service in SERVICES.items()]
    systems = [_of_system(system, events) for system, events in OUTSIDE_SYSTEMS.items()]
    return ADMIN, *services, *systems


def _of_service(name: str, service: Service) -> NatsUser:
    consumers = consumers_of(name)
    stream = [f"{_API}.STREAM.CREATE.{STREAM}", f"{_API}.STREAM.INFO.{STREAM}"]
    allowed, denied = [f"billing.{name}.v1.>", *stream, *_use_of(consumers)], list[str]()
    if service.streams:
        # Its consumers have random names, and a permission has no wildcard for a part of a name.
        allowed += [f"{_API}.CONSUMER.CREATE.{STREAM}.*.billing.{name}.v1.>", f"{_API}.CONSUMER.MSG.NEXT.{STREAM}.*"]
        others = sorted(_all_consumers() - consumers.keys())
        denied += [f"{_API}.CONSUMER.{action}" for other in others for action in _takeover(other)]
    broadcast = [f"{event}.*" for event in service.listens]
    return NatsUser(name, tuple(allowed), tuple(denied), (f"{inbox_prefix(name)}.>", *broadcast))


def _of_system(system: str, events: Iterable[str]) -> NatsUser:
    consumers = {system_consumer(system, event): f"{event}.*" for event in events}
    name = system_user(system)
    publish = f"platform.{system}.v1.>", *_use_of(consumers)
    return NatsUser(name, publish, (), (f"{inbox_prefix(name)}.>",))


def _use_of(consumers: Mapping[str, str]) -> list[str]:
    """Return the subjects to publish to for creating, reading and acknowledging these consumers."""
    return [
        subject
        for name, events in consumers.items()
        for subject in (
            f"{_API}.CONSUMER.INFO.{STREAM}.{name}",
            f"{_API}.CONSUMER.CREATE.{STREAM}.{name}.{events}",
            f"{_API}.CONSUMER.MSG.NEXT.{STREAM}.{name}",
            f"$JS.ACK.{STREAM}.{name}.>",
        )
    ]


def _takeover(consumer: str) -> tuple[str, str]:
    """Return the API calls that change or read a consumer."""
    return f"CREATE.{STREAM}.{consumer}.>", f"MSG.NEXT.{STREAM}.{consumer}"


def _all_consumers() -> set[str]:
    of_systems = {system_consumer(system, event) for system, events in OUTSIDE_SYSTEMS.items() for event in events}
    return of_systems.union(*(consumers_of(service) for service in SERVICES))


@lru_cache
def consumers_of(service: str) -> Mapping[str, str]:
    """Return the subject of each consumer of a service by its durable name.

    Reads the functions with `@on(Event)` from the source: to import the service would take a second.
    """
    module = ast.parse((ROOT / "services" / service / "events" / "consumers.py").read_bytes())
    packages = {
        alias.name: node.module.rpartition(".")[0]
        for node in module.body
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }
    consumers = {}
    for node in (node for node in module.body if isinstance(node, ast.AsyncFunctionDef)):
        for decorator in node.decorator_list:
            match decorator:
                case ast.Call(func=ast.Name(id="on"), args=[ast.Name(id=event), *_]):
                    package = packages[event].replace("outside.", "platform.", 1)
                    consumers[durable(f"{service}.{node.name}")] = f"{package}.{event}.*"
    return consumers


def authorization(passwords: Mapping[NatsUser, str]) -> str:
    """Return the block `authorization` of a server; each password is a quoted text, or a variable such as $NAME."""
    lines = [f"  {{ user: {user.name}, password: {passwords[user]}, {_permissions(user)} }}" for user in passwords]
    return "\n".join(["authorization { users = [", *lines, "] }"])


def _permissions(user: NatsUser) -> str:
    publish = {"allow": user.publish, **({"deny": user.deny_publish} if user.deny_publish else {})}
    return f"permissions: {json.dumps({'publish': publish, 'subscribe': user.subscribe})}"


def main() -> None:
    """Print the block for all users."""
    print(authorization({user: f"$NATS_PASSWORD_{user.name.upper().replace('-', '_')}" for user in users()}))


if __name__ == "__main__":
    main()
