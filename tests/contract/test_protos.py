"""The protos are consistent: every RPC is implemented, has permission, route and comment; reasons and errors match."""

import inspect
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import cast

import pytest
from billing.options.v1 import options_pb2
from buf.validate import validate_pb2
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, MethodDescriptor
from grpc import StatusCode

from contract import methods as loaded
from contract.routes import routes as all_routes
from kit import errors as kit_errors
from kit import rates as kit_rates
from kit.auth import ROLES
from kit.errors import BillingError
from kit.settings import Settings
from rendering import errors as rendering_errors
from serving import audit, operations
from serving.calls import CallPipeline, Servicer
from tests.contract import contract
from tests.contract.source import SERVICES
from tests.harness.services import Approvals, Budgets, Entities, Served
from tests.kit.conftest import NoScopes

BASE = "/api/enterprise-billing"

PUBLISHED_ROUTES = {
    ("POST", "/approvals"): "CreateApproval",
    ("GET", "/approvals"): "ListApprovals",
    ("POST", "/approvals/{id}/action"): "ActOnApproval",
    ("GET", "/approvals/{id}/history"): "ListApprovalActions",
    ("POST", "/entities"): "CreateEntity",
    ("GET", "/entities"): "ListEntities",
    ("GET", "/entities/{id}"): "GetEntityHierarchy",
    ("POST", "/departments"): "CreateDepartment",
    ("GET", "/departments"): "ListDepartments",
    ("GET", "/departments/{id}/costs"): "GetDepartmentCosts",
    ("POST", "/contracts"): "CreateContract",
    ("GET", "/contracts"): "ListContracts",
    ("PUT", "/contracts/{id}/activate"): "ActivateContract",
    ("GET", "/contracts/{id}/renewal-check"): "CheckRenewal",
    ("POST", "/departments/{id}/allocations"): "AllocateCost",
    ("POST", "/budgets"): "CreateBudget",
    ("GET", "/budgets"): "ListBudgets",
    ("POST", "/budgets/{id}/check-availability"): "CheckAvailability",
    ("POST", "/budgets/{id}/charge"): "Charge",
    ("GET", "/budgets/{id}/alerts"): "ListAlerts",
}
"""Routes that existing clients use: verb, path and meaning are fixed."""

OTHER_ROUTES = {
    ("GET", "/approvals/{id}"): "GetApproval",
    ("POST", "/approvals/batch-action"): "BatchActOnApprovals",
    ("POST", "/approvals/{id}/resubmit"): "ResubmitApproval",
    ("POST", "/approvals/{id}/cancel"): "CancelApproval",
    ("POST", "/approval-rules"): "CreateApprovalRule",
    ("GET", "/approval-rules"): "ListApprovalRules",
    ("GET", "/approval-rules/{id}"): "GetApprovalRule",
    ("PATCH", "/approval-rules/{id}"): "UpdateApprovalRule",
    ("DELETE", "/approval-rules/{id}"): "DeleteApprovalRule",
    ("POST", "/approval-rules/simulate"): "SimulateRules",
    ("POST", "/delegations"): "CreateDelegation",
    ("GET", "/delegations"): "ListDelegations",
    ("DELETE", "/delegations/{id}"): "DeleteDelegation",
    ("GET", "/audit-events"): "ListAuditEvents",
    ("PATCH", "/entities/{id}"): "UpdateEntity",
    ("POST", "/entities/{id}/move"): "MoveEntity",
    ("POST", "/entities/{id}/deactivate"): "DeactivateEntity",
    ("GET", "/departments/{id}"): "GetDepartment",
    ("PATCH", "/departments/{id}"): "UpdateDepartment",
    ("POST", "/departments/{id}/move"): "MoveDepartment",
    ("POST", "/departments/{id}/deactivate"): "DeactivateDepartment",
    ("POST", "/departments/{id}/activate"): "ActivateDepartment",
    ("GET", "/departments/{id}/history"): "ListDepartmentHistory",
    ("GET", "/contracts/{id}"): "GetContract",
    ("PATCH", "/contracts/{id}"): "UpdateContract",
    ("POST", "/contracts/{id}/submit"): "SubmitContract",
    ("POST", "/contracts/{id}/signatures"): "SignContract",
    ("POST", "/contracts/{id}/renew"): "RenewContract",
    ("POST", "/contracts/{id}/suspend"): "SuspendContract",
    ("POST", "/contracts/{id}/resume"): "ResumeContract",
    ("POST", "/contracts/{id}/terminate"): "TerminateContract",
    ("POST", "/contracts/{id}/withdraw-termination"): "WithdrawTermination",
    ("POST", "/contracts/{id}/amendments"): "CreateAmendment",
    ("GET", "/contracts/{id}/amendments"): "ListAmendments",
    ("GET", "/contracts/{id}/amendments/{amendment_id}"): "GetAmendment",
    ("POST", "/contracts/{id}/amendments/{amendment_id}/approve"): "ApproveAmendment",
    ("POST", "/contracts/{id}/amendments/{amendment_id}/reject"): "RejectAmendment",
    ("POST", "/contracts/{id}/amendments/{amendment_id}/apply"): "ApplyAmendment",
    ("POST", "/allocation-rules"): "CreateAllocationRule",
    ("GET", "/allocation-rules"): "ListAllocationRules",
    ("GET", "/allocation-rules/{id}"): "GetAllocationRule",
    ("PATCH", "/allocation-rules/{id}"): "UpdateAllocationRule",
    ("DELETE", "/allocation-rules/{id}"): "DeleteAllocationRule",
    ("POST", "/allocations/split"): "SplitCost",
    ("GET", "/allocations/split"): "ListCostSplits",
    ("PUT", "/exchange-rates"): "SetExchangeRates",
    ("GET", "/exchange-rates"): "ListExchangeRates",
    ("GET", "/departments/{id}/allocations"): "ListAllocations",
    ("POST", "/allocations/batch"): "BatchAllocateCosts",
    ("GET", "/allocations/{id}"): "GetAllocation",
    ("POST", "/allocations/{id}/reverse"): "ReverseAllocation",
    ("GET", "/budgets/{id}"): "GetBudget",
    ("PATCH", "/budgets/{id}"): "UpdateBudget",
    ("POST", "/budgets/{id}/close"): "CloseBudget",
    ("POST", "/budgets/{id}/reopen"): "ReopenBudget",
    ("GET", "/budgets/charges/{request_id}"): "GetCharge",
    ("GET", "/unbudgeted-spend"): "ListUnbudgetedSpend",
    ("POST", "/budgets/charges/batch"): "BatchCharge",
    ("POST", "/budgets/{id}/refund"): "RefundCharge",
    ("POST", "/budgets/{id}/holds"): "CreateHold",
    ("GET", "/budgets/{id}/holds"): "ListHolds",
    ("GET", "/budgets/{id}/holds/{hold_id}"): "GetHold",
    ("POST", "/budgets/{id}/holds/{hold_id}/commit"): "CommitHold",
    ("POST", "/budgets/{id}/holds/{hold_id}/capture"): "CaptureHold",
    ("POST", "/budgets/{id}/holds/{hold_id}/release"): "ReleaseHold",
    ("GET", "/budgets/{id}/entries"): "ListEntries",
    ("GET", "/budgets/{id}/verify"): "VerifyBudget",
    ("GET", "/alerts"): "ListAllAlerts",
    ("POST", "/alerts/{id}/acknowledge"): "AcknowledgeAlert",
    ("POST", "/budgets/{id}/transfer"): "TransferBudget",
    ("GET", "/budgets/for-cost"): "PreviewCostBudget",
    ("POST", "/budgets/{id}/rollover"): "RolloverBudget",
    ("PUT", "/period-locks"): "SetPeriodLock",
    ("GET", "/period-locks"): "ListPeriodLocks",
}
"""The other routes of the API."""

INTERNAL = {
    "GetEntities", "GetDepartments", "ResolveScope", "GetVersion", "ListDeadLetters", "RedriveDeadLetter",
    "DropDeadLetter", "GetRates",
    "SummarizeBudgets", "SummarizeContracts", "StreamEntries", "SummarizeCosts", "StreamAllocations", "GetLineage",
    "ReviewFunds", "HoldForApproval", "ReleaseForApproval", "CheckApprovalNeed", "OpenApproval", "SummarizeApprovals",
    "WatchApprovals", "HoldLines", "ReleaseLines", "CreateDisputeCreditNote",
}  # fmt: skip
"""Methods without a route: for our own services, and for operators over gRPC."""

MONEY_MOVES = {
    "Charge", "RefundCharge", "CreateHold", "CommitHold", "CaptureHold", "ReleaseHold", "TransferBudget",
    "RolloverBudget", "SplitCost",
    "AllocateCost", "BatchAllocateCosts", "ReverseAllocation", "CreateApproval", "OpenApproval", "HoldForApproval",
    "CreateCreditNote", "CreateDisputeCreditNote", "HoldLines", "ReleaseLines", "RetryRefund",
}  # fmt: skip
KEYED_BY_ITEM = {"BatchCharge": "charges"}
"""Writes without their own idempotency key: each item has one."""
IDEMPOTENT_WITHOUT_KEY = {"RedriveDeadLetter", "DropDeadLetter", "ReleaseForApproval"}
"""Writes that need no key: a repetition has no further effect."""

READ_BY_WRITERS = {"ListDelegations"}
"""Reads that need a write permission."""

every_method = pytest.mark.parametrize("method", contract.methods(), ids=lambda method: method.full_name)
every_message = pytest.mark.parametrize("message", contract.messages(), ids=lambda message: message.full_name)
every_enum = pytest.mark.parametrize("enum", contract.enums(), ids=lambda enum: enum.full_name)


def idempotency_level(method: MethodDescriptor) -> int:
    return int(method.GetOptions().idempotency_level)


def is_read(method: MethodDescriptor) -> bool:
    return idempotency_level(method) == descriptor_pb2.MethodOptions.NO_SIDE_EFFECTS


class TestServicers:
    @pytest.mark.parametrize("service", SERVICES)
    def test_every_rpc_is_implemented(self, service: str, settings: Callable[[str], Settings]) -> None:
        modules = contract.modules(service, "rpc")
        classes = [kind for module in modules for _, kind in inspect.getmembers(module, inspect.isclass)]
        servicers = [kind for kind in classes if hasattr(kind, "service")]
        served = {kind.service.full_name for kind in servicers}
        declared = {each.full_name for each in contract.services() if each.file.package == f"billing.{service}.v1"}
        assert served == declared
        calls = CallPipeline(settings(service), NoScopes())
        for kind in servicers:
            calls.handler_for(cast("Servicer", kind))  # raises TypeError if a method is missing or differs
        assert {name for kind in servicers for name in public_methods(kind)} <= {
            method.name for method in contract.methods()
        }

    async def test_every_grpc_service_is_served(
        self,
        entities_served: Served[Entities],
        budgets_served: Served[Budgets],
        approvals_served: Served[Approvals],
    ) -> None:
        composed = {
            servicer.service
            for served in (entities_served, budgets_served, approvals_served)
            for servicer in served.service.servicers
        }
        own = {each for each in contract.services() if each.full_name.split(".")[1] not in loaded.COMMON_APIS}
        assert composed == own


def public_methods(kind: type) -> set[str]:
    return {name for name, _ in inspect.getmembers(kind, inspect.isfunction) if not name.startswith("_")}


class TestPermissions:
    @every_method
    def test_some_role_grants_the_permission(self, method: MethodDescriptor) -> None:
        granted = frozenset().union(*ROLES.values())
        assert contract.permission(method) in granted

    @every_method
    def test_read_permissions_are_for_reads(self, method: MethodDescriptor) -> None:
        permission = contract.permission(method)
        if permission != "service" and not permission.endswith(".admin") and method.name not in READ_BY_WRITERS:
            assert permission.endswith(".read") == is_read(method)

    @every_method
    def test_exactly_the_internal_methods_have_no_route(self, method: MethodDescriptor) -> None:
        if contract.permission(method) == "service":
            assert method.name in INTERNAL
        assert (contract.route(method) is None) == (method.name in INTERNAL)


class TestRoutes:
    def test_every_published_route_exists(self) -> None:
        routes = {contract.route(method): method.name for method in contract.methods() if contract.route(method)}
        for (verb, path), name in {**PUBLISHED_ROUTES, **OTHER_ROUTES}.items():
            assert routes[verb, BASE + path] == name

    def test_exactly_the_calls_that_create_a_resource_return_201(self) -> None:
        for route in all_routes():
            assert route.creates == route.method.name.startswith("Create"), route.method.name

    def test_routes_are_unique(self) -> None:
        routes = [contract.route(method) for method in contract.methods() if contract.route(method)]
        assert len(set(routes)) == len(routes)

    @every_method
    def test_get_routes_are_reads(self, method: MethodDescriptor) -> None:
        route = contract.route(method)
        if route and route[0] == "GET":
            assert is_read(method)
        if route:
            assert route[1].startswith(BASE)

    @every_method
    def test_path_fields_are_required(self, method: MethodDescriptor) -> None:
        _, path = contract.route(method) or ("", "")
        for part in path.split("/"):
            if part.startswith("{"):
                field = method.input_type.fields_by_name[part.strip("{}")]
                assert field.GetOptions().Extensions[validate_pb2.field].required


class TestKeys:
    @every_method
    def test_every_write_has_an_idempotency_key(self, method: MethodDescriptor) -> None:
        keyed = "request_id" in method.input_type.fields_by_name
        if method.name in KEYED_BY_ITEM:
            line = method.input_type.fields_by_name[KEYED_BY_ITEM[method.name]]
            assert line.message_type
            options = line.message_type.fields_by_name["request_id"].GetOptions()
            assert (line.is_repeated, options.Extensions[validate_pb2.field].required, keyed) == (True, True, False)
            assert idempotency_level(method) == descriptor_pb2.MethodOptions.IDEMPOTENT
        elif not is_read(method) and method.name not in IDEMPOTENT_WITHOUT_KEY:
            assert keyed

    @every_method
    def test_key_is_required_where_money_moves(self, method: MethodDescriptor) -> None:
        if method.name in MONEY_MOVES:
            options = method.input_type.fields_by_name["request_id"].GetOptions()
            assert options.Extensions[validate_pb2.field].required
            assert idempotency_level(method) == descriptor_pb2.MethodOptions.IDEMPOTENT

    @every_method
    def test_every_method_has_its_own_request_message(self, method: MethodDescriptor) -> None:
        assert method.input_type.name == f"{method.name}Request"

    @every_method
    def test_lists_are_paginated(self, method: MethodDescriptor) -> None:
        if method.name.startswith("List"):
            assert {"page_size", "page_token"} <= set(method.input_type.fields_by_name)
            assert "next_page_token" in method.output_type.fields_by_name
            assert method.output_type.name == f"{method.name}Response"
            assert "PAGE_TOKEN_INVALID" in contract.errors(method)

    @every_method
    def test_updates_have_mask_and_etag(self, method: MethodDescriptor) -> None:
        if method.name.startswith("Update"):
            assert {"update_mask", "etag"} <= set(method.input_type.fields_by_name)
            assert "etag" in method.output_type.fields_by_name
            assert "ETAG_MISMATCH" in contract.errors(method)


class TestReasons:
    @every_method
    def test_declared_reasons_exist(self, method: MethodDescriptor) -> None:
        assert set(contract.errors(method)) <= set(contract.reasons())
        assert len(set(contract.errors(method))) == len(contract.errors(method))

    @pytest.mark.parametrize(("reason", "code"), contract.reasons().items())
    def test_every_reason_has_a_code(self, reason: str, code: str) -> None:
        assert code in StatusCode.__members__

    @pytest.mark.parametrize("service", SERVICES)
    def test_errors_of_a_service_are_documented_with_their_code(self, service: str) -> None:
        own = codes(*contract.modules(service, "errors"))
        assert set(own) <= contract.reasons_of(f"billing.{service}.v1")
        assert own.items() <= contract.reasons().items()

    @pytest.mark.parametrize("service", SERVICES)
    def test_documented_reasons_are_errors_of_the_service_or_forwarded(self, service: str) -> None:
        others = [module for other in SERVICES for module in contract.modules(other, "errors")]
        raised = codes(*others, kit_rates)
        for reason in contract.reasons_of(f"billing.{service}.v1"):
            assert raised[reason] == contract.reasons()[reason]

    @pytest.mark.parametrize("service", SERVICES)
    def test_every_reason_of_a_service_is_declared_by_a_method(self, service: str) -> None:
        named = {
            reason
            for method in contract.methods()
            if contract.service_of(method) == service
            for reason in contract.errors(method)
        }
        assert contract.reasons_of(f"billing.{service}.v1") <= named

    def test_common_reasons_and_errors_match(self) -> None:
        errors = [*errors_in(kit_errors), *errors_in(rendering_errors), *errors_in(operations), *errors_in(audit)]
        codes = {kind.reason: kind.code.name for kind in errors}
        assert set(codes) == contract.reasons_of("billing.type.v1")
        assert codes == {reason: code for reason, code in contract.reasons().items() if reason in codes}

    @every_method
    def test_declared_reasons_are_of_the_own_service(self, method: MethodDescriptor) -> None:
        own = contract.reasons_of(f"billing.{contract.service_of(method)}.v1")
        assert set(contract.errors(method)) <= own | contract.reasons_of("billing.type.v1")


def codes(*modules: ModuleType) -> dict[str, str]:
    """Return the gRPC code of each reason that the modules define."""
    return {kind.reason: kind.code.name for module in modules for kind in errors_in(module)}


def errors_in(module: ModuleType) -> Iterator[type[BillingError]]:
    """Yield the error classes that a module defines, without abstract base classes."""
    for _, kind in inspect.getmembers(module, inspect.isclass):
        if issubclass(kind, BillingError) and kind.__module__ == module.__name__ and not is_base_class(kind):
            yield kind


def is_base_class(kind: type[BillingError]) -> bool:
    return "reason" not in vars(kind) and kind is not kit_errors.Internal


class TestConventions:
    @every_message
    def test_field_names_and_types_follow_the_conventions(self, message: Descriptor) -> None:
        for field in message.fields:
            kind = field.message_type.full_name if field.message_type else ""
            assert field.type not in {FieldDescriptor.TYPE_FLOAT, FieldDescriptor.TYPE_DOUBLE}, field.full_name
            assert field.type not in {FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_UINT64}, field.full_name
            assert field.name.endswith("_time") == (kind == "google.protobuf.Timestamp"), field.full_name
            if field.name.endswith("_date"):
                assert field.type == FieldDescriptor.TYPE_STRING, field.full_name
            if field.name.endswith("_bp"):
                assert field.type == FieldDescriptor.TYPE_INT32, field.full_name
            if field.name == "amount" and message.full_name != "billing.type.v1.Money":
                assert kind == "billing.type.v1.Money", field.full_name

    @every_message
    def test_every_text_of_a_request_is_limited(self, message: Descriptor) -> None:
        if not message.name.endswith("Request"):
            return
        for field in message.fields:
            rules = field.GetOptions().Extensions[validate_pb2.field]
            if field.type == FieldDescriptor.TYPE_STRING and not field.is_repeated:
                text = rules.string
                assert text.max_len or text.pattern or text.uuid, field.full_name
            elif field.message_type and field.message_type.GetOptions().map_entry:
                assert rules.map.max_pairs, field.full_name
            elif field.is_repeated:
                assert rules.repeated.max_items, field.full_name

    @every_enum
    def test_enums_begin_with_unspecified(self, enum: EnumDescriptor) -> None:
        assert enum.values_by_number[0].name.endswith("_UNSPECIFIED")

    def test_everything_has_a_comment(self) -> None:
        """Services, methods and messages have comments; requests and responses are described by their method."""
        files = [file for file in loaded.descriptor_set().file if file.package.startswith(("billing.", "platform."))]
        undocumented = [place for file in files for place in undocumented_elements(file)]
        assert not undocumented

    def test_every_extension_of_ours_is_used(self) -> None:
        assert contract.permission(contract.methods()[0])
        assert options_pb2.code.full_name == "billing.options.v1.code"


def undocumented_elements(file: descriptor_pb2.FileDescriptorProto) -> Iterator[str]:
    documented = {tuple(place.path) for place in file.source_code_info.location if place.leading_comments.strip()}
    for number, service in enumerate(file.service):
        if (6, number) not in documented:
            yield f"{file.name}: {service.name}"
        for place, method in enumerate(service.method):
            if (6, number, 2, place) not in documented:
                yield f"{file.name}: {service.name}.{method.name}"
    for number, message in enumerate(file.message_type):
        if (4, number) not in documented and not message.name.endswith(("Request", "Response")):
            yield f"{file.name}: {message.name}"
