"""Conversion of cost reports."""

from collections.abc import Sequence
from datetime import date, datetime
from typing import Any
from uuid import UUID

from billing.entities.v1 import cost_pb2
from billing.entities.v1 import cost_service_pb2 as pb
from billing.entities.v1.exchange_rate_pb2 import ConversionRate

from contract.values import money_to_proto, time_or_none
from kit import ids
from kit.money import Money
from services.entities import convert
from services.entities.domain.costs import (
    AllocationStreamQuery,
    AppliedRate,
    CostSum,
    CostSummary,
    CostSummaryQuery,
    DepartmentCostQuery,
    DepartmentCosts,
    DepartmentGroupBy,
    GroupKey,
    SummaryGroupBy,
    Tree,
)


def department_query_from_proto(request: pb.GetDepartmentCostsRequest) -> DepartmentCostQuery:
    """Parse GetDepartmentCostsRequest."""
    return DepartmentCostQuery(
        department_id=ids.DEPARTMENT.parse(request.id),
        start=date.fromisoformat(request.start_date),
        end=date.fromisoformat(request.end_date),
        group_by=[DepartmentGroupBy(cost_pb2.DepartmentCosts.GroupBy.Name(each)) for each in request.group_by],
        include_descendants=request.include_descendants,
        tree=Tree(cost_pb2.DepartmentCosts.Tree.Name(request.tree or cost_pb2.DepartmentCosts.POSTED)),
        currency=request.currency_code,
    )


def department_costs_to_proto(query: DepartmentCostQuery, costs: DepartmentCosts) -> cost_pb2.DepartmentCosts:
    """Convert the costs of a department."""
    currency = costs.rate.conversion.target
    return cost_pb2.DepartmentCosts(
        department_id=ids.DEPARTMENT.format(query.department_id),
        entity_id=ids.ENTITY.format(costs.entity_id),
        start_date=query.start.isoformat(),
        end_date=query.end.isoformat(),
        tree=cost_pb2.DepartmentCosts.Tree.Value(query.tree),
        include_descendants=query.include_descendants,
        group_by=[cost_pb2.DepartmentCosts.GroupBy.Value(each) for each in query.group_by],
        total=_sum_to_proto(costs.total, currency),
        groups=[
            cost_pb2.CostGroup(**_key_fields(query.group_by, key), sum=_sum_to_proto(each, currency))
            for key, each in costs.groups
        ],
        conversion_rate=rate_to_proto(costs.rate),
    )


def _sum_to_proto(cost_sum: CostSum, currency: str) -> cost_pb2.CostSum:
    return cost_pb2.CostSum(
        cost=money_to_proto(Money(cost_sum.cost, currency)),
        allocation_count=cost_sum.allocations,
        reversal_count=cost_sum.reversals,
        originals=[money_to_proto(Money(amount, code)) for code, amount in cost_sum.originals.items()],
    )


def rate_to_proto(applied: AppliedRate) -> ConversionRate:
    """Convert the rate of a report."""
    return convert.rates.conversion_to_proto(applied.conversion, applied.rate)


def summary_query_from_proto(request: pb.SummarizeCostsRequest) -> CostSummaryQuery:
    """Parse SummarizeCostsRequest."""
    return CostSummaryQuery(
        entity_ids=[ids.ENTITY.parse(entity_id, "entity_ids") for entity_id in request.entity_ids],
        start=date.fromisoformat(request.start_date),
        end=date.fromisoformat(request.end_date),
        group_by=[SummaryGroupBy(cost_pb2.CostSummary.GroupBy.Name(each)) for each in request.group_by],
        currency=request.currency_code,
    )


def summary_to_proto(query: CostSummaryQuery, summary: CostSummary) -> cost_pb2.CostSummary:
    """Convert one group of a cost summary."""
    subtotal = summary.subtotal
    return cost_pb2.CostSummary(
        **_key_fields(query.group_by, subtotal.key),
        cost=money_to_proto(Money(subtotal.cost, subtotal.currency)),
        converted_cost=money_to_proto(summary.converted) if summary.converted else None,
        allocation_count=subtotal.entries - subtotal.reversals,
        reversal_count=subtotal.reversals,
    )


def _key_fields(group_by: Sequence[DepartmentGroupBy] | Sequence[SummaryGroupBy], key: GroupKey) -> dict[str, Any]:
    """Return the key as fields of CostGroup and CostSummary."""
    fields: dict[str, Any] = {}
    for each, value in zip(group_by, key, strict=True):
        match value:
            case UUID() | None:
                kind = ids.ENTITY if each == "ENTITY" else ids.DEPARTMENT
                fields[kind.field] = kind.format_optional(value)
            case date():
                fields["month"] = value.isoformat()[:7]
            case text:
                fields[each.lower()] = text
    return fields


def stream_query_from_proto(request: pb.StreamAllocationsRequest, default_end: datetime) -> AllocationStreamQuery:
    """Parse StreamAllocationsRequest; without an end time it ends at `default_end`."""
    return AllocationStreamQuery(
        start=time_or_none(request, "start_time"),
        end=time_or_none(request, "end_time") or default_end,
        entity_ids=[ids.ENTITY.parse(entity_id, "entity_ids") for entity_id in request.entity_ids],
        after=ids.ALLOCATION.parse_optional(request.last_event_id, "last_event_id"),
    )
