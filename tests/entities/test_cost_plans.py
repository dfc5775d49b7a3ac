"""Query plans for a million allocations: a part of them is never read by a sequential scan.

The statements of the store are explained as the serving role, under row-level security, with custom and with generic
plans. All rows belong to one tenant, which is the worst case: the tenant id excludes none. A report over most of the
table is not tested, since a sequential scan is the best plan for it.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Final
from uuid import UUID

import asyncpg
import pytest

from kit import ids
from kit.db import Database, ReadSession
from kit.settings import Settings
from services.entities import store
from services.entities.domain.allocations import AllocationPosition, AllocationQuery, AllocationSource
from services.entities.domain.commitments import UsageQuery
from services.entities.domain.costs import (
    AllocationStreamQuery,
    CostSummaryQuery,
    DepartmentCostQuery,
    DepartmentGroupBy,
    SummaryGroupBy,
    Tree,
)
from services.entities.domain.proration import DateRange
from tests.harness.costs import AFTER_LAST_DAY, FIRST_DAY, Group, insert_allocations, insert_group
from tests.harness.databases import Copy
from tests.harness.plans import Plans, Statement, TableReads

ALLOCATIONS: Final = 1_000_000
TABLE: Final = "cost_allocations"
Q1: Final = (date(2026, 1, 1), date(2026, 4, 1))
MARCH: Final = (date(2026, 3, 1), date(2026, 4, 1))
BOTH_YEARS: Final = (FIRST_DAY, AFTER_LAST_DAY)

Query = Callable[[ReadSession, Group], Awaitable[Sequence[Any]]]


@dataclass(frozen=True, slots=True)
class LoadedDatabase:
    """The database with the allocations."""

    group: Group
    plans: Plans

    async def run(self, query: Query) -> tuple[list[Statement], Sequence[Any]]:
        """The statements about allocations that the store sent, and the result."""
        statements, result = await self.plans.statements(lambda tx: query(tx, self.group))
        return [each for each in statements if TABLE in each[0]], result

    async def reads(self, statement: str, parameters: Sequence[Any]) -> list[TableReads]:
        """How the plans of the statement read the allocations."""
        return await self.plans.reads(statement, parameters, of_table=TABLE)


@pytest.fixture
async def loaded(
    fresh_database: Callable[[], Awaitable[Copy]], settings: Callable[..., Settings]
) -> AsyncIterator[LoadedDatabase]:
    copy = await fresh_database()
    admin = await asyncpg.connect(copy.admin_url)
    pool = Database(settings("entities", database=copy))
    connection = await asyncpg.connect(copy.url("entities_app"))
    try:
        group = await insert_group(admin)
        await insert_allocations(admin, group, ALLOCATIONS)
        yield LoadedDatabase(group, Plans(pool, connection, group.tenant_id))
    finally:
        await connection.close()
        await pool.close()
        await admin.close()


def department_costs(
    department_of: Callable[[Group], UUID],
    period: tuple[date, date],
    tree: Tree = Tree.POSTED,
    *group_by: DepartmentGroupBy,
    include_descendants: bool = True,
) -> Query:
    """GetDepartmentCosts."""

    def run(tx: ReadSession, group: Group) -> Awaitable[Sequence[Any]]:
        query = DepartmentCostQuery(
            department_id=department_of(group), start=period[0], end=period[1], group_by=group_by,
            include_descendants=include_descendants, tree=tree,
        )  # fmt: skip
        return store.costs.sum_department(tx, query)

    return run


def cost_summary(entities: int, period: tuple[date, date], *group_by: SummaryGroupBy) -> Query:
    """SummarizeCosts of a number of entities; 0: of all."""

    def run(tx: ReadSession, group: Group) -> Awaitable[Sequence[Any]]:
        entity_ids = group.entity_ids[:entities]
        query = CostSummaryQuery(entity_ids=entity_ids, start=period[0], end=period[1], group_by=group_by)
        return store.costs.sum_entities(tx, query)

    return run


def stream(start: datetime | None, entities: int = 0) -> Query:
    """A batch of StreamAllocations."""

    def run(tx: ReadSession, group: Group) -> Awaitable[Sequence[Any]]:
        end, entity_ids = datetime(2027, 1, 1, tzinfo=UTC), group.entity_ids[:entities]
        query = AllocationStreamQuery(start=start, end=end, entity_ids=entity_ids, after=None)
        return store.costs.list_allocations(tx, query, None, 500)

    return run


def list_page(departments: Callable[[Group], list[UUID]], **filters: Any) -> Query:
    """A page of ListAllocations."""

    def run(tx: ReadSession, group: Group) -> Awaitable[Sequence[Any]]:
        ids = departments(group)
        query = AllocationQuery(department_id=ids[0], include_descendants=True, limit=51, **filters)
        return store.allocations.list_newest(tx, query, ids)

    return run


def weights(departments: Callable[[Group], list[UUID]], *, category: str = "") -> Query:
    """The weights of SplitCost by usage."""

    async def run(tx: ReadSession, group: Group) -> Sequence[Any]:
        sums = await store.allocation_rules.sum_usage(
            tx, departments(group), unit="GB", category=category, start=MARCH[0], end=MARCH[1]
        )
        return list(sums)

    return run


def contract_usage(start: date, end: date) -> Query:
    """CheckRenewal: usage in the term so far."""

    def run(tx: ReadSession, group: Group) -> Awaitable[Sequence[Any]]:
        middle = start + (end - start) / 2
        unlinked = [DateRange(start, middle), DateRange(middle, end)]
        query = UsageQuery(
            contract_id=ids.new(), entity_id=group.entity_ids[3], currency="EUR", unlinked=unlinked
        )  # fmt: skip
        return store.commitments.sum_usage(tx, query)

    return run


def usage_documents(*records: str) -> Query:
    """The allocations of usage records."""

    async def run(tx: ReadSession, _: Group) -> Sequence[Any]:
        documents = [(AllocationSource.USAGE, record) for record in records]
        return list((await store.allocations.find_by_documents(tx, documents)).values())

    return run


def top(group: Group) -> UUID:
    return group.top_ids[3]


def middle(group: Group) -> UUID:
    return group.middle_ids[3][1]


def bottom(group: Group) -> UUID:
    return group.lowest_ids[3][2]


def all_of_entity(group: Group) -> list[UUID]:
    return group.lowest_ids[3]


MONTH, CATEGORY, DEPARTMENT = DepartmentGroupBy.MONTH, DepartmentGroupBy.CATEGORY, DepartmentGroupBy.DEPARTMENT
BY_DEPARTMENT, BY_CATEGORY = "cost_allocations_department_idx", "cost_allocations_category_idx"
BY_ENTITY, BY_DAY, BY_ID = "cost_allocations_entity_idx", "cost_allocations_day_idx", "cost_allocations_pkey"
BY_CONTRACT = "cost_allocations_contract_idx"
BY_CORRECTION: Final = "cost_allocations_correction_idx"
LATE: Final = AllocationPosition(date(2026, 11, 2), ids.new())

QUERIES: Final[dict[str, tuple[Query, set[str], int]]] = {
    "costs, POSTED, by month": (department_costs(middle, Q1, Tree.POSTED, MONTH), {BY_DEPARTMENT}, 1_000),
    "costs, CURRENT, by month": (department_costs(middle, Q1, Tree.CURRENT, MONTH), {BY_DEPARTMENT}, 1_000),
    "costs, POSTED, whole entity, both years": (
        department_costs(top, BOTH_YEARS, Tree.POSTED, CATEGORY, DEPARTMENT), {BY_DEPARTMENT}, 26_000,
    ),
    "costs, CURRENT, whole entity, both years": (
        department_costs(top, BOTH_YEARS, Tree.CURRENT), {BY_DEPARTMENT}, 26_000,
    ),
    "costs of a department alone": (department_costs(bottom, MARCH, include_descendants=False), {BY_DEPARTMENT}, 80),
    "summary of three entities": (cost_summary(3, Q1, SummaryGroupBy.MONTH), {BY_ENTITY}, 10_000),
    "summary of all entities": (
        cost_summary(0, MARCH, SummaryGroupBy.ENTITY, SummaryGroupBy.CATEGORY), {BY_DAY, BY_ENTITY}, 43_000,
    ),
    "stream from a day": (stream(datetime(2026, 3, 1, tzinfo=UTC)), {BY_ID}, 520),
    "stream of an entity": (stream(None, entities=1), {BY_ID}, 25_000),
    "list": (list_page(lambda group: [bottom(group)]), {BY_DEPARTMENT}, 51),
    "list of an entity": (list_page(all_of_entity), {BY_DEPARTMENT}, 20 * 51),
    "list, later page": (list_page(all_of_entity, after=LATE), {BY_DEPARTMENT}, 20 * 52),
    "list of a month": (list_page(all_of_entity, start=MARCH[0], end=MARCH[1]), {BY_DEPARTMENT}, 20 * 51),
    "list of a category": (list_page(all_of_entity, category="category 4"), {BY_CATEGORY}, 20 * 51),
    "usage of a month": (weights(all_of_entity), {BY_DEPARTMENT}, 1_500),
    "usage of a category": (weights(all_of_entity, category="category 4"), {BY_DEPARTMENT, BY_CATEGORY}, 1_500),
    "usage under a contract": (
        contract_usage(*Q1), {BY_ENTITY, BY_CONTRACT, BY_CORRECTION, BY_DEPARTMENT, BY_ID}, 3_500,
    ),
    "list of a source": (list_page(all_of_entity, source=AllocationSource.USAGE), {BY_DEPARTMENT}, 20 * 51),
    "allocations of documents": (
        usage_documents("record 3", "record 300000", "record 1"), {"cost_allocations_document_key"}, 2,
    ),
}  # fmt: skip
"""Each query with the indexes of which it must use one or more, and the most allocations that it may read."""


async def test_queries_for_a_part_use_an_index(loaded: LoadedDatabase) -> None:
    """A single test, so that the rows are created once."""
    await check_that_a_sequential_scan_is_noticed(loaded)
    wrong = {}
    for name, (query, indexes, rows_max) in QUERIES.items():
        statements, result = await loaded.run(query)
        assert result, name
        ((statement, parameters),) = statements
        for read in await loaded.reads(statement, parameters):
            uses_index = bool(read.indexes) and read.indexes <= indexes
            if read.sequential_scans or not uses_index or not 0 < read.rows <= rows_max:
                wrong[name] = read, statement
    assert not wrong


async def check_that_a_sequential_scan_is_noticed(loaded: LoadedDatabase) -> None:
    whole = "select count(*) from cost_allocations where category = $1 and description <> ''"
    for read in await loaded.reads(whole, ["category 4"]):
        assert read.sequential_scans
        assert read.rows >= ALLOCATIONS - 9  # an average over parallel workers
