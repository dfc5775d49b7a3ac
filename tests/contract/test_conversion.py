"""No field is forgotten in a conversion: all converters of all services are found and tested by their signatures.

To a message: rows and domain values in which every part is set must give a message in which every field is set.
From a request: the result must be another one without any of its fields, or the RPC must read the field itself.
A new converter, message or field is found without a new test; exceptions are in the tables below, with their reasons.
"""

import ast
import importlib
import importlib.util
import inspect
import pkgutil
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date
from decimal import Decimal
from typing import Any, Final, get_args, get_origin, get_type_hints
from uuid import UUID

import pytest
from billing.budgets.v1.charge_pb2 import Charge, Refund
from billing.budgets.v1.hold_pb2 import Hold
from billing.entities.v1.entity_pb2 import Entity
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from kit import ids
from kit.errors import BillingError, NotFound
from kit.money import Money
from services.budgets import convert, domain
from services.budgets.domain.entries import EntryType, LedgerSums
from services.budgets.domain.postings import Posted
from services.budgets.models.budgets import BudgetRow
from services.entities.domain.costs import CostSum, DepartmentGroupBy, GroupKey, SummaryGroupBy
from services.entities.domain.entities import HierarchyNode
from tests.contract.contract import services
from tests.contract.samples import NOW, Samples
from tests.contract.source import SERVICES, on_disk

Converter = Callable[..., Any]

ONE, TWO = UUID(int=1), UUID(int=2)
DATES: Final = {"start_date": "2026-01-01", "end_date": "2026-02-01"}
TERMS: Final[Mapping[str, Any]] = {
    "fee": "9.00", "phases": [{"start_date": "2026-09-01", "fee": "9.00"}], "seats": 5, "end_date": "2027-01-01",
    "license_tier": "gold", "minimum_commitment": "9.00", "payment_terms_days": 30, "purchase_order_number": "PO-1",
    "purchase_order_limit": "9.00", "auto_renew": True, "renewal_term_months": 12, "renewal_notice_days": 30,
    "renewal_uplift_bp": 300, "sla_terms": {"uptime_bp": 9990, "response_hours": 4, "credit_bp": 500},
}  # fmt: skip
SEAT: Final = {
    "user_id": "u", "role": "finance", "why": "w", "in_place_of": "i", "extra": True, "superior": True,
    "decision": "APPROVED", "decided_by": "d", "on_behalf_of": "o", "decide_time": "2026-01-01T12:00:00+00:00",
}  # fmt: skip
HOURS: Final = {"time_zone": "Europe/Berlin", "weekdays": [1], "start": "09:00", "end": "17:00"}
PANEL: Final = {
    "requester": "u",
    "levels": [{
        "rule_id": ONE.hex, "rule_version": 1, "name": "n", "reason": "r", "flow": "SEQUENTIAL", "auto_approve": True,
        "allow_self_approval": True, "on_expiry": "EXPIRED", "business_hours": HOURS,
    }],
    "steps": [{
        "name": "n", "level": 0, "mode": "ANY", "quorum": 1, "seats": [SEAT], "sla_hours": 1, "escalate_to": SEAT,
        "state": "ACTIVE", "start_time": "2026-01-01T12:00:00+00:00", "remind_time": "2026-01-01T12:00:00+00:00",
        "due_time": "2026-01-01T12:00:00+00:00", "reminded": True, "escalated": True,
    }],
}  # fmt: skip
PARTY: Final = {
    "legal_name": "Acme SE", "vat_id": "DE123456788", "registration_number": "HRB 1", "email": "e", "phone": "p",
    "contact_name": "c", "currency_code": "EUR", "electronic_address": {"scheme": "EM", "id": "e"},
    "address": {"lines": ["A 1"], "postal_code": "1", "city": "c", "region": "r", "country_code": "DE"},
    "bank_account": {"holder": "h", "iban": "i", "bic": "b"},
}  # fmt: skip
APPROVER: Final = {"kind": "USER", "name": "u"}

OF_TYPE: Final[Mapping[Any, Callable[[Samples], Any]]] = {
    BillingError: lambda _: NotFound("not there", id="x"),
    bytes: lambda samples: samples.message(Charge).SerializeToString(),
    Mapping[UUID, bytes]: lambda samples: {each: samples.message(Entity).SerializeToString() for each in (ONE, TWO)},
    Mapping[UUID, UUID]: lambda _: {ONE: TWO},
    Sequence[HierarchyNode]: lambda _: [
        HierarchyNode(ONE, TWO, 1, NOW, truncated=True), HierarchyNode(TWO, ONE, 1, NOW, truncated=True),
    ],
    Sequence[DepartmentGroupBy]: lambda _: list(DepartmentGroupBy),
    Sequence[SummaryGroupBy]: lambda _: list(SummaryGroupBy),
    GroupKey: lambda _: tuple(KEYS[each] for each in SummaryGroupBy),
    tuple[GroupKey, CostSum]: lambda samples: (
        tuple(KEYS[each] for each in DepartmentGroupBy), samples.value(CostSum),
    ),
}  # fmt: skip
KEYS: Final[Mapping[str, Any]] = {
    "ENTITY": ONE, "DEPARTMENT": TWO, "CATEGORY": "cloud", "GL_CODE": "6000", "MONTH": date(2026, 1, 1),
}  # fmt: skip
OF_FIELD: Final[Mapping[str, Any]] = {
    # JSON columns
    "panel": PANEL,
    "business_hours": HOURS,
    "attributes": {"key": "value"},
    "remainders": {"1": "0.04"},
    "metadata": {"key": "value"},
    "approval_rules.steps": [
        {"name": "n", "approvers": [APPROVER], "mode": "ANY", "quorum": 1, "sla_hours": 1, "escalate_to": APPROVER}
    ],
    "contract_amendments.changes": {"before": {**TERMS, "seats": 4}, "after": TERMS},
    "proration": {
        **DATES, "old_part": "1.00", "new_part": "2.00", "old_total": "3.00", "new_total": "4.00",
        "fees": [{"number": 1, **DATES, "old": "1.00", "new": "2.00"}],
    },
    "consolidated_invoices.issuer": PARTY, "consolidated_invoices.recipient": PARTY,
    "consolidated_invoices.taxes": [
        {"treatment": "STANDARD", "tax_rate_bp": 1900, "net": "100.00", "tax": "19.00"}
    ],
    "consolidated_invoices.rates": [
        {"source": "USD", "target": "EUR", "rate": "0.9", "day": "2026-01-31", "effective_date": "2026-01-01"}
    ],
    "consolidated_invoices.problems": [
        {"severity": "ERROR", "code": "c", "message": "m", "resource_id": "r"}
    ],
    "credit_notes.issuer": PARTY, "credit_notes.recipient": PARTY,
    "credit_notes.taxes": [{"treatment": "STANDARD", "tax_rate_bp": 1900, "net": "100.00", "tax": "19.00"}],
    "consolidated_invoices.state": "DRAFT", "consolidated_invoices.total": Decimal(100),
    "PhaseRecord.start_date": "2026-09-01", "PhaseRecord.fee": "9.00",
    # values of other rows
    "chain_ids": [ONE, TWO], "budget_entries.budget_id": ONE, "budgets.id": ONE, "to_proto.budget_id": ONE,
    "cost_allocations.id": ONE,
    # values in a form, with an order, or that differ
    "Refund.original": Money(Decimal(12), "USD"),
    "departments.state_changes": [date(2026, 6, 1)],
    "RenewalFacts.today": date(2026, 6, 1), "ContractTerms.start_date": date(2026, 1, 1),
    "ContractTerms.end_date": date(2027, 1, 1), "WatchAlertsRequest.last_event_id": "7", "position": b"",
    "invoice_runs.problems": [{"reason": "RATE_MISSING", "message": "m"}], "invoice_schedules.time_of_day": "06:00",
    "BusinessHours.start": "09:00", "BusinessHours.end": "17:00",
    "SummarizeBudgetsRequest.group_by": "DEPARTMENT", "CreateApprovalRuleRequest.on_expiry": "REJECTED",
    "UpdateApprovalRuleRequest.on_expiry": "REJECTED",
}  # fmt: skip
"""Values that must fit together, by column, field or parameter, with its table, class or function."""
EMPTY: Final[Mapping[tuple[str, str], str]] = {
    ("entities.convert.contracts.to_proto", "renews_automatically"): "a terminated contract does not renew",
    ("entities.convert.renewals.check_to_proto", "auto_renew"): "a terminated contract does not renew",
    ("entities.events.published.contracts.contract_renewal_due", "auto_renew"): "a terminated contract does not renew",
    **{
        ("approvals.convert.approvals.impact_problem_to_proto", field): "a budget that can't be read has no amounts"
        for field in ("budget_name", "amount", "budget_amount", "spent", "held", "committed", "available")
    },
    ("approvals.convert.approvals.impact_to_proto", "problem"): "set by impact_problem_to_proto",
    **{
        ("approvals.convert.approvals.preview_to_proto", field): "a preview is not stored"
        for field in ("id", "etag", "create_time", "update_time")
    },
    (
        "approvals.convert.rules.simulation_to_proto",
        "changes.before.auto_approved",
    ): "a route with steps is not approved automatically",
    (
        "approvals.convert.rules.simulation_to_proto",
        "changes.after.auto_approved",
    ): "a route with steps is not approved automatically",
    ("budgets.convert.entries.verification_to_proto", "verified"): "set below, by a ledger that agrees with the budget",
    **{
        ("budgets.convert." + name, field): "set for budgets outside of the caller's scope"
        for name, field in (
            ("availability.to_proto", "chain.out_of_scope"),
            ("availability.to_proto", "lines.chain.out_of_scope"),
            ("availability.line_to_proto", "chain.out_of_scope"),
            ("postings.charge_to_proto", "chain.out_of_scope"),
        )
    },
    ("budgets.events.published.approval_funds_settled", "hold_id"): "a raised budget has no hold",
    **{("entities.convert.invoices.allocation_to_item", field): "set by fee_to_item" for field in ("contract_id",)},
    **{
        ("entities.convert.invoices.fee_to_item", field): "set by allocation_to_item"
        for field in ("allocation_id", "category", "description", "source_ref")
    },
    **{
        ("entities.convert.invoices.to_proto", field): "set by details_to_proto"
        for field in ("lines", "eliminations", "problems", "rates")
    },
    ("entities.convert.verifications.to_proto", "verified"): "not set if there are differences",
    **{("entities.convert.credit_notes.to_proto", field): "set by details_to_proto" for field in ("lines", "refunds")},
    ("entities.convert.hierarchies.to_proto", "children.children"): "leaves of a hierarchy have no children",
}
"""Fields that stay empty, by converter and field, with the reason."""
IGNORED: Final = frozenset({"id", "etag", "request_id", "page_size", "page_token", "validate_only", "update_mask"})
"""Fields of requests that the RPC itself or the call pipeline reads."""
READ_ELSEWHERE: Final[Mapping[tuple[str, str], str]] = {}
"""Fields of requests that neither a converter nor the RPC reads, by message and field, with the reason."""
VARIANTS: Final[Mapping[str, list[Mapping[str, Any]]]] = {
    "CreateInvoiceScheduleRequest": [{}, {"active": False}],
    "CreateCreditNoteRequest": [{"lines": None}, {"full": False}],
    "CreateBudgetRequest": [{"period_type": 1, "period_end_date": None}, {"recurring": None}],
    "SplitCostRequest": [
        {"terms": None, "allocation_id": None},
        {"rule_id": None, "amount": None, "allocation_date": None, "category": None, "gl_code": None,
         "source_ref": None, "source_department_id": None},
    ],
}  # fmt: skip
"""Fields that exclude each other, by message: the values of each variant; None for a field that is not set."""


def converters() -> Iterator[Converter]:
    """Every public function of the convert modules and of `events.published`."""
    for service in SERVICES:
        package = importlib.import_module(f"services.{service}.convert")
        names = [each.name for each in pkgutil.iter_modules(package.__path__, f"{package.__name__}.")]
        published = f"services.{service}.events.published"
        if not importlib.util.find_spec(published):
            published = f"services.{service}.events"
        for name in [*names, published]:
            module = importlib.import_module(name)
            for function_name, function in inspect.getmembers(module, inspect.isfunction):
                if function.__module__.startswith(name) and not function_name.startswith("_"):
                    yield function


def name_of(function: Converter) -> str:
    return f"{function.__module__.removeprefix('services.')}.{function.__name__}"


def message_types(hint: Any) -> list[type[Message]]:
    """The message classes in a type, also in unions, lists and tuples."""
    if isinstance(hint, type) and issubclass(hint, Message) and hint is not Message:
        return [hint]
    return [kind for each in get_args(hint) for kind in message_types(each)]


def empty_fields(message: Message, path: str = "") -> list[str]:
    """The unset fields, also of nested messages; one field of a oneof and one item of a list are enough."""
    values = dict(message.ListFields())
    empty = [
        f"{path}{field.name}"
        for field in message.DESCRIPTOR.fields
        if field not in values and not (field.containing_oneof and message.WhichOneof(field.containing_oneof.name))
    ]
    for field, value in values.items():
        if _is_nested(field):
            items = value if field.is_repeated else [value]
            empty += set.intersection(*(set(empty_fields(item, f"{path}{field.name}.")) for item in items))
    return empty


def _is_nested(field: Any) -> bool:
    """True if the field has messages of ours, not maps or well-known types."""
    kind = field.message_type
    return bool(kind) and not kind.GetOptions().map_entry and not kind.file.package.startswith("google")


def messages_of(result: Any) -> list[Message]:
    return [result] if isinstance(result, Message) else list(result)


ALL: Final = [
    each
    for each in converters()
    if get_origin(get_type_hints(each).get("return")) not in {AsyncIterator, AsyncGenerator}
]
TO_PROTO: Final = [each for each in ALL if message_types(get_type_hints(each).get("return"))]
FROM_PROTO: Final = [
    (each, kind, name)
    for each in ALL
    if each not in TO_PROTO
    for name in inspect.signature(each).parameters
    for kind in message_types(get_type_hints(each)[name])
]
RPCS: Final = [
    (module, node, argument)
    for module in on_disk().layers("rpc")
    for node in ast.walk(module.tree)
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    for argument in node.args.args
    if argument.annotation
]
"""Functions of the rpc layer with an annotated parameter."""
REQUESTS: Final = sorted(
    {
        method.input_type
        for service in services()
        if service.full_name.split(".")[1] in SERVICES
        for method in service.methods
    },
    key=lambda kind: kind.full_name,
)


@pytest.mark.parametrize("function", TO_PROTO, ids=name_of)
def test_every_field_of_the_message_is_set(function: Converter) -> None:
    results = [messages_of(function(**arguments)) for arguments in new_samples().variants(function)]
    empty = set.intersection(*({field for message in result for field in empty_fields(message)} for result in results))
    assert empty == {field for name, field in EMPTY if name == name_of(function)} & empty


def _without(message: Message, field: str) -> Message:
    copy = type(message)()
    copy.CopyFrom(message)
    copy.ClearField(field)
    return copy


def outcome(function: Converter, arguments: Mapping[str, Any]) -> Any:
    """The result of a converter, or the text of its error."""
    try:
        return function(**arguments)
    except (BillingError, ValueError, ArithmeticError, LookupError) as error:
        return repr(error)


@pytest.mark.parametrize("request_type", REQUESTS, ids=lambda kind: kind.full_name)
def test_every_field_of_the_request_is_read(request_type: Descriptor) -> None:
    unread = set(request_type.fields_by_name) - IGNORED - read_by_rpc(request_type)
    unread -= {field for message, field in READ_ELSEWHERE if message == request_type.name}
    for function, kind, parameter in FROM_PROTO:
        if kind.DESCRIPTOR is request_type:
            unread -= read_by_converter(function, kind, parameter)
    assert unread == set()


def read_by_rpc(request_type: Descriptor) -> set[str]:
    """The fields that the RPC reads itself: `request.name`, `request.HasField("name")`, `f(request, "name")`."""
    return {
        name
        for module, function, argument in RPCS
        if module.service == request_type.full_name.split(".")[1]
        and re.search(rf"\b{request_type.name}\b", ast.unparse(argument.annotation or ast.Constant("")))
        for name in re.findall(rf"\b{argument.arg}(?:\.HasField\('|\.|, ')(\w+)", ast.unparse(function))
    }


def read_by_converter(function: Converter, kind: type[Message], parameter: str) -> set[str]:
    """The fields without which the result is another one."""
    read = set()
    for variant in VARIANTS.get(kind.DESCRIPTOR.name, [{}]):
        samples = new_samples()
        request = samples.message(kind)
        for field, value in variant.items():
            request.ClearField(field)
            if value is not None:
                setattr(request, field, value)
        arguments = {**samples.arguments(function), parameter: request}
        result = function(**arguments)
        for field in kind.DESCRIPTOR.fields_by_name:
            changed = outcome(function, {**arguments, parameter: _without(request, field)})
            if changed != result:
                read.add(field)
    return read


def new_samples() -> Samples:
    return Samples(OF_TYPE, OF_FIELD)


@pytest.mark.parametrize(
    ("entry_type", "kind"),
    [(EntryType.CHARGE, Charge), (EntryType.REFUND, Refund), (EntryType.HOLD, Hold), (EntryType.CAPTURE, Hold)],
)
def test_every_field_of_a_ledger_reply_is_set(entry_type: EntryType, kind: type[Message]) -> None:
    posted = new_samples().value(Posted)
    posted = replace(posted, entry=replace(posted.entry, entry_type=entry_type))
    assert set(empty_fields(kind.FromString(convert.postings.to_reply(posted)))) <= {"chain.out_of_scope"}


def test_budget_that_agrees_with_its_ledger_is_verified() -> None:
    row = new_samples().row(BudgetRow)
    balance = row.balance
    sums = LedgerSums(
        opening=balance.total, amount=Decimal(0), spent=balance.spent, held=balance.held, committed=balance.committed,
        captured=balance.captured, entries=balance.version, carried_in=balance.carried, carried_out=Decimal(0),
        received_by_next=Decimal(0), open_holds=balance.held + balance.committed,
    )  # fmt: skip
    for each, verified in ((sums, True), (sums._replace(spent=Decimal(0)), False)):
        verification = domain.verification.verify(balance, None, each)
        assert convert.entries.verification_to_proto(row, each, verification).verified == verified


def test_ids_have_the_prefix_of_their_kind() -> None:
    budget = convert.budgets.to_proto(new_samples().row(BudgetRow))
    assert ids.BUDGET.parse(budget.id) != ids.BUDGET.parse(budget.parent_id)
    assert ids.ENTITY.parse(budget.entity_id)
    assert ids.DEPARTMENT.parse(budget.department_id)
