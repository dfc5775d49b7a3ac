"""Use cases of cost reports."""

from collections.abc import Sequence
from datetime import date

from kit import clock, dates
from kit.db import ReadSession
from kit.rates import RateMissing
from services.entities import domain, service, store
from services.entities.domain.costs import (
    AppliedRate,
    CostSummary,
    CostSummaryQuery,
    DepartmentCostQuery,
    DepartmentCosts,
)
from services.entities.domain.entities import TIME_ZONE_DEFAULT
from services.entities.domain.rates import Conversion


async def get_of_department(tx: ReadSession, query: DepartmentCostQuery) -> DepartmentCosts:
    """Return the costs of a department by group, and their total.

    Raises DepartmentNotFound, RateMissing, TooManyCostGroups.
    """
    department = await store.departments.get(tx, query.department_id)
    entity = await store.entities.get_of_department(tx, department)
    subtotals = await store.costs.sum_department(tx, query)
    domain.costs.check_group_count(subtotals)
    today = dates.date_in(entity.time_zone, clock.now())
    currency = query.currency or entity.currency_code
    (rate,) = await _find_rates(tx, [entity.currency_code], currency, query.end, today)
    groups = domain.costs.group_sums(subtotals)
    converted = domain.costs.convert_sums([each for _, each in groups], rate)
    groups = [(key, each) for (key, _), each in zip(groups, converted, strict=True)]
    total = domain.costs.total(converted)
    return DepartmentCosts(entity.id, groups if query.group_by else [], total, rate)


async def summarize(tx: ReadSession, query: CostSummaryQuery) -> tuple[Sequence[CostSummary], Sequence[AppliedRate]]:
    """Return the costs of entities by group, and the rates that they were converted at.

    Raises RateMissing and TooManyCostGroups.
    """
    subtotals = await store.costs.sum_entities(tx, query)
    domain.costs.check_group_count(subtotals)
    if not query.currency:
        return [CostSummary(subtotal, None) for subtotal in subtotals], []
    currencies = sorted({subtotal.currency for subtotal in subtotals})
    today = dates.date_in(TIME_ZONE_DEFAULT, clock.now())
    applied = await _find_rates(tx, currencies, query.currency, query.end, today)
    rates = {each.conversion.source: each.rate.rate for each in applied}
    converted = domain.costs.convert_all(
        [each.cost for each in subtotals], [rates[each.currency] for each in subtotals], query.currency
    )
    return [CostSummary(*each) for each in zip(subtotals, converted, strict=True)], applied


async def _find_rates(
    tx: ReadSession, currencies: Sequence[str], target: str, end: date, today: date
) -> Sequence[AppliedRate]:
    day = domain.costs.conversion_date(end, today)
    conversions = [Conversion(currency, target, day) for currency in currencies]
    applied = []
    for conversion, rate in zip(conversions, await service.rates.find(tx, conversions), strict=True):
        if rate is None:
            raise RateMissing(conversion.source, to=target, on=day)
        applied.append(AppliedRate(conversion, rate))
    return applied
