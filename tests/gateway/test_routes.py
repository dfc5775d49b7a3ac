"""Finding what a path means."""

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
def test_literals_win_over_variables(router: Router[str], path: str, target: str, variables: dict[str, str]) -> None:
    assert router.find("GET", path) == (target, variables)


def test_several_variables(router: Router[str]) -> None:
    found = router.find("POST", "/v1/things/7/parts/8/use")
    assert found == ("POST /v1/things/{id}/parts/{part_id}/use", {"id": "7", "part_id": "8"})


@pytest.mark.parametrize("path", ["/v2/things", "/v1/things/", "/v1//parts", "/v1/things/7/", "//", "", "/V1/things"])
def test_other_paths_lead_nowhere(router: Router[str], path: str) -> None:
    with pytest.raises(RouteNotFound):
        router.find("GET", path)


def test_another_verb_names_those_there_are(router: Router[str]) -> None:
    with pytest.raises(MethodNotAllowed) as raised:
        router.find("DELETE", "/v1/things/7")
    assert raised.value.metadata == {"allowed": "GET, PATCH"}


def test_the_same_path_twice_is_a_mistake(router: Router[str]) -> None:
    with pytest.raises(ValueError, match="already"):
        router.add("GET", "/v1/things/{other}", "x")


@pytest.mark.parametrize("template", ["/v1/{id=things/*}", "/v1/**", "/v1/{id}:verb", "/v1/{a.b}"])
def test_templates_that_are_not_understood_are_refused(router: Router[str], template: str) -> None:
    with pytest.raises(ValueError, match="supported"):
        router.add("GET", template, "x")


def test_every_route_of_the_contract_is_found_by_its_own_path() -> None:
    router: Router[str] = Router()
    for route in routes():
        router.add(route.verb, route.template, route.rpc)
    for route in routes():
        variables = {name: f"{name}-1" for name in route.variables}
        assert router.find(route.verb, route.path(variables)) == (route.rpc, variables)


def test_a_stream_has_a_route_that_knows_how_to_resume() -> None:
    (route,) = routes_of(FILE.services_by_name["ProbeService"].methods_by_name["Watch"], "budgets")
    assert (route.verb, route.streams, route.headers) == ("GET", True, {"last_event_id": "Last-Event-ID"})


@pytest.mark.parametrize(("method", "wrong"), [("Post", "must be a GET"), ("Take", "takes a stream")])
def test_streams_that_rest_can_not_have_are_refused(method: str, wrong: str) -> None:
    with pytest.raises(TypeError, match=wrong):
        list(routes_of(FILE.services_by_name["StreamingService"].methods_by_name[method], "budgets"))
