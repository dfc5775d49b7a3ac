"""REST routes derived from the `google.api.http` annotations of RPCs, and the router that matches paths to them."""

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from operator import itemgetter
from typing import Any, Generic, TypeVar
from urllib.parse import quote, unquote

from billing.options.v1 import options_pb2
from google.api import annotations_pb2, http_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from contract import descriptors
from contract.access import AccessRule
from contract.methods import descriptor_set
from kit.errors import MethodNotAllowed, RouteNotFound

_SEGMENT = re.compile(r"[^{}/:*]+|\{(\w+)(?:=\*)?\}")
LAST_EVENT_ID = "last_event_id"
"""The field of a streaming request with the id of the last event received; the stream continues after it."""
_HEADERS = {"request_id": "Idempotency-Key", "etag": "If-Match", LAST_EVENT_ID: "Last-Event-ID"}
"""Request fields that REST sends as a header."""

T = TypeVar("T")


@dataclass(frozen=True)
class Route:
    """The REST route of an RPC."""

    verb: str
    template: str
    """The path, "/…/{id}/…"."""
    body: str
    """The request field that the body fills; "*": all fields that the path does not bind; "": no body."""
    service: str
    """The service that implements the RPC, for example "budgets"."""
    method: MethodDescriptor
    collection: str = ""
    """Template of the collection in which it creates a resource; a GET or DELETE route addresses the resource by the id
    in the reply. Empty if it creates none."""

    @cached_property
    def rpc(self) -> str:
        """The gRPC path, "/billing.budgets.v1.BudgetService/GetBudget"."""
        return f"/{self.method.containing_service.full_name}/{self.method.name}"

    @cached_property
    def request(self) -> type[Message]:
        """The class of the request message."""
        return GetMessageClass(self.method.input_type)

    @cached_property
    def reply(self) -> type[Message]:
        """The class of the reply message."""
        return GetMessageClass(self.method.output_type)

    @cached_property
    def variables(self) -> frozenset[str]:
        """The request fields that the path binds."""
        return frozenset(re.findall(r"\{(\w+)", self.template))

    @property
    def streams(self) -> bool:
        """True if the reply is a stream of messages."""
        return self.method.server_streaming

    @cached_property
    def returns_file(self) -> bool:
        """True if the reply is a file, whose content is sent as it is."""
        return self.method.output_type.full_name == "google.api.HttpBody"

    @property
    def media_types(self) -> list[str]:
        """The media types of the file, if the reply is one."""
        return list(self.method.GetOptions().Extensions[options_pb2.media_types])

    @cached_property
    def headers(self) -> dict[str, str]:
        """The request fields that come from a header, with the header's name."""
        names = self.method.input_type.fields_by_name
        return {name: header for name, header in _HEADERS.items() if name in names and name not in self.variables}

    @cached_property
    def query_parameters(self) -> dict[str, tuple[FieldDescriptor, ...]]:
        """The query parameters by name, each with the path of the field that it sets.

        As in `google.api.http`, a message is sent by its fields: `amount_from.amount`, `amount_from.currency_code`.
        """
        if self.body == "*":
            return {}
        bound = {*self.variables, self.body}
        fields = [item for item in self.method.input_type.fields if item.name not in bound]
        return {".".join(item.name for item in path): path for item in fields for path in _query_paths(item)}

    @cached_property
    def has_update_mask(self) -> bool:
        """True if the request has an `update_mask`."""
        return "update_mask" in self.method.input_type.fields_by_name

    @cached_property
    def has_etag(self) -> bool:
        """True if the reply has an `etag`."""
        return "etag" in self.method.output_type.fields_by_name

    @cached_property
    def returns_nothing(self) -> bool:
        """True if the reply is google.protobuf.Empty."""
        return self.method.output_type.full_name == "google.protobuf.Empty"

    @property
    def creates(self) -> bool:
        """True if it creates a resource that another route addresses."""
        return bool(self.collection)

    @property
    def posts_resource(self) -> bool:
        """True for a POST whose reply has an id."""
        return self.verb == "POST" and "id" in self.method.output_type.fields_by_name

    def path(self, variables: Mapping[str, str]) -> str:
        """Return the path with these values in place of its variables."""
        return _filled(self.template, variables)

    def location(self, variables: Mapping[str, str], id: str) -> str:
        """Return the path of the resource that it has created with this id."""
        return f"{_filled(self.collection, variables)}/{id}"

    @cached_property
    def access(self) -> AccessRule:
        """Who may call it."""
        return AccessRule.of(self.method)

    @property
    def example(self) -> Any:
        """The example of the request body that the RPC declares; None if it declares none."""
        return json.loads(self.method.GetOptions().Extensions[options_pb2.example] or "null")

    @property
    def reasons(self) -> list[str]:
        """The error reasons that the RPC declares; those common to all calls are not included."""
        return list(self.method.GetOptions().Extensions[options_pb2.errors])


def routes() -> list[Route]:
    """Return every route of the contract, in the order of the protos."""
    all_routes = [
        route
        for file in descriptor_set().file
        for service in file.service
        for method in descriptors.pool().FindServiceByName(f"{file.package}.{service.name}").methods
        for route in routes_of(method, file.package.split(".")[1])
    ]
    addressed = [route for route in all_routes if route.verb in {"GET", "DELETE"} and route.template[-1] == "}"]
    collections = {route.template.rpartition("/{")[0] for route in addressed}
    of_types = {
        route.method.output_type.full_name: route.template.rpartition("/{")[0]
        for route in addressed
        if route.verb == "GET"
    }
    return [replace(route, collection=_collection(route, collections, of_types)) for route in all_routes]


def _collection(route: Route, collections: Collection[str], of_types: Mapping[str, str]) -> str:
    """Return the collection in which a route creates a resource: its own path, or where such resources are read."""
    if not route.posts_resource:
        return ""
    if route.template in collections:
        return route.template
    return of_types.get(route.method.output_type.full_name, "") if route.method.name.startswith("Create") else ""


def _filled(template: str, variables: Mapping[str, str]) -> str:
    return re.sub(r"\{(\w+)[^}]*\}", lambda match: quote(variables[match[1]], safe=""), template)


def routes_of(method: MethodDescriptor, service: str) -> Iterator[Route]:
    """Yield the routes of one RPC. Raises TypeError if REST can't offer the RPC as declared."""
    options = method.GetOptions()
    if not options.HasExtension(annotations_pb2.http):
        return
    if method.client_streaming:
        raise TypeError(f"{method.full_name} takes a stream of requests: it can't have a REST route")
    rule: http_pb2.HttpRule = options.Extensions[annotations_pb2.http]
    for binding in (rule, *rule.additional_bindings):
        pattern = binding.WhichOneof("pattern") or ""
        route = Route(pattern.upper(), getattr(binding, pattern), binding.body, service, method)
        if route.streams and route.verb != "GET":
            raise TypeError(f"{method.full_name} streams its reply: its route must be a GET")
        if route.returns_file != bool(route.media_types):
            raise TypeError(f"{method.full_name}: an RPC declares media_types if it returns google.api.HttpBody")
        if route.returns_file and not route.streams:
            raise TypeError(f"{method.full_name} must stream its file, which may be larger than a message")
        _check_fields_exist(route, method.input_type)
        yield route


def _query_paths(field: FieldDescriptor) -> Iterator[tuple[FieldDescriptor, ...]]:
    """Yield the paths of the query parameters of a field. Raises TypeError if a query can't carry the field."""
    message = field.message_type
    if message is None or message.full_name.startswith("google.protobuf."):
        yield (field,)
        return
    if field.is_repeated or any(inner.message_type or inner.is_repeated for inner in message.fields):
        raise TypeError(f"{field.full_name} can't be a query parameter: only a message of plain values can")
    yield from ((field, inner) for inner in message.fields)


def _check_fields_exist(route: Route, request: Descriptor) -> None:
    unknown = ({route.body} - {"", "*"} | route.variables) - set(request.fields_by_name)
    if unknown:
        raise TypeError(f"{route.method.full_name}: {request.name} has no field {', '.join(sorted(unknown))}")


class Router(Generic[T]):
    """Matches a verb and a path to a target; literal segments take precedence over variables.

    Templates are grouped by shape, which is the positions of their variables; a match costs one dictionary look-up per
    shape.
    """

    def __init__(self) -> None:
        self._shapes: dict[tuple[str, int], dict[tuple[bool, ...], _Shape[T]]] = {}

    def add(self, verb: str, template: str, target: T) -> None:
        """Route the template to the target. Raises ValueError for an unsupported or duplicate template."""
        segments = template.split("/")
        if not all(_SEGMENT.fullmatch(segment) for segment in segments[1:]):
            raise ValueError(f"{template}: only literals and {{variables}} of one segment are supported")
        is_variable = tuple(segment.startswith("{") for segment in segments)
        shapes = self._shapes.setdefault((verb, len(segments)), {})
        shape = shapes.setdefault(is_variable, _Shape(is_variable))
        key = shape.literals(segments)
        if key in shape.targets:
            raise ValueError(f"{verb} {template} is already routed")
        names = [(segment[1:-1].partition("=")[0], at) for at, segment in enumerate(segments) if is_variable[at]]
        shape.targets[key] = (target, names)
        self._shapes[verb, len(segments)] = dict(sorted(shapes.items()))

    def find(self, verb: str, path: str) -> tuple[T, dict[str, str]]:
        """Return the target and the values of the path's variables. Raises RouteNotFound or MethodNotAllowed."""
        segments = path.split("/")
        match = self._find("GET" if verb == "HEAD" else verb, segments)
        if match is not None:
            return match
        allowed = sorted({other for other, _ in self._shapes if self._find(other, segments)})
        if not allowed:
            raise RouteNotFound(f"There is no route {unquote(path[:200])}.")
        raise MethodNotAllowed(f"{verb} is not allowed here.", allowed=allowed)

    def _find(self, verb: str, segments: Sequence[str]) -> tuple[T, dict[str, str]] | None:
        for shape in self._shapes.get((verb, len(segments)), {}).values():
            match = shape.targets.get(shape.literals(segments))
            if match is not None:
                target, names = match
                values = {name: unquote(segments[at]) for name, at in names}
                if all(values.values()):
                    return target, values
        return None


class _Shape(Generic[T]):
    """Templates with variables in the same positions."""

    def __init__(self, is_variable: Sequence[bool]) -> None:
        self.literals: Callable[[Sequence[str]], Any] = itemgetter(
            *(at for at, variable in enumerate(is_variable) if not variable)
        )
        self.targets: dict[Any, tuple[T, list[tuple[str, int]]]] = {}
