"""A api at which costs are split: rules are made, costs are split, and what everybody bears is looked up."""

from collections.abc import Sequence
from itertools import count
from typing import Any

from billing.entities.v1 import allocation_rule_service_pb2 as pb
from billing.entities.v1 import allocation_service_pb2 as allocations_pb
from billing.entities.v1.allocation_pb2 import Allocation
from billing.entities.v1.allocation_rule_pb2 import AllocationRule, AllocationTarget, CostSplit
from billing.entities.v1.department_pb2 import Department

from tests.entities.allocation_api import money, money_text
from tests.entities.conftest import _id
from tests.entities.tree_api import TreeApi
from tests.harness.callers import Caller
from tests.harness.services import Entities

_numbers = count(1)


class RulesApi(TreeApi):
    """What somebody does with rules and costs, in few words."""

    def __init__(self, who: Caller, stubs: Entities) -> None:
        super().__init__(who, stubs)
        self.rules_stub = stubs.allocation_rules
        self.allocations_stub = stubs.allocations

    async def rule(self, *targets: AllocationTarget, **given: Any) -> AllocationRule:
        """A new rule: EVEN, without a source, from the first of 2026 on, unless it is given."""
        return await self.caller.call(self.rules_stub.CreateAllocationRule, rule_request(*targets, **given))

    async def get_rule(self, rule: AllocationRule | str) -> AllocationRule:
        request = pb.GetAllocationRuleRequest(id=rule_id(rule))
        return await self.caller.call(self.rules_stub.GetAllocationRule, request)

    async def rules(self, **filters: Any) -> list[str]:
        """The names of all rules that fit."""
        request = pb.ListAllocationRulesRequest(page_size=1000, **filters)
        found = await self.caller.call(self.rules_stub.ListAllocationRules, request)
        return [rule.name for rule in found.allocation_rules]

    async def update_rule(self, rule: AllocationRule | str, **given: Any) -> AllocationRule:
        request = pb.UpdateAllocationRuleRequest(id=rule_id(rule), **given)
        return await self.caller.call(self.rules_stub.UpdateAllocationRule, request)

    async def delete_rule(self, rule: AllocationRule | str, **given: Any) -> AllocationRule:
        request = pb.DeleteAllocationRuleRequest(id=rule_id(rule), **given)
        return await self.caller.call(self.rules_stub.DeleteAllocationRule, request)

    async def split(self, amount: str = "", **given: Any) -> CostSplit:
        """Split "100.00 EUR" of the tenth of March 2026, unless it is given otherwise."""
        return await self.caller.call(self.rules_stub.SplitCost, split_request(amount, **given))

    async def splits(self, **filters: Any) -> list[CostSplit]:
        """All splits that fit."""
        request = pb.ListCostSplitsRequest(page_size=1000, **filters)
        return list((await self.caller.call(self.rules_stub.ListCostSplits, request)).cost_splits)

    async def allocate(self, department: Department, amount: str, **given: Any) -> Allocation:
        """A cost of a department: "100.00 EUR" of the tenth of March 2026, unless it is given otherwise."""
        fields = {"allocation_date": "2026-03-10", "request_id": f"cost-{next(_numbers)}", **given}
        request = allocations_pb.AllocateCostRequest(id=department.id, amount=money(amount), **fields)
        return await self.caller.call(self.allocations_stub.AllocateCost, request)

    async def reverse(self, allocation: Allocation, **given: Any) -> Allocation:
        """The reversal."""
        fields = {"reason": "mistaken", "request_id": f"back-{next(_numbers)}", **given}
        request = allocations_pb.ReverseAllocationRequest(id=allocation.id, **fields)
        return await self.caller.call(self.allocations_stub.ReverseAllocation, request)

    async def allocations_of_all(self, *departments: Department) -> list[Allocation]:
        """What was allocated to them, one after the other."""
        return [allocation for department in departments for allocation in await self.allocations_of(department)]

    async def allocations_of(self, department: Department | str) -> list[Allocation]:
        """What was allocated to a department."""
        request = allocations_pb.ListAllocationsRequest(id=_id(department), page_size=1000)
        return list((await self.caller.call(self.allocations_stub.ListAllocations, request)).allocations)


def rule_request(*targets: AllocationTarget, **given: Any) -> pb.CreateAllocationRuleRequest:
    """With what is required, unless it is given."""
    required = {"name": "Rent", "rule_type": AllocationRule.EVEN, "effective_from_date": "2026-01-01"}
    return pb.CreateAllocationRuleRequest(targets=targets, **{**required, **given})


def split_request(amount: str = "", **given: Any) -> pb.SplitCostRequest:
    """With what is required, unless it is given; every one has another key and another name of its cost."""
    number = next(_numbers)
    fields: dict[str, Any] = {"request_id": f"split-{number}"}
    if amount:
        fields |= {"amount": money(amount), "allocation_date": "2026-03-10", "source_ref": f"bill-{number}"}
    return pb.SplitCostRequest(**{**fields, **given})


def terms(*targets: AllocationTarget, **given: Any) -> pb.SplitTerms:
    """Targets that come with the cost; EVEN, unless it is given."""
    return pb.SplitTerms(targets=targets, **{"rule_type": AllocationRule.EVEN, **given})


def target(department: Department | str, *, percent: int = 0, weight: str = "") -> AllocationTarget:
    """A target with so many basis points or such a weight."""
    return AllocationTarget(department_id=_id(department), percent_bp=percent, weight=weight)


def even(*departments: Department) -> Sequence[AllocationTarget]:
    """Targets that bear the same."""
    return [target(department) for department in departments]


def rule_id(rule: AllocationRule | str) -> str:
    return rule if isinstance(rule, str) else rule.id


def amounts(split: CostSplit) -> list[str]:
    """What each target bears."""
    return [money_text(share.amount) for share in split.shares]
