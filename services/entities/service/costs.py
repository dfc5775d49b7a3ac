"""What can be asked about costs, as a finance person would say it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from kit import clock, dates
from kit.db import ReadSession
from kit.money import Money
from kit.rates import RateMissing
from services.entities import domain, service, store
from services.entities.domain.costs import CostSum, Key
from services.entities.domain.entities import TIME_ZONE_DEFAULT
from services.entities.domain.rates import DerivedRate
from services.entities.models.entities import DepartmentRow
from services.entities.service.rates import Conversion


@dataclass(frozen=True, slots=True)
class StatedRate:
    """A conversion and the rate that was taken for it."""

    conversion: Conversion
    found: DerivedRate


@dataclass(frozen=True, slots=True)
class DepartmentCosts:
    """What a department cost."""

    department: DepartmentRow
    groups: Sequence[tuple[Key, CostSum]]
    """None where nothing was to be grouped by."""
    total: CostSum
    rate: StatedRate
    """From the currency of the books into that of all sums."""


@dataclass(frozen=True, slots=True)
class Summarized:
    """Costs of one group whose books are in one currency."""

    summary: store.costs.Summary
    converted: Money | None
    """None where no other currency was asked for."""


async def get_of_department(tx: ReadSession, ask: store.costs.DepartmentAsk, *, currency: str) -> DepartmentCosts:
    """Add up what a department cost, in `currency` or, where that is empty, in the currency of its entity.

    Raises DepartmentNotFound, RateMissing, and TooManyCostGroups.
    """
    department = await store.departments.get(tx, ask.department_id)
    entity = await store.entities.get_of_department(tx, department)
    lines = await store.costs.sum_department(tx, ask)
    domain.costs.check_group_count(lines)
    today = dates.date_in(entity.time_zone, clock.now())
    (rate,) = await _stated_rates(tx, [entity.currency_code], currency or entity.currency_code, ask.end, today)
    groups = [(key, _converted(each, rate)) for key, each in domain.costs.group_sums(lines)]
    total = domain.costs.total(each for _, each in groups)
    return DepartmentCosts(department, groups if ask.group_by else [], total, rate)


def _converted(added: CostSum, rate: StatedRate) -> CostSum:
    cost = domain.costs.convert(added.cost, rate.found.rate, rate.conversion.target).amount
    return CostSum(cost, added.entries, added.reversals, added.originals)


async def summarize(
    tx: ReadSession, ask: store.costs.SummaryAsk, *, currency: str
) -> tuple[Sequence[Summarized], Sequence[StatedRate]]:
    """Add up costs of entities; in `currency` too unless that is empty, with the rates that were taken for it.

    Raises RateMissing and TooManyCostGroups.
    """
    found = await store.costs.sum_entities(tx, ask)
    domain.costs.check_group_count(found)
    if not currency:
        return [Summarized(summary, None) for summary in found], []
    of_books = sorted({summary.currency for summary in found})
    stated = await _stated_rates(tx, of_books, currency, ask.end, dates.date_in(TIME_ZONE_DEFAULT, clock.now()))
    rates = {each.conversion.source: each.found.rate for each in stated}
    told = [Summarized(each, domain.costs.convert(each.cost, rates[each.currency], currency)) for each in found]
    return told, stated


async def _stated_rates(
    tx: ReadSession, sources: Sequence[str], target: str, end: date, today: date
) -> Sequence[StatedRate]:
    day = domain.costs.conversion_date(end, today)
    conversions = [Conversion(source, target, day) for source in sources]
    stated = []
    for conversion, found in zip(conversions, await service.rates.find(tx, conversions), strict=True):
        if found is None:
            raise RateMissing(conversion.source, to=target, on=day)
        stated.append(StatedRate(conversion, found))
    return stated
