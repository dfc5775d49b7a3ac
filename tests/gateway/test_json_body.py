"""JSON bodies: how many values they may have, and how invalid ones are refused within bounds."""

import json
import time
from collections.abc import Callable
from typing import Any, Final

import httpx
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from hypothesis import given, settings
from hypothesis import strategies as st

from contract import json_body
from contract.codec import map_entry
from contract.field_rules import count_limit
from contract.json_body import VALUES_MAX
from contract.routes import routes
from kit.errors import VIOLATIONS_MAX, MalformedBody, MessageTooLarge
from tests.gateway.backend import Backend
from tests.gateway.conftest import BASE, BUDGET

_TEXTS: Final = st.text(st.sampled_from('ab"\\,:[]{}\n é'))
_JSON: Final = st.recursive(
    st.one_of(_TEXTS, st.integers(-(2**63), 2**63), st.booleans(), st.none()),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(_TEXTS, inner)),
    max_leaves=60,
)


def names_in(value: object) -> int:
    if isinstance(value, dict):
        return len(value) + sum(map(names_in, value.values()))
    return sum(map(names_in, value)) if isinstance(value, list) else 0


def values_max(message: Descriptor) -> int:
    """Return how many values a request of this type may have by the limits of its lists and maps."""
    return 1 + sum(_values_of(field) for field in message.fields)


def _values_of(field: FieldDescriptor) -> int:
    inner = field.message_type
    limit = count_limit(field)
    if map_entry(field) or field.is_repeated:
        assert limit, f"{field.full_name} has no limit"
    has_fields = inner is not None and inner.full_name.startswith("billing.") and not map_entry(field)
    one = values_max(inner) if has_fields and inner is not None else 1
    return 1 + limit[0] * one if limit else one


def test_no_request_may_have_more_values_than_a_body() -> None:
    most = {route.rpc: values_max(route.method.input_type) for route in routes() if route.body}
    assert max(most.values()) < VALUES_MAX * 0.9, max(most.items(), key=lambda item: item[1])


class TestCount:
    @settings(max_examples=50)
    @given(_JSON, st.integers(1, 20))
    async def test_names_are_counted_outside_of_texts(self, value: object, piece_bytes: int) -> None:
        body = json.dumps(value, ensure_ascii=False).encode()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(json_body, "_PIECE_BYTES", piece_bytes)
            names = await json_body.count_names(body)
        assert names == names_in(value)
        assert json_body.parse(body, names) == value

    @pytest.mark.parametrize(
        ("start", "item", "end"),
        [("[", "1,", "1]"), ("[", "[],", "1]"), ("[", "{},", "1]"), ("[", '"",', "1]"), ("[", '{"a":0},', "1]"),
         ("[", '""', "]"), ("", "[", ""), ("", '{"a":', "")],
    )  # fmt: skip
    async def test_too_many_values_are_refused_without_parsing(self, start: str, item: str, end: str) -> None:
        body = (start + item * (4_000_000 // len(item)) + end).encode()
        with pytest.raises(MessageTooLarge, match="at most") as raised:
            await json_body.count_names(body)
        assert raised.value.metadata == {"values_max": str(VALUES_MAX)}

    async def test_limit_is_exact(self) -> None:
        text = '"%s"' % ("," * 10)
        accepted = f"[{','.join([text] * VALUES_MAX)}]".encode()
        assert await json_body.count_names(accepted) == 0
        with pytest.raises(MessageTooLarge):
            await json_body.count_names(accepted[:-1] + b",1]")

    async def test_duplicates_in_large_bodies_are_refused(self) -> None:
        body = f'{{"a": "{":" * 50_000}", "a": 1}}'.encode()
        with pytest.raises(MalformedBody, match="a field twice"):
            json_body.parse(body, await json_body.count_names(body))
        body = f'{{"a": "{":" * 50_000}", "b": 1}}'.encode()
        assert json_body.parse(body, await json_body.count_names(body))["b"] == 1


class TestBoundedRefusals:
    async def refusal(self, client: httpx.AsyncClient, path: str, body: Any) -> dict[str, Any]:
        started = time.monotonic()
        response = await client.post(f"{BASE}{path}", json=body)
        assert time.monotonic() - started < 2
        assert len(response.content) < 16_384, len(response.content)
        assert response.status_code == 400, response.text
        return response.json()  # type: ignore[no-any-return]

    async def test_long_list_is_refused_before_its_items(
        self, client: httpx.AsyncClient, backend: Backend, token: Callable[..., str]
    ) -> None:
        client.headers["authorization"] = f"Bearer {token(role='billing_admin')}"
        problem = await self.refusal(client, "/budgets/charges/batch", {"charges": [{}] * 1_001})
        assert problem["errors"] == [
            {"field": "charges", "code": "repeated.max_items", "detail": "must have at most 1000 items"}
        ]
        problem = await self.refusal(client, "/approval-rules", {"steps": [{"approvers": [1] * 9_000}]})
        errors = {error["field"]: error["code"] for error in problem["errors"]}
        assert errors["steps[0].approvers"] == "repeated.max_items"
        assert not backend.received

    async def test_at_most_50_violations_are_listed(self, client: httpx.AsyncClient) -> None:
        problem = await self.refusal(client, "/budgets/charges/batch", {"charges": [1] * 500})
        assert len(problem["errors"]) <= VIOLATIONS_MAX
        assert problem["metadata"] == {"truncated": "true"}
        assert problem["detail"].startswith("Invalid request, with more violations than the")
        details = [error["detail"] for error in problem["errors"]]
        assert details[0].startswith("must be an object; known are: id, ")
        assert set(details[1:]) == {"must be an object; known are: those listed for charges[0]"}

    @pytest.mark.parametrize("body", [
        {"x" * 50_000: 1}, {"name": {"x" * 40_000: 1}}, {"x" * 40_000: 1, "y" * 40_000: 1},
        {"period_type": "x" * 50_000}, {"attributes": {"x" * 50_000: 1}}, {str(i): 0 for i in range(9_000)},
        {"amount": {"currency_code": "x" * 40_000, "amount": "1" * 40_000}},
        {"update_mask": ",".join(["a"] * 40_000)}, {"entity_id": "\0" * 10_000}, {"name": "é" * 10_000},
    ])  # fmt: skip
    async def test_names_and_values_in_refusals_are_short(self, client: httpx.AsyncClient, body: Any) -> None:
        problem = await self.refusal(client, "/budgets", {"colour": 1, **body})
        assert problem["code"] in {"INVALID_FIELDS", "MESSAGE_TOO_LARGE"}

    async def test_too_many_query_parameters_are_refused(self, client: httpx.AsyncClient) -> None:
        response = await client.get(f"{BASE}/budgets?" + "&".join(f"a{i}=1" for i in range(1_000)))
        assert (response.status_code, response.json()["code"]) == (400, "MALFORMED_REQUEST")
        response = await client.get(f"{BASE}/budgets?" + "&".join(f"a{i}=1" for i in range(200)))
        assert len(response.json()["errors"]) <= VIOLATIONS_MAX

    async def test_long_unknown_path_is_refused(self, client: httpx.AsyncClient) -> None:
        response = await client.get("/" + "a/" * 10_000)
        assert (response.status_code, response.json()["code"]) == (404, "ROUTE_NOT_FOUND")
        assert len(response.content) < 1_000

    async def test_numbers_beyond_any_type_are_refused(self, client: httpx.AsyncClient) -> None:
        for number in ("1e999999999", "-1e400", "1" * 5_000, "1.5", "1e3", "NaN", "0x10", "1_000"):
            content = f'{{"alert_thresholds_bp": [{number}]}}'
            response = await client.post(f"{BASE}/budgets", content=content)
            assert response.status_code == 400, number
            assert response.json()["code"] in {"INVALID_FIELDS", "MALFORMED_BODY"}
        assert BUDGET
