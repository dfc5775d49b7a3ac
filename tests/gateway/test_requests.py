"""How an HTTP request becomes the request message of an RPC."""

import gzip
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from contract import validation
from kit.errors import InvalidFields
from tests.gateway.backend import Backend
from tests.gateway.conftest import BASE, BUDGET

MONEY = {"currency_code": "EUR", "amount": "12.50"}


async def errors_of(client: httpx.AsyncClient, verb: str, path: str, **options: Any) -> dict[str, dict[str, str]]:
    """Send an invalid request; return its errors by field."""
    response = await client.request(verb, BASE + path, **options)
    assert response.status_code == 400, response.text
    return {error["field"]: error for error in response.json()["errors"]}


class TestRequestMessage:
    async def test_path_body_and_key_are_combined(self, client: httpx.AsyncClient, backend: Backend) -> None:
        body = {"amount": MONEY, "charge_time": "2026-10-01T12:00:00.123456789+02:00", "description": None}
        headers = {"idempotency-key": "po-4711"}
        response = await client.post(f"{BASE}/budgets/{BUDGET}/charge", json=body, headers=headers)
        assert response.status_code == 200, response.text
        request: Any = backend.received[0].request
        assert (request.id, request.request_id, request.amount.amount) == (BUDGET, "po-4711", "12.50")
        assert request.charge_time.ToJsonString() == "2026-10-01T10:00:00.123456789Z"
        assert request.description == ""

    async def test_token_trace_and_request_id_are_forwarded(self, client: httpx.AsyncClient, backend: Backend) -> None:
        trace_id = "0af7651916cd43dd8448eb211c80319c"
        headers = {
            "traceparent": f"00-{trace_id}-b7ad6b7169203331-01",
            "x-request-id": "mine-1",
            "request-timeout": "2",
        }
        response = await client.get(f"{BASE}/budgets/{BUDGET}", headers=headers)
        received = backend.received[0]
        assert received.metadata["authorization"] == client.headers["authorization"]
        assert received.metadata["traceparent"].split("-")[1] == trace_id
        assert received.metadata["x-request-id"] == "mine-1" == response.headers["x-request-id"]
        assert response.headers["traceparent"].split("-")[1] == trace_id
        assert 1 < received.time_remaining < 2.1

    async def test_query_parameters_are_typed(self, client: httpx.AsyncClient, backend: Backend) -> None:
        response = await client.get(
            f"{BASE}/budgets", params={"page_size": "7", "state": "ACTIVE", "period_date": "2026-10-01"}
        )
        assert response.status_code == 200, response.text
        request: Any = backend.received[0].request
        assert (request.page_size, request.state, request.period_date) == (7, 2, "2026-10-01")

    async def test_amounts_are_query_parameters_by_their_fields(
        self, client: httpx.AsyncClient, backend: Backend
    ) -> None:
        query = (
            "amount_from.amount=100.00&amount_from.currency_code=EUR&amount_to.currency_code=EUR&amount_to.amount=200"
        )
        response = await client.get(f"{BASE}/approvals?{query}")
        assert response.status_code == 200, response.text
        request: Any = backend.received[0].request
        assert (request.amount_from.amount, request.amount_from.currency_code) == ("100.00", "EUR")
        assert (request.amount_to.amount, request.amount_to.currency_code) == ("200", "EUR")

    async def test_patch_masks_the_fields_of_its_body(self, client: httpx.AsyncClient, backend: Backend) -> None:
        body = {"name": "New", "category": None, "id": BUDGET}
        response = await client.patch(f"{BASE}/budgets/{BUDGET}", json=body, headers={"if-match": '"7"'})
        assert response.status_code == 200, response.text
        request: Any = backend.received[0].request
        assert list(request.update_mask.paths) == ["name", "category"]
        assert (request.name, request.HasField("category"), request.etag) == ("New", False, "7")

    async def test_mask_in_the_body_is_used(self, client: httpx.AsyncClient, backend: Backend) -> None:
        await client.patch(f"{BASE}/budgets/{BUDGET}", json={"name": "New", "update_mask": "name,gl_code"})
        request: Any = backend.received[0].request
        assert list(request.update_mask.paths) == ["name", "gl_code"]

    async def test_write_without_a_key_gets_one(self, client: httpx.AsyncClient, backend: Backend) -> None:
        await client.post(f"{BASE}/budgets/{BUDGET}/close")
        request: Any = backend.received[0].request
        assert len(request.request_id) == 32

    async def test_required_key_is_not_generated(self, client: httpx.AsyncClient, backend: Backend) -> None:
        await client.post(f"{BASE}/budgets/{BUDGET}/charge", json={"amount": MONEY})
        request: Any = backend.received[0].request
        assert request.request_id == ""

    async def test_path_variable_is_decoded_once(self, client: httpx.AsyncClient, backend: Backend) -> None:
        await client.get(f"{BASE}/budgets/charges/po%2F47%2511")
        request: Any = backend.received[0].request
        assert request.request_id == "po/47%11"


class TestInvalidRequests:
    async def test_all_invalid_fields_are_reported_at_once(self, client: httpx.AsyncClient, backend: Backend) -> None:
        body = {
            "name": 7, "amount": {"currency_code": "EUR", "amount": 12.5, "cents": 3}, "period_type": "WEEKLY",
            "alert_thresholds_bp": [8000, "much", 99999999999], "draft": "yes", "colour": "red",
        }  # fmt: skip
        errors = await errors_of(client, "POST", "/budgets", json=body)
        assert {field: error["code"] for field, error in errors.items()} == {
            "name": "type.string", "amount.amount": "type.string", "amount.cents": "field.unknown",
            "period_type": "type.enum", "alert_thresholds_bp[1]": "type.integer",
            "alert_thresholds_bp[2]": "type.integer", "draft": "type.bool", "colour": "field.unknown",
            "entity_id": "required",
        }  # fmt: skip
        assert errors["amount.amount"]["detail"] == 'must be a string such as "1250.00"'
        assert errors["amount.cents"]["detail"] == "is not a known field; known are: currency_code, amount"
        assert errors["period_type"]["detail"] == "must be one of MONTHLY, QUARTERLY, ANNUAL, CUSTOM"
        assert not backend.received

    async def test_invalid_query_parameters_are_reported(self, client: httpx.AsyncClient) -> None:
        errors = await errors_of(
            client, "GET", "/budgets?page_size=many&state=active&colour=red&page_token=a&page_token=b"
        )
        assert set(errors) == {"page_size", "state", "colour", "page_token"}
        assert "known are: page_size, page_token" in errors["colour"]["detail"]

    async def test_unknown_field_is_reported_beside_missing_and_invalid_ones(
        self, client: httpx.AsyncClient, backend: Backend
    ) -> None:
        body = {
            "entity": BUDGET, "period_type": "MONTHLY", "alert_thresholds_bp": [8000, 90_000_000],
            "amount": {"currency": "EUR", "amount": "12.505"},
        }  # fmt: skip
        errors = await errors_of(client, "POST", "/budgets", json=body)
        assert set(errors) == {
            "entity", "entity_id", "name", "amount.currency", "amount.currency_code",
            "alert_thresholds_bp[1]",
        }  # fmt: skip
        assert errors["entity"]["detail"].startswith("is not a known field; did you mean entity_id? known are: ")
        assert errors["amount.currency"]["detail"] == (
            "is not a known field; did you mean currency_code? known are: currency_code, amount"
        )
        assert not backend.received

    async def test_value_that_is_not_decoded_is_reported_once(self, client: httpx.AsyncClient) -> None:
        charge: dict[str, Any] = {"id": BUDGET, "request_id": "a", "amount": MONEY}
        charges = [{**charge, "amount": 12.5}, {**charge, "amount": {**MONEY, "amount": 1}}, "all"]
        errors = await errors_of(client, "POST", "/budgets/charges/batch", json={"charges": charges, "colour": "red"})
        assert set(errors) == {"charges[0].amount", "charges[1].amount.amount", "charges[2]", "colour"}

    async def test_nearest_name_shares_words(self, client: httpx.AsyncClient) -> None:
        charge = {"budget_id": BUDGET, "request_id": "a", "amount": MONEY}
        errors = await errors_of(client, "POST", "/budgets/charges/batch", json={"charges": [charge]})
        assert set(errors) == {"charges[0].budget_id", "charges[0].id"}
        assert "did you mean id?" in errors["charges[0].budget_id"]["detail"]

    async def test_missing_key_is_reported_beside_an_unknown_field(self, client: httpx.AsyncClient) -> None:
        errors = await errors_of(client, "POST", f"/budgets/{BUDGET}/charge", json={"sum": MONEY})
        assert set(errors) == {"sum", "amount", "header Idempotency-Key"}

    async def test_unknown_query_parameter_is_reported_beside_invalid_ones(self, client: httpx.AsyncClient) -> None:
        errors = await errors_of(client, "GET", "/approvals?amount_from=100.00&entity_id=acme&page_sise=5")
        assert set(errors) == {"amount_from", "entity_id", "page_sise"}
        assert "did you mean amount_from.amount?" in errors["amount_from"]["detail"]
        assert "did you mean page_size?" in errors["page_sise"]["detail"]

    @pytest.mark.parametrize(
        ("query", "invalid"),
        [
            ("amount_from.amount=100.00", "amount_from.currency_code"),
            ("amount_from.currency_code=EUR", "amount_from.amount"),
            ("amount_from.amount=1.005&amount_from.currency_code=EUR&page_sise=5", "amount_from.amount"),
            ("amount_to.amount=1&amount_to.amount=2&amount_to.currency_code=EUR", "amount_to.amount"),
        ],
    )
    async def test_incomplete_amounts_are_reported_by_their_parameter(
        self, client: httpx.AsyncClient, backend: Backend, query: str, invalid: str
    ) -> None:
        response = await client.get(f"{BASE}/approvals?{query}")
        if response.status_code == 200:  # the service itself would reject it
            with pytest.raises(InvalidFields) as raised:
                validation.check(backend.received[0].request)
            assert [violation.field for violation in raised.value.violations] == [invalid]
        else:
            assert invalid in {error["field"] for error in response.json()["errors"]}

    async def test_different_keys_in_header_and_body_are_rejected(self, client: httpx.AsyncClient) -> None:
        body = {"amount": MONEY, "request_id": "a"}
        errors = await errors_of(
            client, "POST", f"/budgets/{BUDGET}/charge", json=body, headers={"idempotency-key": "b"}
        )
        assert set(errors) == {"header Idempotency-Key"}

    async def test_different_ids_in_path_and_body_are_rejected(self, client: httpx.AsyncClient) -> None:
        assert set(await errors_of(client, "PATCH", f"/budgets/{BUDGET}", json={"id": "bud_other"})) == {"id"}

    @pytest.mark.parametrize(
        ("time"),
        ["yesterday", "2026-10-01", "2026-10-01T12:00:00", "2026-13-01T12:00:00Z", "2026-10-01T24:00:00Z",
         "2026-10-01T12:00:60Z", "0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-01:00", 5, {}, []],
    )  # fmt: skip
    async def test_invalid_times_are_rejected(self, client: httpx.AsyncClient, time: object) -> None:
        errors = await errors_of(
            client, "POST", f"/budgets/{BUDGET}/charge", json={"amount": MONEY, "charge_time": time}
        )
        assert errors["charge_time"]["code"] == "type.time"

    @pytest.mark.parametrize(
        ("body", "detail"),
        [
            (b"{", "not JSON"), (b"[]", "must be a JSON object"), (b"7", "must be a JSON object"),
            (b'{"name": NaN}', "not JSON"), (b'{"name": "\xff"}', "not JSON"), (b'{"name": "\\ud800"}', "not JSON"),
            (b'{"name": "a", "name": "b"}', "the field name twice"),
            (b'{"amount": {"amount": "1", "amount" : "2"}}', "the field amount twice"),
            (b'{"a":' * 40 + b"1" + b"}" * 40, "deeper than 32"), (b"[" * 5000 + b"]" * 5000, "not JSON"),
        ],
    )  # fmt: skip
    async def test_malformed_bodies_are_rejected(self, client: httpx.AsyncClient, body: bytes, detail: str) -> None:
        response = await client.post(f"{BASE}/budgets", content=body)
        assert (response.status_code, response.json()["code"]) == (400, "MALFORMED_BODY")
        assert detail in response.json()["detail"]

    async def test_body_of_a_get_is_rejected(self, client: httpx.AsyncClient) -> None:
        response = await client.request("GET", f"{BASE}/budgets", json={"state": "ACTIVE"})
        assert (response.status_code, response.json()["code"]) == (400, "MALFORMED_BODY")

    async def test_other_media_types_are_rejected(self, client: httpx.AsyncClient) -> None:
        response = await client.post(f"{BASE}/budgets", data={"name": "x"})
        assert (response.status_code, response.json()["code"]) == (415, "UNSUPPORTED_MEDIA_TYPE")

    @pytest.mark.parametrize("encoding", ["gzip", "br", "identity, gzip"])
    async def test_compressed_bodies_are_rejected(self, client: httpx.AsyncClient, encoding: str) -> None:
        headers = {"content-encoding": encoding, "content-type": "application/json"}
        response = await client.post(f"{BASE}/budgets", content=gzip.compress(b"{}"), headers=headers)
        assert (response.status_code, response.json()["code"]) == (415, "UNSUPPORTED_MEDIA_TYPE")
        assert response.json()["detail"] == f"Content-Encoding {encoding} is not supported; only identity is."
        assert response.headers["accept-encoding"] == "identity"
        response = await client.post(f"{BASE}/budgets", json={}, headers={"content-encoding": "Identity"})
        assert response.status_code != 415

    async def test_permission_is_checked_before_the_body(
        self, client: httpx.AsyncClient, token: Callable[..., str]
    ) -> None:
        client.headers["authorization"] = f"Bearer {token(role='viewer')}"
        response = await client.post(f"{BASE}/budgets", content=b"x" * 100_001)
        assert (response.status_code, response.json()["code"]) == (403, "PERMISSION_MISSING")

    async def test_too_large_body_is_rejected(self, client: httpx.AsyncClient) -> None:
        response = await client.post(f"{BASE}/budgets", content=b"x" * 100_001)
        assert (response.status_code, response.json()["code"]) == (413, "MESSAGE_TOO_LARGE")

        async def chunks() -> Any:
            for _ in range(11):
                yield b" " * 10_000

        response = await client.post(f"{BASE}/budgets", content=chunks())
        assert response.status_code == 413
