"""REST routes: what `google.api.http` says of each RPC, and which of them a path means."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from operator import itemgetter
from typing import Any, Generic, TypeVar
from urllib.parse import quote, unquote

from billing.options.v1 import options_pb2
from google.api import annotations_pb2, http_pb2
from google.protobuf.descriptor import Descriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from contract import descriptors
from contract.methods import descriptor_set
from kit.errors import MethodNotAllowed, RouteNotFound

_SEGMENT = re.compile(r"[^{}/:*]+|\{(\w+)(?:=\*)?\}")
RESUMED = "last_event_id"
"""The field of a streaming request that says after which event to begin."""
_HEADERS = {"request_id": "Idempotency-Key", "etag": "If-Match", RESUMED: "Last-Event-ID"}

T = TypeVar("T")


@dataclass(frozen=True)
class Route:
    """An RPC as REST has it."""

    verb: str
    template: str
    """The path, "/…/{id}/…"."""
    body: str
    """The field that the body fills; "*": all that the path does not bind; "": none."""
    room: str
    """The service that serves it: "budgets"."""
    method: MethodDescriptor
    creates: bool = False
    """Whether it makes a resource that another route gets by the reply's id."""

    @cached_property
    def rpc(self) -> str:
        """The path of the RPC in gRPC."""
        return f"/{self.method.containing_service.full_name}/{self.method.name}"

    @cached_property
    def request(self) -> type[Message]:
        """The class of the request."""
        return GetMessageClass(self.method.input_type)

    @cached_property
    def reply(self) -> type[Message]:
        """The class of the reply."""
        return GetMessageClass(self.method.output_type)

    @cached_property
    def variables(self) -> frozenset[str]:
        """The fields that the path binds."""
        return frozenset(re.findall(r"\{(\w+)", self.template))

    @property
    def streams(self) -> bool:
        """Whether the reply is a stream of messages."""
        return self.method.server_streaming

    @cached_property
    def headers(self) -> dict[str, str]:
        """Fields of the request that come from a header."""
        names = self.method.input_type.fields_by_name
        return {name: header for name, header in _HEADERS.items() if name in names and name not in self.variables}

    @cached_property
    def masked(self) -> bool:
        """Whether the request says by a mask what it changes."""
        return "update_mask" in self.method.input_type.fields_by_name

    @cached_property
    def tagged(self) -> bool:
        """Whether the reply has an etag."""
        return "etag" in self.method.output_type.fields_by_name

    @cached_property
    def empty(self) -> bool:
        """Whether there is nothing in the reply."""
        return self.method.output_type.full_name == "google.protobuf.Empty"

    @property
    def makes_one(self) -> bool:
        """Whether a POST of it gives something with an id."""
        return self.verb == "POST" and "id" in self.method.output_type.fields_by_name

    def filled(self, variables: Mapping[str, str]) -> str:
        """The path with these values."""
        return re.sub(r"\{(\w+)[^}]*\}", lambda match: quote(variables[match[1]], safe=""), self.template)

    @property
    def permission(self) -> str:
        """The permission that it needs."""
        return self.method.GetOptions().Extensions[options_pb2.permission]

    @property
    def reasons(self) -> list[str]:
        """The reasons for a refusal that it names, besides those that any call can meet."""
        return list(self.method.GetOptions().Extensions[options_pb2.errors])


def routes() -> list[Route]:
    """Every route of the contract, in its order."""
    found = [
        route
        for file in descriptor_set().file
        for service in file.service
        for method in descriptors.pool().FindServiceByName(f"{file.package}.{service.name}").methods
        for route in routes_of(method, file.package.split(".")[1])
    ]
    gotten = {
        route.template.rpartition("/{")[0] for route in found if route.verb == "GET" and route.template[-1] == "}"
    }
    return [replace(route, creates=route.makes_one and route.template in gotten) for route in found]


def routes_of(method: MethodDescriptor, room: str) -> Iterator[Route]:
    """The routes of one RPC; raises TypeError where REST can't have it as it is."""
    options = method.GetOptions()
    if not options.HasExtension(annotations_pb2.http):
        return
    if method.client_streaming:
        raise TypeError(f"{method.full_name} takes a stream: it can't have a REST route")
    rule: http_pb2.HttpRule = options.Extensions[annotations_pb2.http]
    for binding in (rule, *rule.additional_bindings):
        pattern = binding.WhichOneof("pattern") or ""
        route = Route(pattern.upper(), getattr(binding, pattern), binding.body, room, method)
        if route.streams and route.verb != "GET":
            raise TypeError(f"{method.full_name} streams: its route must be a GET")
        _check_names(route, method.input_type)
        yield route


def _check_names(route: Route, request: Descriptor) -> None:
    unknown = ({route.body} - {"", "*"} | route.variables) - set(request.fields_by_name)
    if unknown:
        raise TypeError(f"{route.method.full_name}: {request.name} has no field {', '.join(sorted(unknown))}")


class Router(Generic[T]):
    """Finds what a verb and a path mean: one look-up per shape of template, and literals win over variables."""

    def __init__(self) -> None:
        self._shapes: dict[tuple[str, int], dict[tuple[bool, ...], _Shape[T]]] = {}

    def add(self, verb: str, template: str, target: T) -> None:
        """Let the template lead to the target; raises ValueError where another one does the same."""
        segments = template.split("/")
        if not all(_SEGMENT.fullmatch(segment) for segment in segments[1:]):
            raise ValueError(f"{template}: only literals and {{variables}} of one segment are understood")
        bound = tuple(segment.startswith("{") for segment in segments)
        shapes = self._shapes.setdefault((verb, len(segments)), {})
        shape = shapes.setdefault(bound, _Shape(bound))
        key = shape.pick(segments)
        if key in shape.targets:
            raise ValueError(f"{verb} {template} is there already")
        names = [(segment[1:-1].partition("=")[0], at) for at, segment in enumerate(segments) if bound[at]]
        shape.targets[key] = (target, names)
        self._shapes[verb, len(segments)] = dict(sorted(shapes.items()))

    def find(self, verb: str, path: str) -> tuple[T, dict[str, str]]:
        """The target and the values of the path's variables; raises RouteNotFound or MethodNotAllowed."""
        found = self._find("GET" if verb == "HEAD" else verb, path)
        if found is not None:
            return found
        allowed = sorted({other for other, _ in self._shapes if self._find(other, path)})
        if not allowed:
            raise RouteNotFound(f"There is no route {unquote(path)[:200]}.")
        raise MethodNotAllowed(f"{verb} is not allowed here.", allowed=allowed)

    def _find(self, verb: str, path: str) -> tuple[T, dict[str, str]] | None:
        segments = path.split("/")
        for shape in self._shapes.get((verb, len(segments)), {}).values():
            found = shape.targets.get(shape.pick(segments))
            if found is not None:
                target, names = found
                values = {name: unquote(segments[at]) for name, at in names}
                if all(values.values()):
                    return target, values
        return None


class _Shape(Generic[T]):
    """Templates with their literals in the same places."""

    def __init__(self, bound: Sequence[bool]) -> None:
        self.pick: Callable[[Sequence[str]], Any] = itemgetter(
            *(at for at, is_bound in enumerate(bound) if not is_bound)
        )
        self.targets: dict[Any, tuple[T, list[tuple[str, int]]]] = {}
