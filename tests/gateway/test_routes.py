"""The router: which route a verb and a path match."""

import pytest

from contract.routes import Router, routes, routes_of
from kit.errors import MethodNotAllowed, RouteNotFound
from tests.kit.probe import FILE


@pytest.fixture
def router() -> Router[str]:
    router: Router[str] = Router()
    for verb, template in [
        ("GET", "/v1/things"), ("POST", "/v1/things"), ("GET", "/v1/things/{id}"), ("PATCH", "/v1/things/{id}"),
        ("GET", "/v1/things/{id}/parts"), ("GET", "/v1/things/special/{key}"), ("GET", "/v1/things/watch"),
        ("POST", "/v1/things/{id}/parts/{part_id}/use"),
    ]:  # fmt: skip
        router.add(verb, template, f"{verb} {template}")
    return router


@pytest.mark.parametrize(
    ("path", "target", "variables"),
    [
        ("/v1/things", "GET /v1/things", {}),
        ("/v1/things/7", "GET /v1/things/{id}", {"id": "7"}),
        ("/v1/things/watch", "GET /v1/things/watch", {}),
        ("/v1/things/7/parts", "GET /v1/things/{id}/parts", {"id": "7"}),
        ("/v1/things/special/7", "GET /v1/things/special/{key}", {"key": "7"}),
        ("/v1/things/special/parts", "GET /v1/things/special/{key}", {"key": "parts"}),
        ("/v1/things/a%2Fb%20c", "GET /v1/things/{id}", {"id": "a/b c"}),
    ],
)
def test_literals_take_precedence_over_variables(
    router: Router[str], path: str, target: str, variables: dict[str, str]
) -> None:
    assert router.find("GET", path) == (target, variables)


def test_several_variables_are_bound(router: Router[str]) -> None:
    match = router.find("POST", "/v1/things/7/parts/8/use")
    assert match == ("POST /v1/things/{id}/parts/{part_id}/use", {"id": "7", "part_id": "8"})


@pytest.mark.parametrize("path", ["/v2/things", "/v1/things/", "/v1//parts", "/v1/things/7/", "//", "", "/V1/things"])
def test_unknown_paths_are_not_found(router: Router[str], path: str) -> None:
    with pytest.raises(RouteNotFound):
        router.find("GET", path)


def test_wrong_verb_lists_the_allowed_verbs(router: Router[str]) -> None:
    with pytest.raises(MethodNotAllowed) as raised:
        router.find("DELETE", "/v1/things/7")
    assert raised.value.metadata == {"allowed": "GET, PATCH"}


def test_duplicate_path_is_rejected(router: Router[str]) -> None:
    with pytest.raises(ValueError, match="already"):
        router.add("GET", "/v1/things/{other}", "x")


@pytest.mark.parametrize("template", ["/v1/{id=things/*}", "/v1/**", "/v1/{id}:verb", "/v1/{a.b}"])
def test_unsupported_templates_are_rejected(router: Router[str], template: str) -> None:
    with pytest.raises(ValueError, match="supported"):
        router.add("GET", template, "x")


def test_every_route_of_the_contract_is_found_by_its_path() -> None:
    router: Router[str] = Router()
    for route in routes():
        router.add(route.verb, route.template, route.rpc)
    for route in routes():
        variables = {name: f"{name}-1" for name in route.variables}
        assert router.find(route.verb, route.path(variables)) == (route.rpc, variables)


def test_stream_route_has_the_last_event_id_header() -> None:
    (route,) = routes_of(FILE.services_by_name["ProbeService"].methods_by_name["Watch"], "budgets")
    assert (route.verb, route.streams, route.headers) == ("GET", True, {"last_event_id": "Last-Event-ID"})


def test_file_route_has_its_media_types() -> None:
    (route,) = routes_of(FILE.services_by_name["ProbeService"].methods_by_name["Download"], "budgets")
    assert (route.returns_file, route.media_types) == (True, ["application/pdf", "application/json"])


@pytest.mark.parametrize(("method", "problem"), [("Unary", "must stream"), ("Untyped", "declares media_types")])
def test_files_of_other_kinds_are_rejected(method: str, problem: str) -> None:
    with pytest.raises(TypeError, match=problem):
        list(routes_of(FILE.services_by_name["FileService"].methods_by_name[method], "budgets"))


@pytest.mark.parametrize(("method", "problem"), [("Post", "must be a GET"), ("Take", "takes a stream")])
def test_streams_without_rest_equivalent_are_rejected(method: str, problem: str) -> None:
    with pytest.raises(TypeError, match=problem):
        list(routes_of(FILE.services_by_name["StreamingService"].methods_by_name[method], "budgets"))
