"""The contract holds together: every RPC is served, guarded, reachable and told; every reason has its error."""

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
from kit import errors as kit_errors
from kit import rates as kit_rates
from kit.auth import ROLES
from kit.errors import BillingError
from kit.settings import Settings
from serving import audit, operations
from serving.calls import CallPipeline, Servicer
from tests.contract import contract
from tests.contract.source import SERVICES
from tests.harness.services import Approvals, Budgets, Entities, Served
from tests.kit.conftest import NoScopes

BASE = "/api/enterprise-billing"

PROMISED = {
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
"""What existing clients rely on: path, verb and meaning are fixed."""

ALSO = {
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
    ("POST", "/budgets/{id}/rollover"): "RolloverBudget",
}
"""The other routes of these services that the API describes."""

INTERNAL = {
    "GetEntities", "GetDepartments", "ResolveScope", "GetVersion", "ListDeadLetters", "RedriveDeadLetter", "GetRates",
    "SummarizeBudgets", "SummarizeContracts", "StreamEntries", "SummarizeCosts", "StreamAllocations", "GetLineage",
    "ReviewFunds", "HoldForApproval", "ReleaseForApproval", "CheckApprovalNeed", "OpenApproval", "SummarizeApprovals",
    "WatchApprovals",
}  # fmt: skip
"""What has no route: for our own services, and for operators over gRPC."""

MONEY_MOVES = {
    "Charge", "RefundCharge", "CreateHold", "CommitHold", "CaptureHold", "ReleaseHold", "TransferBudget",
    "RolloverBudget", "SplitCost",
    "AllocateCost", "BatchAllocateCosts", "ReverseAllocation", "CreateApproval", "OpenApproval", "HoldForApproval",
}  # fmt: skip
KEYED_BY_LINE = {"BatchCharge": "charges"}
"""Writes without a key of their own, since each of their lines has one."""
REPEATABLE_BY_NATURE = {"RedriveDeadLetter", "ReleaseForApproval"}
"""Writes without a key: done again they find nothing to do."""

OF_WHO_DECIDES = {"ListDelegations"}
"""Reads that are for those only who also write."""

every_method = pytest.mark.parametrize("method", contract.methods(), ids=lambda method: method.full_name)
every_message = pytest.mark.parametrize("message", contract.messages(), ids=lambda message: message.full_name)
every_enum = pytest.mark.parametrize("enum", contract.enums(), ids=lambda enum: enum.full_name)


def level(method: MethodDescriptor) -> int:
    return int(method.GetOptions().idempotency_level)


def is_read(method: MethodDescriptor) -> bool:
    return level(method) == descriptor_pb2.MethodOptions.NO_SIDE_EFFECTS


class TestServed:
    @pytest.mark.parametrize("service", SERVICES)
    def test_every_rpc_is_implemented_as_its_proto_says(
        self, service: str, settings: Callable[[str], Settings]
    ) -> None:
        doors = contract.modules(service, "rpc")
        inside = [kind for door in doors for _, kind in inspect.getmembers(door, inspect.isclass)]
        servicers = [kind for kind in inside if hasattr(kind, "service")]
        served = {kind.service.full_name for kind in servicers}
        wanted = {found.full_name for found in contract.services() if found.file.package == f"billing.{service}.v1"}
        assert served == wanted
        calls = CallPipeline(settings(service), NoScopes())
        for kind in servicers:
            calls.handler_for(cast("Servicer", kind))  # raises where one is missing or differs; the class is enough
        assert {name for kind in servicers for name in public_methods(kind)} <= {
            method.name for method in contract.methods()
        }

    async def test_every_service_is_composed(
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
        own = {found for found in contract.services() if found.full_name.split(".")[1] not in loaded.COMMON_APIS}
        assert composed == own


def public_methods(kind: type) -> set[str]:
    return {name for name, _ in inspect.getmembers(kind, inspect.isfunction) if not name.startswith("_")}


class TestGuarded:
    @every_method
    def test_a_role_grants_its_permission(self, method: MethodDescriptor) -> None:
        granted = frozenset().union(*ROLES.values())
        assert contract.permission(method) in granted

    @every_method
    def test_the_permission_fits_what_it_does(self, method: MethodDescriptor) -> None:
        permission = contract.permission(method)
        if permission != "service" and not permission.endswith(".admin") and method.name not in OF_WHO_DECIDES:
            assert permission.endswith(".read") == is_read(method)

    @every_method
    def test_internal_methods_and_no_others_are_for_services(self, method: MethodDescriptor) -> None:
        if contract.permission(method) == "service":
            assert method.name in INTERNAL
        assert (contract.route(method) is None) == (method.name in INTERNAL)


class TestRoutes:
    def test_every_route_is_there_and_means_the_same(self) -> None:
        routes = {contract.route(method): method.name for method in contract.methods() if contract.route(method)}
        for (verb, path), name in {**PROMISED, **ALSO}.items():
            assert routes[verb, BASE + path] == name

    def test_no_two_methods_share_a_route(self) -> None:
        routes = [contract.route(method) for method in contract.methods() if contract.route(method)]
        assert len(set(routes)) == len(routes)

    @every_method
    def test_get_reads_and_what_writes_is_no_get(self, method: MethodDescriptor) -> None:
        route = contract.route(method)
        if route and route[0] == "GET":
            assert is_read(method)
        if route:
            assert route[1].startswith(BASE)

    @every_method
    def test_path_fields_are_fields_that_are_required(self, method: MethodDescriptor) -> None:
        _, path = contract.route(method) or ("", "")
        for part in path.split("/"):
            if part.startswith("{"):
                field = method.input_type.fields_by_name[part.strip("{}")]
                assert field.GetOptions().Extensions[validate_pb2.field].required


class TestKeys:
    @every_method
    def test_every_write_takes_a_key(self, method: MethodDescriptor) -> None:
        keyed = "request_id" in method.input_type.fields_by_name
        if method.name in KEYED_BY_LINE:
            line = method.input_type.fields_by_name[KEYED_BY_LINE[method.name]]
            assert line.message_type
            options = line.message_type.fields_by_name["request_id"].GetOptions()
            assert (line.is_repeated, options.Extensions[validate_pb2.field].required, keyed) == (True, True, False)
            assert level(method) == descriptor_pb2.MethodOptions.IDEMPOTENT
        elif not is_read(method) and method.name not in REPEATABLE_BY_NATURE:
            assert keyed

    @every_method
    def test_where_money_moves_the_key_is_required(self, method: MethodDescriptor) -> None:
        if method.name in MONEY_MOVES:
            options = method.input_type.fields_by_name["request_id"].GetOptions()
            assert options.Extensions[validate_pb2.field].required
            assert level(method) == descriptor_pb2.MethodOptions.IDEMPOTENT

    @every_method
    def test_the_request_is_its_own(self, method: MethodDescriptor) -> None:
        assert method.input_type.name == f"{method.name}Request"

    @every_method
    def test_lists_are_paged(self, method: MethodDescriptor) -> None:
        if method.name.startswith("List"):
            assert {"page_size", "page_token"} <= set(method.input_type.fields_by_name)
            assert "next_page_token" in method.output_type.fields_by_name
            assert method.output_type.name == f"{method.name}Response"
            assert "PAGE_TOKEN_INVALID" in contract.errors(method)

    @every_method
    def test_updates_name_fields_and_etag(self, method: MethodDescriptor) -> None:
        if method.name.startswith("Update"):
            assert {"update_mask", "etag"} <= set(method.input_type.fields_by_name)
            assert "etag" in method.output_type.fields_by_name
            assert "ETAG_MISMATCH" in contract.errors(method)


class TestReasons:
    @every_method
    def test_the_reasons_that_it_names_exist(self, method: MethodDescriptor) -> None:
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
    def test_every_reason_of_a_service_is_named_by_one_of_its_methods(self, service: str) -> None:
        named = {
            reason
            for method in contract.methods()
            if contract.room(method) == service
            for reason in contract.errors(method)
        }
        assert contract.reasons_of(f"billing.{service}.v1") <= named

    def test_every_common_reason_has_its_error_and_the_other_way_round(self) -> None:
        found = [*errors_in(kit_errors), *errors_in(operations), *errors_in(audit)]
        made = {kind.reason: kind.code.name for kind in found}
        assert set(made) == contract.reasons_of("billing.type.v1")
        assert made == {reason: code for reason, code in contract.reasons().items() if reason in made}

    @every_method
    def test_no_service_names_the_reason_of_another(self, method: MethodDescriptor) -> None:
        known = contract.reasons_of("billing.type.v1") | contract.reasons_of(f"billing.{contract.room(method)}.v1")
        assert set(contract.errors(method)) <= known


def codes(*modules: ModuleType) -> dict[str, str]:
    """Return the gRPC code of each reason that the modules define."""
    return {kind.reason: kind.code.name for module in modules for kind in errors_in(module)}


def errors_in(module: ModuleType) -> Iterator[type[BillingError]]:
    """The errors that a module makes, but for those that only stand above others."""
    for _, kind in inspect.getmembers(module, inspect.isclass):
        if issubclass(kind, BillingError) and kind.__module__ == module.__name__ and not above_others(kind):
            yield kind


def above_others(kind: type[BillingError]) -> bool:
    return "reason" not in vars(kind) and kind is not kit_errors.Internal


class TestHabits:
    @every_message
    def test_fields_are_named_and_typed_by_habit(self, message: Descriptor) -> None:
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
    def test_every_text_of_a_request_has_a_limit(self, message: Descriptor) -> None:
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

    def test_everything_is_told(self) -> None:
        """Services, methods and messages have a comment; what a request is, its method tells."""
        files = [file for file in loaded.descriptor_set().file if file.package.startswith(("billing.", "platform."))]
        silent = [place for file in files for place in silent_places(file)]
        assert not silent

    def test_every_extension_of_ours_is_used(self) -> None:
        assert contract.permission(contract.methods()[0])
        assert options_pb2.code.full_name == "billing.options.v1.code"


def silent_places(file: descriptor_pb2.FileDescriptorProto) -> Iterator[str]:
    told = {tuple(place.path) for place in file.source_code_info.location if place.leading_comments.strip()}
    for number, service in enumerate(file.service):
        if (6, number) not in told:
            yield f"{file.name}: {service.name}"
        for place, method in enumerate(service.method):
            if (6, number, 2, place) not in told:
                yield f"{file.name}: {service.name}.{method.name}"
    for number, message in enumerate(file.message_type):
        if (4, number) not in told and not message.name.endswith(("Request", "Response")):
            yield f"{file.name}: {message.name}"
