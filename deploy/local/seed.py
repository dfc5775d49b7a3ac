"""Sample data of the tenant acme, loaded over REST like anybody's.

A thing that is there, by its code or name, is left as it is; so the seed can be repeated at any time.
"""

import datetime as dt
import hashlib
import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlencode

from deploy.local import home, keys

_BASE: Final = "/api/enterprise-billing"
_FIRST_DAY: Final = home.RUN / "seeded"
_MONTHS_OF_QUARTER: Final = 3
_YEARS_OF_CONTRACT: Final = 3


@dataclass(frozen=True)
class Sample:
    """One thing to create.

    `body` may name things made before: "$acme" stands for the id of the sample "acme"; and "$year" and "$quarter" for
    the first day of the year and quarter in which the seed was first loaded, "$end" for that of the third year after.
    """

    name: str
    collection: str
    body: Mapping[str, Any]
    known_by: str
    """The field by which it is found again."""
    among: tuple[str, ...] = ()
    """Fields of the body that narrow the list in which it is looked for."""


SAMPLES: Final = (
    Sample(
        "acme", "entities",
        {
            "code": "ACME", "legal_name": "Acme Group Inc.", "display_name": "Acme Group", "entity_type": "HOLDING",
            "currency_code": "USD", "country_code": "US", "time_zone": "America/New_York",
        },
        known_by="code", among=("code",),
    ),
    Sample(
        "germany", "entities",
        {
            "parent_id": "$acme", "code": "ACME-DE", "legal_name": "Acme Deutschland GmbH",
            "display_name": "Acme Germany", "entity_type": "SUBSIDIARY", "currency_code": "EUR",
            "country_code": "DE", "tax_id": "DE111111125", "tax_rate_bp": 1900, "time_zone": "Europe/Berlin",
        },
        known_by="code", among=("code",),
    ),
    Sample(
        "britain", "entities",
        {
            "parent_id": "$acme", "code": "ACME-UK", "legal_name": "Acme UK Ltd", "display_name": "Acme UK",
            "entity_type": "SUBSIDIARY", "currency_code": "GBP", "country_code": "GB", "tax_rate_bp": 2000,
            "time_zone": "Europe/London", "fiscal_year_start_month": 4,
        },
        known_by="code", among=("code",),
    ),
    Sample(
        "engineering", "departments",
        {
            "entity_id": "$acme", "code": "ENG", "name": "Engineering", "cost_center": "CC-100", "headcount": 40,
            "manager_user_id": "erin",
        },
        known_by="code", among=("entity_id",),
    ),
    Sample(
        "sales", "departments",
        {
            "entity_id": "$acme", "code": "SALES", "name": "Sales", "cost_center": "CC-200", "headcount": 15,
            "manager_user_id": "sam",
        },
        known_by="code", among=("entity_id",),
    ),
    Sample(
        "finance", "departments",
        {
            "entity_id": "$acme", "code": "FIN", "name": "Finance", "cost_center": "CC-300", "headcount": 8,
            "manager_user_id": "frank",
        },
        known_by="code", among=("entity_id",),
    ),
    Sample(
        "annual", "budgets",
        {
            "entity_id": "$acme", "name": "Group budget", "period_type": "ANNUAL", "period_start_date": "$year",
            "amount": {"currency_code": "USD", "amount": "1000000.00"}, "overspend_policy": "WARN",
        },
        known_by="name", among=("entity_id",),
    ),
    Sample(
        "quarterly", "budgets",
        {
            "entity_id": "$acme", "department_id": "$engineering", "parent_id": "$annual",
            "name": "Engineering cloud", "category": "cloud", "period_type": "QUARTERLY",
            "period_start_date": "$quarter", "amount": {"currency_code": "USD", "amount": "50000.00"},
            "overspend_policy": "BLOCK",
        },
        known_by="name", among=("entity_id",),
    ),
    Sample(
        "enterprise", "contracts",
        {
            "entity_id": "$acme", "name": "Enterprise platform", "contract_type": "ENTERPRISE_LICENSE",
            "start_date": "$year", "end_date": "$end", "billing_frequency": "ANNUAL",
            "total_value": {"currency_code": "USD", "amount": "360000.00"}, "license_tier": "enterprise", "seats": 250,
            "payment_terms_days": 30, "purchase_order_number": "PO-1001", "auto_renew": True,
            "renewal_term_months": 12, "renewal_notice_days": 90, "renewal_uplift_bp": 300,
            "sla_terms": {"uptime_bp": 9990, "response_hours": 4, "credit_bp": 500},
        },
        known_by="name", among=("entity_id",),
    ),
    Sample(
        "purchases", "approval-rules",
        {
            "name": "Purchases", "request_type": "PURCHASE", "ladder": "purchases",
            "amount_up_to": {"currency_code": "USD", "amount": "5000.00"},
            "steps": [
                {
                    "name": "Manager", "approvers": [{"department_manager": True}], "sla_hours": 48,
                    "escalate_to": {"role": "finance"},
                },
            ],
        },
        known_by="name", among=("request_type",),
    ),
    Sample(
        "large_purchases", "approval-rules",
        {
            "name": "Large purchases", "request_type": "PURCHASE", "ladder": "purchases",
            "amount_above": {"currency_code": "USD", "amount": "5000.00"},
            "steps": [{"name": "Finance", "approvers": [{"role": "finance"}], "sla_hours": 72}],
        },
        known_by="name", among=("request_type",),
    ),
    Sample(
        "contracts", "approval-rules",
        {
            "name": "Large contracts", "request_type": "CONTRACT",
            "amount_above": {"currency_code": "USD", "amount": "500000.00"},
            "steps": [{"name": "Finance", "approvers": [{"role": "finance"}], "sla_hours": 72}],
        },
        known_by="name", among=("request_type",),
    ),
)  # fmt: skip

_CONTRACT: Final = "enterprise"
_SIGNERS: Final = {"OURS": "Frank Weber", "COUNTERPARTY": "Cora Lindgren"}
_DOCUMENT: Final = hashlib.sha256(b"Enterprise platform").hexdigest()

_RATES: Final = {"USD": "1.10", "GBP": "0.86"}
"""What one euro costs in the sample entities' other currencies."""


def load(port: int) -> tuple[int, int]:
    """Create what is missing; gives how many were created and how many were there."""
    gateway = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    authorization = {"Authorization": f"Bearer {keys.token(subject='seed')}"}
    known = _dates()
    made = 0
    for sample in SAMPLES:
        body = _filled(sample.body, known)
        found = _find(gateway, authorization, sample, body)
        if found is None:
            # The key holds the dates, since the same key must never come with another body.
            key = f"seed-{sample.name}-{known['quarter']}"
            created = _ask(gateway, "POST", sample.collection, authorization | {"Idempotency-Key": key}, body)
            found = created["id"]
            made += 1
        known[sample.name] = found
    _bring_into_force(gateway, authorization, known[_CONTRACT])
    for currency, rate in _RATES.items():
        _load_rates(gateway, authorization, currency, rate)
    gateway.close()
    return made, len(SAMPLES) - made


def _find(
    gateway: http.client.HTTPConnection, headers: Mapping[str, str], sample: Sample, body: Mapping[str, Any]
) -> str | None:
    query = urlencode({field: body[field] for field in sample.among} | {"page_size": 1000})
    listed = _ask(gateway, "GET", f"{sample.collection}?{query}", headers)[sample.collection.replace("-", "_")]
    return next((item["id"] for item in listed if item[sample.known_by] == body[sample.known_by]), None)


def _bring_into_force(gateway: http.client.HTTPConnection, headers: Mapping[str, str], contract_id: str) -> None:
    """Submit, sign and activate the contract, from where it is; what is done with it later stays as it is."""
    route = f"contracts/{contract_id}"
    contract = _ask(gateway, "GET", route, headers)
    if contract["state"] == "DRAFT":
        contract = _ask(gateway, "POST", f"{route}/submit", headers, {})
    if contract["state"] != "PENDING_SIGNATURE":
        return
    signed = {signature["party"] for signature in contract["signatures"]}
    for party, signer in _SIGNERS.items():
        if party not in signed:
            signature = {"party": party, "signer_name": signer, "document_digest": _DOCUMENT}
            _ask(gateway, "POST", f"{route}/signatures", headers, signature)
    _ask(gateway, "PUT", f"{route}/activate", headers, {})


def _load_rates(gateway: http.client.HTTPConnection, headers: Mapping[str, str], currency: str, rate: str) -> None:
    """A rate for each month of this year that has none yet, so that what is loaded from elsewhere stays as it is."""
    today = dt.datetime.now(dt.UTC).date()
    pair = {"base_currency": "EUR", "quote_currency": currency}
    query = urlencode(pair | {"start_date": f"{today.year}-01-01", "page_size": 1000})
    listed = _ask(gateway, "GET", f"exchange-rates?{query}", headers)["exchange_rates"]
    known = {recorded["effective_date"][: len("YYYY-MM")] for recorded in listed}
    months = [f"{today.year}-{month:02}" for month in range(1, today.month + 1)]
    missing = [
        pair | {"effective_date": f"{month}-01", "rate": rate, "source": "sample"}
        for month in months
        if month not in known
    ]
    if missing:
        _ask(gateway, "PUT", "exchange-rates", headers, {"rates": missing})


def _ask(
    gateway: http.client.HTTPConnection, method: str, path: str, headers: Mapping[str, str], body: object = None
) -> Any:
    text = None if body is None else json.dumps(body)
    gateway.request(method, f"{_BASE}/{path}", text, {**headers, "Content-Type": "application/json"})
    answer = gateway.getresponse()
    said = answer.read()
    if answer.status >= HTTPStatus.BAD_REQUEST:
        raise RuntimeError(f"sample data: {method} {path}: {answer.status} {said.decode(errors='replace')[:1000]}")
    return json.loads(said)


def _filled(body: Mapping[str, Any], known: Mapping[str, str]) -> dict[str, Any]:
    return {
        field: known[value[1:]] if isinstance(value, str) and value.startswith("$") else value
        for field, value in body.items()
    }


def _dates() -> dict[str, str]:
    """First day of the year and of the quarter of the first load, and of the year in which a contract of it ends."""
    today = dt.datetime.now(dt.UTC).date()
    day = dt.date.fromisoformat(home.write_once(_FIRST_DAY, lambda: today.isoformat().encode()).decode())
    quarter = day.replace(month=day.month - (day.month - 1) % _MONTHS_OF_QUARTER, day=1)
    year = day.replace(month=1, day=1)
    end = year.replace(year=year.year + _YEARS_OF_CONTRACT)
    return {"year": year.isoformat(), "quarter": quarter.isoformat(), "end": end.isoformat()}
