"""Costs: requests to what the store is asked, its answers to messages."""

from collections.abc import Sequence
from datetime import date, timedelta
from typing import Any, Final
from uuid import UUID

from billing.entities.v1 import cost_service_pb2 as pb
from billing.entities.v1.cost_pb2 import CostGroup, CostSum, CostSummary, DepartmentCosts
from billing.entities.v1.exchange_rate_pb2 import ConversionRate

from contract.values import money_to_proto, time_from_proto
from kit import clock, ids
from kit.money import Money
from services.entities import convert, domain, service
from services.entities.domain.costs import DepartmentGroupBy, Key, SummaryGroupBy, Tree
from services.entities.store.costs import DepartmentAsk, FeedAsk, SummaryAsk

_SETTLED: Final = timedelta(minutes=1)
"""Twice the time that a call may take: what began before has ended."""


def department_ask_from_proto(request: pb.GetDepartmentCostsRequest) -> DepartmentAsk:
    """What GetDepartmentCosts asks for."""
    return DepartmentAsk(
        department_id=ids.DEPARTMENT.parse(request.id),
        start=date.fromisoformat(request.start_date),
        end=date.fromisoformat(request.end_date),
        group_by=[DepartmentGroupBy(DepartmentCosts.GroupBy.Name(each)) for each in request.group_by],
        include_descendants=request.include_descendants,
        tree=Tree(DepartmentCosts.Tree.Name(request.tree or DepartmentCosts.POSTED)),
    )


def department_costs_to_proto(ask: DepartmentAsk, found: service.costs.DepartmentCosts) -> DepartmentCosts:
    """What a department cost."""
    currency = found.rate.conversion.target
    return DepartmentCosts(
        department_id=ids.DEPARTMENT.format(found.department.id),
        entity_id=ids.ENTITY.format(found.department.entity_id),
        start_date=ask.start.isoformat(),
        end_date=ask.end.isoformat(),
        tree=DepartmentCosts.Tree.Value(ask.tree),
        include_descendants=ask.include_descendants,
        group_by=[DepartmentCosts.GroupBy.Value(each) for each in ask.group_by],
        total=_sum_to_proto(found.total, currency),
        groups=[
            CostGroup(**_key_fields(ask.group_by, key), sum=_sum_to_proto(added, currency))
            for key, added in found.groups
        ],
        conversion_rate=rate_to_proto(found.rate),
    )


def _sum_to_proto(added: domain.costs.CostSum, currency: str) -> CostSum:
    return CostSum(
        cost=money_to_proto(Money(added.cost, currency)),
        allocation_count=added.allocations,
        reversal_count=added.reversals,
        originals=[money_to_proto(Money(amount, code)) for code, amount in added.originals.items()],
    )


def rate_to_proto(rate: service.costs.StatedRate) -> ConversionRate:
    """The rate that was taken."""
    return convert.rates.conversion_to_proto(rate.conversion, rate.found)


def summary_ask_from_proto(request: pb.SummarizeCostsRequest) -> SummaryAsk:
    """What SummarizeCosts asks for."""
    return SummaryAsk(
        entity_ids=[ids.ENTITY.parse(entity_id, "entity_ids") for entity_id in request.entity_ids],
        start=date.fromisoformat(request.start_date),
        end=date.fromisoformat(request.end_date),
        group_by=[SummaryGroupBy(CostSummary.GroupBy.Name(each)) for each in request.group_by],
    )


def summary_to_proto(ask: SummaryAsk, told: service.costs.Summarized) -> CostSummary:
    """Costs of one group whose books are in one currency."""
    summary = told.summary
    return CostSummary(
        **_key_fields(ask.group_by, summary.key),
        cost=money_to_proto(Money(summary.cost, summary.currency)),
        converted_cost=money_to_proto(told.converted) if told.converted else None,
        allocation_count=summary.entries - summary.reversals,
        reversal_count=summary.reversals,
    )


def _key_fields(group_by: Sequence[DepartmentGroupBy] | Sequence[SummaryGroupBy], key: Key) -> dict[str, Any]:
    """What the group is of, by the fields of CostGroup and CostSummary."""
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


def feed_ask_from_proto(request: pb.StreamAllocationsRequest) -> tuple[FeedAsk, UUID | None]:
    """What StreamAllocations asks for, and the allocation after which to begin."""
    ask = FeedAsk(
        start=time_from_proto(request.start_time) if request.HasField("start_time") else None,
        end=time_from_proto(request.end_time) if request.HasField("end_time") else clock.now() - _SETTLED,
        entity_ids=[ids.ENTITY.parse(entity_id, "entity_ids") for entity_id in request.entity_ids],
    )
    return ask, ids.ALLOCATION.parse_optional(request.last_event_id, "last_event_id")
