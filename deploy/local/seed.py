"""Sample data of the tenant acme, created over the REST API.

A resource that exists (same code or name) is not changed, so the seed can be repeated at any time.
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
    """A resource to create.

    Values of `body` that start with "$" are replaced: "$acme" by the id of the sample "acme", "$year" and "$quarter" by
    the first day of the year and quarter of the first load, "$end" by the first day of the third year after.
    """

    name: str
    collection: str
    body: Mapping[str, Any]
    unique_field: str
    """The field that identifies an existing resource."""
    filter_fields: tuple[str, ...] = ()
    """Fields of the body that filter the list in which it is searched."""


SAMPLES: Final = (
    Sample(
        "acme", "entities",
        {
            "code": "ACME", "legal_name": "Acme Group Inc.", "display_name": "Acme Group", "entity_type": "HOLDING",
            "currency_code": "USD", "country_code": "US", "tax_id": "91-1144442", "registration_number": "5123456",
            "time_zone": "America/New_York",
        },
        unique_field="code", filter_fields=("code",),
    ),
    Sample(
        "germany", "entities",
        {
            "parent_id": "$acme", "code": "ACME-DE", "legal_name": "Acme Deutschland GmbH",
            "display_name": "Acme Germany", "entity_type": "SUBSIDIARY", "currency_code": "EUR",
            "country_code": "DE", "tax_id": "DE111111125", "tax_rate_bp": 1900, "time_zone": "Europe/Berlin",
        },
        unique_field="code", filter_fields=("code",),
    ),
    Sample(
        "britain", "entities",
        {
            "parent_id": "$acme", "code": "ACME-UK", "legal_name": "Acme UK Ltd", "display_name": "Acme UK",
            "entity_type": "SUBSIDIARY", "currency_code": "GBP", "country_code": "GB", "tax_rate_bp": 2000,
            "time_zone": "Europe/London", "fiscal_year_start_month": 4,
        },
        unique_field="code", filter_fields=("code",),
    ),
    Sample(
        "engineering", "departments",
        {
            "entity_id": "$acme", "code": "ENG", "name": "Engineering", "cost_center": "CC-100", "headcount": 40,
            "manager_user_id": "erin",
        },
        unique_field="code", filter_fields=("entity_id",),
    ),
    Sample(
        "sales", "departments",
        {
            "entity_id": "$acme", "code": "SALES", "name": "Sales", "cost_center": "CC-200", "headcount": 15,
            "manager_user_id": "sam",
        },
        unique_field="code", filter_fields=("entity_id",),
    ),
    Sample(
        "finance", "departments",
        {
            "entity_id": "$acme", "code": "FIN", "name": "Finance", "cost_center": "CC-300", "headcount": 8,
            "manager_user_id": "frank",
        },
        unique_field="code", filter_fields=("entity_id",),
    ),
    Sample(
        "annual", "budgets",
        {
            "entity_id": "$acme", "name": "Group budget", "period_type": "ANNUAL", "period_start_date": "$year",
            "amount": {"currency_code": "USD", "amount": "1000000.00"}, "overspend_policy": "WARN",
        },
        unique_field="name", filter_fields=("entity_id",),
    ),
    Sample(
        "quarterly", "budgets",
        {
            "entity_id": "$acme", "department_id": "$engineering", "parent_id": "$annual",
            "name": "Engineering cloud", "category": "cloud", "period_type": "QUARTERLY",
            "period_start_date": "$quarter", "amount": {"currency_code": "USD", "amount": "50000.00"},
            "overspend_policy": "BLOCK",
        },
        unique_field="name", filter_fields=("entity_id",),
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
        unique_field="name", filter_fields=("entity_id",),
    ),
    Sample(
        "issuer", "billing-profiles",
        {
            "name": "Acme Shared Services", "legal_name": "Acme Shared Services GmbH", "vat_id": "DE136695976",
            "registration_number": "HRB 123456", "currency_code": "EUR", "time_zone": "Europe/Berlin",
            "address": {
                "lines": ["Hauptstr. 1"], "postal_code": "10115", "city": "Berlin", "country_code": "DE",
            },
            "electronic_address": {"scheme": "EM", "id": "invoices@acme.example"},
            "email": "invoices@acme.example", "phone": "+49 30 1234567", "contact_name": "Accounts receivable",
            "bank_account": {"iban": "DE89370400440532013000", "bic": "COBADEFFXXX"},
            "payment_instructions": "Please state the number of the invoice with the payment.",
        },
        unique_field="name",
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
        unique_field="name", filter_fields=("request_type",),
    ),
    Sample(
        "large_purchases", "approval-rules",
        {
            "name": "Large purchases", "request_type": "PURCHASE", "ladder": "purchases",
            "amount_above": {"currency_code": "USD", "amount": "5000.00"},
            "steps": [{"name": "Finance", "approvers": [{"role": "finance"}], "sla_hours": 72}],
        },
        unique_field="name", filter_fields=("request_type",),
    ),
    Sample(
        "contracts", "approval-rules",
        {
            "name": "Large contracts", "request_type": "CONTRACT",
            "amount_above": {"currency_code": "USD", "amount": "500000.00"},
            "steps": [{"name": "Finance", "approvers": [{"role": "finance"}], "sla_hours": 72}],
        },
        unique_field="name", filter_fields=("request_type",),
    ),
)  # fmt: skip

_CONTRACT: Final = "enterprise"
_SIGNERS: Final = {"OURS": "Frank Weber", "COUNTERPARTY": "Cora Lindgren"}
_DOCUMENT: Final = hashlib.sha256(b"Enterprise platform").hexdigest()

_RATES: Final = {"USD": "1.10", "GBP": "0.86"}
"""Price of one euro in the other currencies of the sample entities."""


def load(port: int) -> tuple[int, int]:
    """Create missing resources; return how many were created and how many existed."""
    gateway = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    authorization = {"Authorization": f"Bearer {keys.token(subject='seed')}"}
    known = _dates()
    created = 0
    for sample in SAMPLES:
        body = _substitute(sample.body, known)
        resource_id = _find(gateway, authorization, sample, body)
        if resource_id is None:
            # The body depends on the dates, and a key must not be used with another body.
            key = f"seed-{sample.name}-{known['quarter']}"
            response = _request(gateway, "POST", sample.collection, authorization | {"Idempotency-Key": key}, body)
            resource_id = response["id"]
            created += 1
        known[sample.name] = resource_id
    _activate_contract(gateway, authorization, known[_CONTRACT])
    for currency, rate in _RATES.items():
        _load_rates(gateway, authorization, currency, rate)
    _issue_invoice(gateway, authorization, known)
    gateway.close()
    return created, len(SAMPLES) - created


def _find(
    gateway: http.client.HTTPConnection, headers: Mapping[str, str], sample: Sample, body: Mapping[str, Any]
) -> str | None:
    query = urlencode({field: body[field] for field in sample.filter_fields} | {"page_size": 1000})
    resources = _request(gateway, "GET", f"{sample.collection}?{query}", headers)[sample.collection.replace("-", "_")]
    return next((item["id"] for item in resources if item[sample.unique_field] == body[sample.unique_field]), None)


def _activate_contract(gateway: http.client.HTTPConnection, headers: Mapping[str, str], contract_id: str) -> None:
    """Submit, sign and activate the contract, starting from its current state; later states are not changed."""
    route = f"contracts/{contract_id}"
    contract = _request(gateway, "GET", route, headers)
    if contract["state"] == "DRAFT":
        contract = _request(gateway, "POST", f"{route}/submit", headers, {})
    if contract["state"] != "PENDING_SIGNATURE":
        return
    signed = {signature["party"] for signature in contract["signatures"]}
    for party, signer in _SIGNERS.items():
        if party not in signed:
            signature = {"party": party, "signer_name": signer, "document_digest": _DOCUMENT}
            _request(gateway, "POST", f"{route}/signatures", headers, signature)
    _request(gateway, "PUT", f"{route}/activate", headers, {})


def _load_rates(gateway: http.client.HTTPConnection, headers: Mapping[str, str], currency: str, rate: str) -> None:
    """Create a rate for each month of this year that has none."""
    today = dt.datetime.now(dt.UTC).date()
    pair = {"base_currency": "EUR", "quote_currency": currency}
    query = urlencode(pair | {"start_date": f"{today.year}-01-01", "page_size": 1000})
    rates = _request(gateway, "GET", f"exchange-rates?{query}", headers)["exchange_rates"]
    known = {item["effective_date"][: len("YYYY-MM")] for item in rates}
    months = [f"{today.year}-{month:02}" for month in range(1, today.month + 1)]
    missing = [
        pair | {"effective_date": f"{month}-01", "rate": rate, "source": "sample"}
        for month in months
        if month not in known
    ]
    if missing:
        _request(gateway, "PUT", "exchange-rates", headers, {"rates": missing})


def _issue_invoice(gateway: http.client.HTTPConnection, headers: Mapping[str, str], known: Mapping[str, str]) -> None:
    """Issue the invoice of January, with the first fee of the contract, unless the group has an invoice."""
    if _request(gateway, "GET", f"invoices?entity_id={known['acme']}&page_size=1", headers)["invoices"]:
        return
    january = {"period_start_date": known["year"], "period_end_date": known["february"]}
    route = f"entities/{known['acme']}/consolidated-invoice"
    draft = _request(gateway, "POST", route, {**headers, "Idempotency-Key": f"seed-invoice-{known['year']}"}, january)
    if draft["state"] == "DRAFT":
        _request(gateway, "POST", f"invoices/{draft['id']}/issue", headers, {})


def _request(
    gateway: http.client.HTTPConnection, method: str, path: str, headers: Mapping[str, str], body: object = None
) -> Any:
    content = None if body is None else json.dumps(body)
    gateway.request(method, f"{_BASE}/{path}", content, {**headers, "Content-Type": "application/json"})
    response = gateway.getresponse()
    text = response.read().decode(errors="replace")
    if response.status >= HTTPStatus.BAD_REQUEST:
        raise RuntimeError(f"sample data: {method} {path}: {response.status} {text[:1000]}")
    return json.loads(text)


def _substitute(body: Mapping[str, Any], known: Mapping[str, str]) -> dict[str, Any]:
    return {
        field: known[value[1:]] if isinstance(value, str) and value.startswith("$") else value
        for field, value in body.items()
    }


def _dates() -> dict[str, str]:
    """Return days of the first load: the first of its year, February and quarter, and the end of contracts."""
    today = dt.datetime.now(dt.UTC).date()
    day = dt.date.fromisoformat(home.write_once(_FIRST_DAY, lambda: today.isoformat().encode()).decode())
    quarter = day.replace(month=day.month - (day.month - 1) % _MONTHS_OF_QUARTER, day=1)
    year = day.replace(month=1, day=1)
    end = year.replace(year=year.year + _YEARS_OF_CONTRACT)
    february = year.replace(month=2)
    return {
        "year": year.isoformat(),
        "february": february.isoformat(),
        "quarter": quarter.isoformat(),
        "end": end.isoformat(),
    }
