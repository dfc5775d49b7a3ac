"""The examples of the OpenAPI document are accepted as they stand, with existing ids in place of theirs."""

import json
import re
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest

from contract import openapi
from tests.flows.conftest import Stack

_ID = re.compile(r"([a-z]{3})_[0-9a-f]{32}")
_PREFIXES = {
    "alerts": "alr", "allocation-rules": "arl", "allocations": "alc", "approval-rules": "rul", "approvals": "apr",
    "budgets": "bud", "contracts": "con", "departments": "dep", "entities": "ent", "hold_id": "hld",
    "billing-profiles": "bpr", "credit-notes": "crn", "invoices": "inv", "invoice-schedules": "isc", "line_id": "iln",
    "amendment_id": "amd", "split": "spl",
}  # fmt: skip
"""Prefix of the ids by the collection of `{id}`, or by the name of another variable."""

STEPS = (
    "CreateEntity", "UpdateEntity", "MoveEntity", "CreateDepartment", "UpdateDepartment", "MoveDepartment",
    "SetExchangeRates", "CreateBudget", "CreateBudget", "ActivateBudget", "UpdateBudget", "CheckAvailability",
    "Charge", "AcknowledgeAlert", "BatchCharge", "RefundCharge", "CreateHold", "CommitHold", "CaptureHold",
    "ReleaseHold", "TransferBudget", "CreateAllocationRule", "UpdateAllocationRule", "AllocateCost",
    "BatchAllocateCosts", "CreditAllocation", "ReverseAllocation", "SplitCost", "ReverseCostSplit",
    "CreateApprovalRule", "UpdateApprovalRule", "SimulateRules", "CreateDelegation", "CreateApproval",
    "ActOnApproval", "BatchActOnApprovals", "ResubmitApproval", "CancelApproval", "CreateContract", "UpdateContract",
    "SubmitContract", "SignContract", "ActivateContract", "CreateAmendment", "ApproveAmendment", "ApplyAmendment",
    "RejectAmendment", "SuspendContract", "ResumeContract", "RenewContract", "TerminateContract",
    "WithdrawTermination", "CloseBudget", "ReopenBudget", "RolloverBudget", "DeactivateDepartment",
    "ActivateDepartment", "CreateBillingProfile", "UpdateBillingProfile",
    "CreateInvoiceSchedule", "UpdateInvoiceSchedule",
    "CreateConsolidatedInvoice", "RefreshInvoice", "IssueInvoice", "CreateCreditNote", "RetryRefund", "VoidInvoice",
    "DeactivateBillingProfile", "ActivateBillingProfile", "DeactivateEntity", "SetPeriodLock",
)  # fmt: skip
"""Every operation with a body, in an order in which the resources of its example exist."""
DEPENDS_ON_STATE = {httpx.codes.FORBIDDEN, httpx.codes.CONFLICT}
"""An example may be refused for the state of its resource or for who decides, but not for its form."""


def operations() -> Iterator[tuple[str, tuple[str, str, dict[str, Any]]]]:
    for path, verbs in openapi.document()["paths"].items():
        for verb, operation in verbs.items():
            if "requestBody" in operation:
                yield operation["operationId"], (verb.upper(), path, operation)


def test_every_operation_with_a_body_is_sent() -> None:
    assert sorted(set(STEPS)) == sorted(name for name, _ in operations())


def test_examples_are_accepted_as_they_stand(stack: Stack) -> None:
    ids: dict[str, str] = {}  # the newest of each kind
    first_ids: dict[str, str] = {}
    by_name = dict(operations())
    refused = []
    with stack.client(ROLE="billing_admin", TENANT=f"examples-{uuid4().hex[:8]}") as client:
        for name in STEPS:
            verb, path, operation = by_name[name]
            if name == "AcknowledgeAlert":
                ids["alr"] = _alert(client, ids["bud"])
            response = client.request(
                verb, f"{stack.url}{_with_ids(path, ids)}", json=_body(operation, first_ids),
                headers={"Idempotency-Key": uuid4().hex},
            )  # fmt: skip
            if response.is_success:
                _learn(response.json(), ids)
                first_ids = ids | first_ids
            elif name.startswith("Create") or response.status_code not in DEPENDS_ON_STATE:
                refused.append((name, response.status_code, response.text[:600]))
    assert not refused, "\n".join(map(str, refused))


def _alert(client: httpx.Client, budget_id: str) -> str:
    """Spend most of a budget and return the id of its alert."""
    charge = {"amount": {"currency_code": "EUR", "amount": "130000.00"}, "charge_time": "2026-10-01T00:00:00Z"}
    response = client.post(f"/budgets/{budget_id}/charge", json=charge, headers={"Idempotency-Key": uuid4().hex})
    assert response.is_success, response.text
    return str(client.get("/alerts").json()["alerts"][0]["id"])


def _body(operation: dict[str, Any], ids: dict[str, str]) -> Any:
    """Return the example with ids of existing resources in place of its own."""
    text = json.dumps(operation["requestBody"]["content"]["application/json"]["example"])
    return json.loads(_ID.sub(lambda match: ids.get(match[1], match[0]), text))


def _with_ids(path: str, ids: dict[str, str]) -> str:
    def value(match: re.Match[str]) -> str:
        collection = path[: match.start()].rstrip("/").rpartition("/")[2]
        prefix = _PREFIXES[collection if match[1] == "id" else match[1]]
        return ids.get(prefix, f"{prefix}_{'0' * 32}")

    return re.sub(r"\{(\w+)\}", value, path)


def _learn(reply: Any, ids: dict[str, str]) -> None:
    """Remember the id of the resource, and those of kinds that have none so far."""
    for match in _ID.finditer(json.dumps(reply)):
        ids.setdefault(match[1], match[0])
    own = _ID.fullmatch(str(reply.get("id", "")))
    if own:
        ids[own[1]] = own[0]


@pytest.mark.parametrize(
    ("operation", "name"),
    [
        ("CreateBudget", "Cloud 2026"),
        ("CreateContract", "Cloud platform"),
        ("CreateDepartment", "Engineering"),
        ("CreateAllocationRule", "Shared storage by headcount"),
        ("CreateApprovalRule", "Purchases above 10,000 EUR"),
    ],
)
def test_name_in_request_and_response_is_of_the_resource(operation: str, name: str) -> None:
    _, _, described = dict(operations())[operation]
    request = described["requestBody"]["content"]["application/json"]["example"]
    response = next(iter(described["responses"].values()))["content"]["application/json"]["example"]
    assert (request["name"], response["name"]) == (name, name)
