"""Test driver for allocation rules, splits and the allocations that they create."""

from collections.abc import Sequence
from itertools import count
from typing import Any

from billing.entities.v1 import allocation_rule_service_pb2 as pb
from billing.entities.v1 import allocation_service_pb2 as allocations_pb
from billing.entities.v1.allocation_pb2 import Allocation
from billing.entities.v1.allocation_rule_pb2 import AllocationRule, AllocationTarget, CostSplit
from billing.entities.v1.department_pb2 import Department

from tests.entities.allocation_api import money, money_text
from tests.entities.entities_api import _id
from tests.entities.tree_api import TreeApi
from tests.harness.callers import Caller
from tests.harness.services import Entities

_numbers = count(1)


class RulesApi(TreeApi):
    """Calls AllocationRuleService and AllocationService on behalf of a caller."""

    def __init__(self, caller: Caller, stubs: Entities) -> None:
        super().__init__(caller, stubs)
        self.rules_stub = stubs.allocation_rules
        self.allocations_stub = stubs.allocations

    async def create_rule(self, *targets: AllocationTarget, **fields: Any) -> AllocationRule:
        """Create a rule, by default EVEN, without source, effective from 2026-01-01."""
        return await self.caller.call(self.rules_stub.CreateAllocationRule, rule_request(*targets, **fields))

    async def get_rule(self, rule: AllocationRule | str) -> AllocationRule:
        request = pb.GetAllocationRuleRequest(id=rule_id(rule))
        return await self.caller.call(self.rules_stub.GetAllocationRule, request)

    async def list_rule_names(self, **filters: Any) -> list[str]:
        """The names of all rules that match."""
        request = pb.ListAllocationRulesRequest(page_size=1000, **filters)
        response = await self.caller.call(self.rules_stub.ListAllocationRules, request)
        return [rule.name for rule in response.allocation_rules]

    async def update_rule(self, rule: AllocationRule | str, **fields: Any) -> AllocationRule:
        request = pb.UpdateAllocationRuleRequest(id=rule_id(rule), **fields)
        return await self.caller.call(self.rules_stub.UpdateAllocationRule, request)

    async def delete_rule(self, rule: AllocationRule | str, **fields: Any) -> AllocationRule:
        request = pb.DeleteAllocationRuleRequest(id=rule_id(rule), **fields)
        return await self.caller.call(self.rules_stub.DeleteAllocationRule, request)

    async def split(self, amount: str = "", **fields: Any) -> CostSplit:
        """Split a cost such as "100.00 EUR", by default dated 2026-03-10."""
        return await self.caller.call(self.rules_stub.SplitCost, split_request(amount, **fields))

    async def reverse_split(self, split: CostSplit | str, **fields: Any) -> CostSplit:
        values = {"reason": "Wrong headcount", "request_id": f"undo-{next(_numbers)}", **fields}
        request = pb.ReverseCostSplitRequest(id=split if isinstance(split, str) else split.id, **values)
        return await self.caller.call(self.rules_stub.ReverseCostSplit, request)

    async def list_splits(self, **filters: Any) -> list[CostSplit]:
        """All splits that match."""
        request = pb.ListCostSplitsRequest(page_size=1000, **filters)
        return list((await self.caller.call(self.rules_stub.ListCostSplits, request)).cost_splits)

    async def allocate(self, department: Department, amount: str, **fields: Any) -> Allocation:
        """Allocate a cost such as "100.00 EUR", by default dated 2026-03-10."""
        values = {"allocation_date": "2026-03-10", "request_id": f"cost-{next(_numbers)}", **fields}
        request = allocations_pb.AllocateCostRequest(id=department.id, amount=money(amount), **values)
        return await self.caller.call(self.allocations_stub.AllocateCost, request)

    async def reverse(self, allocation: Allocation, **fields: Any) -> Allocation:
        values = {"reason": "mistaken", "request_id": f"back-{next(_numbers)}", **fields}
        request = allocations_pb.ReverseAllocationRequest(id=allocation.id, **values)
        return await self.caller.call(self.allocations_stub.ReverseAllocation, request)

    async def allocations_of_all(self, *departments: Department) -> list[Allocation]:
        """The allocations to these departments, in their order."""
        return [allocation for department in departments for allocation in await self.allocations_of(department)]

    async def allocations_of(self, department: Department | str) -> list[Allocation]:
        """The allocations to a department."""
        request = allocations_pb.ListAllocationsRequest(id=_id(department), page_size=1000)
        return list((await self.caller.call(self.allocations_stub.ListAllocations, request)).allocations)


def rule_request(*targets: AllocationTarget, **fields: Any) -> pb.CreateAllocationRuleRequest:
    """With the required fields."""
    required = {"name": "Rent", "rule_type": AllocationRule.EVEN, "effective_from_date": "2026-01-01"}
    return pb.CreateAllocationRuleRequest(targets=targets, **{**required, **fields})


def split_request(amount: str = "", **fields: Any) -> pb.SplitCostRequest:
    """With the required fields, and another key and `source_ref` each time."""
    number = next(_numbers)
    values: dict[str, Any] = {"request_id": f"split-{number}"}
    if amount:
        values |= {"amount": money(amount), "allocation_date": "2026-03-10", "source_ref": f"bill-{number}"}
    return pb.SplitCostRequest(**{**values, **fields})


def terms(*targets: AllocationTarget, **fields: Any) -> pb.SplitTerms:
    """Terms of a split without a rule, EVEN by default."""
    return pb.SplitTerms(targets=targets, **{"rule_type": AllocationRule.EVEN, **fields})


def target(department: Department | str, *, percent: int = 0, weight: str = "") -> AllocationTarget:
    """A target with basis points or a weight."""
    return AllocationTarget(department_id=_id(department), percent_bp=percent, weight=weight)


def even(*departments: Department) -> Sequence[AllocationTarget]:
    """Targets without basis points and weight."""
    return [target(department) for department in departments]


def rule_id(rule: AllocationRule | str) -> str:
    return rule if isinstance(rule, str) else rule.id


def amounts(split: CostSplit) -> list[str]:
    """The amount of each share."""
    return [money_text(share.amount) for share in split.shares]
