"""How PostgreSQL reads a million allocations: never from end to end for a part of them.

What is explained is what the store really asked, as the role that serves and under row-level security; once as it is
planned for the values, once as it is planned for any. All belongs to one tenant, which is the worst case: the tenant's
id rules out nothing. A report over most of the table is not here: reading all of it is the best plan for that.
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
from services.entities.domain.allocations import AllocationSource
from services.entities.domain.costs import DepartmentGroupBy, SummaryGroupBy, Tree
from tests.harness.costs import AFTER_LAST_DAY, FIRST_DAY, Group, insert_allocations, insert_group
from tests.harness.databases import Copy
from tests.harness.plans import Plans, Statement, TableReads

ALLOCATIONS: Final = 1_000_000
TABLE: Final = "cost_allocations"
Q1: Final = (date(2026, 1, 1), date(2026, 4, 1))
MARCH: Final = (date(2026, 3, 1), date(2026, 4, 1))
BOTH_YEARS: Final = (FIRST_DAY, AFTER_LAST_DAY)

Ask = Callable[[ReadSession, Group], Awaitable[Sequence[Any]]]


@dataclass(frozen=True, slots=True)
class Books:
    """The database with the allocations, as the service has it."""

    group: Group
    plans: Plans

    async def ask(self, ask: Ask) -> tuple[list[Statement], Sequence[Any]]:
        """The statements about allocations that the store sent, and the answer."""
        said, answer = await self.plans.statements(lambda tx: ask(tx, self.group))
        return [each for each in said if TABLE in each[0]], answer

    async def reads(self, statement: str, parameters: Sequence[Any]) -> list[TableReads]:
        """How it reads the allocations."""
        return await self.plans.reads(statement, parameters, of_table=TABLE)


@pytest.fixture
async def books(
    fresh_database: Callable[[], Awaitable[Copy]], settings: Callable[..., Settings]
) -> AsyncIterator[Books]:
    copy = await fresh_database()
    admin = await asyncpg.connect(copy.admin_url)
    database = Database(settings("entities", database=copy))
    connection = await asyncpg.connect(copy.url("entities_app"))
    try:
        group = await insert_group(admin)
        await insert_allocations(admin, group, ALLOCATIONS)
        yield Books(group, Plans(database, connection, group.tenant_id))
    finally:
        await connection.close()
        await database.close()
        await admin.close()


def of_department(
    find: Callable[[Group], UUID],
    period: tuple[date, date],
    tree: Tree = Tree.POSTED,
    *group_by: DepartmentGroupBy,
    below: bool = True,
) -> Ask:
    """GetDepartmentCosts."""

    def ask(tx: ReadSession, group: Group) -> Awaitable[Sequence[Any]]:
        return store.costs.sum_department(
            tx,
            store.costs.DepartmentAsk(
                department_id=find(group), start=period[0], end=period[1], group_by=group_by,
                include_descendants=below, tree=tree,
            ),
        )  # fmt: skip

    return ask


def of_entities(entities: int, period: tuple[date, date], *group_by: SummaryGroupBy) -> Ask:
    """SummarizeCosts of so many entities; 0: of all."""

    def ask(tx: ReadSession, group: Group) -> Awaitable[Sequence[Any]]:
        entity_ids = group.entity_ids[:entities]
        return store.costs.sum_entities(
            tx, store.costs.SummaryAsk(entity_ids=entity_ids, start=period[0], end=period[1], group_by=group_by)
        )

    return ask


def stream(start: datetime | None, entities: int = 0) -> Ask:
    """StreamAllocations, a page of it."""

    def ask(tx: ReadSession, group: Group) -> Awaitable[Sequence[Any]]:
        feed = store.costs.FeedAsk(
            start=start, end=datetime(2027, 1, 1, tzinfo=UTC), entity_ids=group.entity_ids[:entities]
        )
        return store.costs.list_allocations(tx, feed, None, 500)

    return ask


def listed(departments: Callable[[Group], list[UUID]], **filters: Any) -> Ask:
    """ListAllocations, a page of it."""
    given = {"after": None, "start": None, "end": None, "category": "", "source": None, **filters}

    def ask(tx: ReadSession, group: Group) -> Awaitable[Sequence[Any]]:
        found = departments(group)
        wanted = store.allocations.AllocationAsk(department_id=found[0], include_descendants=True, count=51, **given)
        return store.allocations.list_newest(tx, wanted, found)

    return ask


def weighed(departments: Callable[[Group], list[UUID]], **filters: Any) -> Ask:
    """SplitCost by usage: what each target weighs."""

    async def ask(tx: ReadSession, group: Group) -> Sequence[Any]:
        given = {"unit": "GB", "category": "", "start": MARCH[0], "end": MARCH[1], **filters}
        return list(await store.allocation_rules.sum_usage(tx, departments(group), **given))

    return ask


def under_contract(start: date, end: date) -> Ask:
    """CheckRenewal: what was used in the term so far."""
    return lambda tx, group: store.contracts.sum_usage(tx, group.entity_ids[3], start, end)


def of_documents(*records: str) -> Ask:
    """What was allocated from records of usage."""

    async def ask(tx: ReadSession, _: Group) -> Sequence[Any]:
        found = await store.allocations.find_by_documents(tx, [(AllocationSource.USAGE, record) for record in records])
        return list(found.values())

    return ask


def top(group: Group) -> UUID:
    return group.top_ids[3]


def middle(group: Group) -> UUID:
    return group.middle_ids[3][1]


def lowest(group: Group) -> UUID:
    return group.lowest_ids[3][2]


def all_of_one(group: Group) -> list[UUID]:
    return group.lowest_ids[3]


MONTH, CATEGORY, DEPARTMENT = DepartmentGroupBy.MONTH, DepartmentGroupBy.CATEGORY, DepartmentGroupBy.DEPARTMENT
BY_DEPARTMENT, BY_CATEGORY = "cost_allocations_department_idx", "cost_allocations_category_idx"
BY_ENTITY, BY_DAY, BY_ID = "cost_allocations_entity_idx", "cost_allocations_day_idx", "cost_allocations_pkey"
LATE: Final = store.allocations.Place(date(2026, 11, 2), ids.new())

QUERIES: Final[dict[str, tuple[Ask, set[str], int]]] = {
    "costs, POSTED, by month": (of_department(middle, Q1, Tree.POSTED, MONTH), {BY_DEPARTMENT}, 1_000),
    "costs, CURRENT, by month": (of_department(middle, Q1, Tree.CURRENT, MONTH), {BY_DEPARTMENT}, 1_000),
    "costs, POSTED, all that a company ever spent": (
        of_department(top, BOTH_YEARS, Tree.POSTED, CATEGORY, DEPARTMENT), {BY_DEPARTMENT}, 26_000,
    ),
    "costs, CURRENT, all that a company ever spent": (
        of_department(top, BOTH_YEARS, Tree.CURRENT), {BY_DEPARTMENT}, 26_000,
    ),
    "costs of a department alone": (of_department(lowest, MARCH, below=False), {BY_DEPARTMENT}, 80),
    "summary of three entities": (of_entities(3, Q1, SummaryGroupBy.MONTH), {BY_ENTITY}, 10_000),
    "summary of all entities": (
        of_entities(0, MARCH, SummaryGroupBy.ENTITY, SummaryGroupBy.CATEGORY), {BY_DAY, BY_ENTITY}, 43_000,
    ),
    "stream from a day on": (stream(datetime(2026, 3, 1, tzinfo=UTC)), {BY_ID}, 520),
    "stream of an entity": (stream(None, entities=1), {BY_ID}, 25_000),
    "list": (listed(lambda group: [lowest(group)]), {BY_DEPARTMENT}, 51),
    "list of a company": (listed(all_of_one), {BY_DEPARTMENT}, 20 * 51),
    "list, later page": (listed(all_of_one, after=LATE), {BY_DEPARTMENT}, 20 * 52),
    "list of a month": (listed(all_of_one, start=MARCH[0], end=MARCH[1]), {BY_DEPARTMENT}, 20 * 51),
    "list of a category": (listed(all_of_one, category="category 4"), {BY_CATEGORY}, 20 * 51),
    "usage of a month": (weighed(all_of_one), {BY_DEPARTMENT}, 1_500),
    "usage of a category": (weighed(all_of_one, category="category 4"), {BY_DEPARTMENT, BY_CATEGORY}, 1_500),
    "usage under a contract": (under_contract(*Q1), {BY_ENTITY}, 3_500),
    "list of a source": (listed(all_of_one, source=AllocationSource.USAGE), {BY_DEPARTMENT}, 20 * 51),
    "what was allocated from documents": (
        of_documents("record 3", "record 300000", "record 1"), {"cost_allocations_source_key"}, 2,
    ),
}  # fmt: skip
"""What is asked, the indexes of which one or more are read for it, and how many allocations at most."""


async def test_a_part_is_read_by_an_index(books: Books) -> None:
    """One test, so that one worker makes the million."""
    await see_what_reads_sequential_scans(books)
    wrong = {}
    for name, (ask, indexes, rows_max) in QUERIES.items():
        statements, answer = await books.ask(ask)
        assert answer, name
        ((statement, parameters),) = statements
        for read in await books.reads(statement, parameters):
            found = bool(read.indexes) and read.indexes <= indexes
            if read.sequential_scans or not found or not 0 < read.rows <= rows_max:
                wrong[name] = read, statement
    assert not wrong


async def see_what_reads_sequential_scans(books: Books) -> None:
    """That the test can fail."""
    whole = "select count(*) from cost_allocations where category = $1 and description <> ''"
    for read in await books.reads(whole, ["category 4"]):
        assert read.sequential_scans
        assert read.rows >= ALLOCATIONS - 9  # told as an average of the processes that read
