"""Query plans of lists for a tenant with 100,000 entities, departments and rates: each reads few rows by an index.

The statements of the store are explained as the serving role, under row-level security, with custom and with generic
plans. Allocations, contracts and the audit log have tests of their own.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, date, datetime
from typing import Any, Final, TypeAlias

import asyncpg
import pytest

from kit.auth import Scope
from kit.db import ReadSession
from kit.settings import Settings
from services.entities import store
from services.entities.domain.allocation_rules import AllocationRuleFilter, AllocationRuleState, RuleType
from services.entities.domain.amendments import AmendmentFilter, AmendmentState, AmendmentType
from services.entities.domain.departments import DepartmentFilter, DepartmentState
from services.entities.domain.entities import EntityFilter, EntityState, EntityType
from services.entities.domain.rates import RateFilter
from services.entities.domain.splits import SplitFilter
from serving.pages import Page, Slice
from tests.entities.bulk_data import BULK_DATA, ROWS, id_of
from tests.harness.bulk_data import RARE, TENANT_ID
from tests.harness.databases import Copy
from tests.harness.plans import Plans, opened

ONE_PAGE: Final = 51
"""Rows of a page, and one more to know whether another page follows."""
MONTH: Final = {"start": date(2026, 1, 1), "end": date(2026, 2, 1)}
SCOPE: Final = Scope(
    entity_ids=frozenset(id_of("entity", number) for number in (99_000, 99_500)),
    department_ids=frozenset(id_of("department", number) for number in (500, 99_900)),
)
"""Scope of a confined caller."""

List: TypeAlias = Callable[..., Awaitable[Slice[Any]]]
Query: TypeAlias = Callable[[ReadSession], Awaitable[Sequence[Any]]]


def page_of(list_rows: List, *arguments: Any, after: Any = None, **filters: Any) -> Query:
    """A page of a list."""

    async def query(tx: ReadSession) -> Sequence[Any]:
        return (await list_rows(tx, Page(50, after, b"", b""), *arguments, **filters)).rows

    return query


def list_entities(*, after: Any = None, **filters: Any) -> Query:
    return page_of(store.entities.list_page, EntityFilter(**filters), after=after)


def list_departments(**filters: Any) -> Query:
    return page_of(store.departments.list_page, DepartmentFilter(**filters))


def list_rates(**filters: Any) -> Query:
    return page_of(store.rates.list_page, RateFilter(**filters))


def list_rules(**filters: Any) -> Query:
    return page_of(store.allocation_rules.list_page, AllocationRuleFilter(**filters))


def list_splits(**filters: Any) -> Query:
    return page_of(store.splits.list_page, SplitFilter(**filters))


def list_amendments(**filters: Any) -> Query:
    """Amendments of a contract that has twenty."""
    return page_of(store.amendments.list_page, id_of("contract", 30), filters=AmendmentFilter(**filters))


def list_history(department: int) -> Query:
    return page_of(store.placements.list_page, id_of("department", department))


def get_tree(until: datetime | None = None) -> Query:
    """An entity, the ten below it and the hundred below those."""
    return lambda tx: store.hierarchies.get(tx, id_of("entity", 900), depth_max=2, until=until)


def list_placements(entity: int) -> Query:
    """Current and planned placements of an entity."""
    return lambda tx: store.placements.list_ending_after(tx, id_of("entity", entity), date(2020, 1, 1))


E_ID, E_STATE, E_TYPE = "billing_entities_pkey", "billing_entities_state_idx", "billing_entities_type_idx"
E_PARENT, E_CODE = "billing_entities_parent_idx", "billing_entities_code_key"
D_ID, D_STATE, D_PARENT = "departments_pkey", "departments_state_idx", "departments_parent_idx"
D_ENTITY, D_MANAGER, D_COST_CENTER = "departments_entity_key", "departments_manager_idx", "departments_cost_center_idx"
R_ID, R_PAIR, R_BASE = "exchange_rates_pkey", "exchange_rates_day_key", "exchange_rates_base_idx"
R_QUOTE, R_DAY = "exchange_rates_quote_idx", "exchange_rates_date_idx"
A_CONTRACT, A_WAITING = "contract_amendments_contract_idx", "contract_amendments_waiting_idx"
RULE_ID, RULE_TARGET = "allocation_rules_pkey", "allocation_rule_targets_department_key"

QUERIES: Final[dict[str, tuple[Query, set[str], int]]] = {
    "entities": (list_entities(), {E_ID}, ONE_PAGE),
    "entities, late page": (list_entities(after=id_of("entity", 90_000)), {E_ID}, ONE_PAGE),
    "active entities": (list_entities(state=EntityState.ACTIVE), {E_ID, E_STATE}, ONE_PAGE),
    "inactive entities": (list_entities(state=EntityState.INACTIVE), {E_STATE}, ONE_PAGE),
    "entities of a rare type": (list_entities(entity_type=EntityType.BRANCH), {E_TYPE}, ONE_PAGE),
    "entities of an unused type": (list_entities(entity_type=EntityType.HOLDING), {E_TYPE}, 0),
    "entities of a rare type and state": (
        list_entities(entity_type=EntityType.BRANCH, state=EntityState.ACTIVE), {E_TYPE}, RARE,
    ),
    "children of an entity": (list_entities(parent_id=id_of("entity", 17)), {E_PARENT}, 10),
    "inactive children": (
        list_entities(parent_id=id_of("entity", 17), state=EntityState.INACTIVE), {E_PARENT}, 10,
    ),
    "entity by code": (list_entities(code="E77"), {E_CODE}, 1),
    "common substring of a name": (list_entities(text="acme"), {E_ID}, ONE_PAGE),
    "unique substring of a name": (list_entities(text="acme 99999"), {E_ID}, ROWS),
    "substring of a name of a child": (list_entities(text="99999", parent_id=id_of("entity", 17)), {E_PARENT}, 10),
    "substring of a name of an inactive entity": (list_entities(text="x", state=EntityState.INACTIVE), {E_STATE}, RARE),
    "tree": (get_tree(), {E_ID, E_PARENT}, 222),
    "past tree": (
        get_tree(datetime(2100, 1, 1, tzinfo=UTC)),
        {E_ID, "entity_history_entity_idx", "entity_history_now_idx", "entity_history_parent_idx"}, 222,
    ),
    "departments": (list_departments(), {D_ID}, ONE_PAGE),
    "departments of an entity": (list_departments(entity_id=id_of("entity", 50)), {D_ENTITY}, 20),
    "inactive departments of an entity": (
        list_departments(entity_id=id_of("entity", 50), state=DepartmentState.INACTIVE), {D_ENTITY}, 20,
    ),
    "children of a department": (list_departments(parent_id=id_of("department", 21)), {D_PARENT}, 4),
    "departments of a manager": (list_departments(manager_user_id="user-7"), {D_MANAGER}, ONE_PAGE),
    "departments of an unknown manager": (list_departments(manager_user_id="nobody"), {D_MANAGER}, 0),
    "departments of a cost center": (list_departments(cost_center="CC7"), {D_COST_CENTER}, ONE_PAGE),
    "active departments": (list_departments(state=DepartmentState.ACTIVE), {D_ID, D_STATE}, ONE_PAGE),
    "inactive departments": (list_departments(state=DepartmentState.INACTIVE), {D_STATE}, ONE_PAGE),
    "history of a department": (list_history(33), {"department_history_from_key", "department_history_now_idx"}, 1),
    "placements of an entity": (list_placements(90), {D_ENTITY, "department_history_from_key"}, 40),
    "rates": (list_rates(), {R_ID}, ONE_PAGE),
    "rates of a base": (list_rates(base_currency="AAB"), {R_BASE}, ONE_PAGE),
    "rates of an unused base": (list_rates(base_currency="XXX"), {R_BASE, R_PAIR}, 0),
    "rates of a quote": (list_rates(quote_currency="ZZC"), {R_QUOTE}, ONE_PAGE),
    "rates of a pair": (list_rates(base_currency="AAB", quote_currency="ZZC"), {R_QUOTE, R_BASE, R_PAIR}, 2_500),
    "rates of a pair and a month": (list_rates(base_currency="AAB", quote_currency="ZZC", **MONTH), {R_PAIR}, 31),
    "rates of a month": (list_rates(**MONTH), {R_DAY}, 31 * 40),
    "rules": (list_rules(), {RULE_ID}, ONE_PAGE),
    "ended rules": (list_rules(state=AllocationRuleState.ENDED), {"allocation_rules_state_idx"}, ONE_PAGE),
    "rules of a rare type": (list_rules(rule_type=RuleType.EVEN), {"allocation_rules_type_idx"}, ONE_PAGE),
    "rules with a target": (list_rules(target_department_id=id_of("department", 300)), {RULE_ID, RULE_TARGET}, 2),
    "rules of a source department": (
        list_rules(source_department_id=id_of("department", 300)), {"allocation_rules_source_idx"}, 1,
    ),
    "rules of a category": (list_rules(category="category 7"), {"allocation_rules_category_idx"}, ONE_PAGE),
    "splits": (list_splits(), {"cost_splits_pkey"}, ONE_PAGE),
    "splits by a rule": (list_splits(rule_id=id_of("rule", 3)), {"cost_splits_rule_idx"}, ONE_PAGE),
    "split of a document": (list_splits(source_ref="bill 5"), {"cost_splits_ref_key"}, 1),
    "splits of a month": (list_splits(start=date(2022, 1, 1), end=date(2022, 2, 1)), {"cost_splits_date_idx"}, 310),
    "amendments": (list_amendments(), {A_CONTRACT}, 20),
    "waiting amendments": (list_amendments(state=AmendmentState.APPROVED), {A_CONTRACT, A_WAITING}, 20),
    "amendments of a type": (list_amendments(amendment_type=AmendmentType.PRICE), {A_CONTRACT}, 20),
}  # fmt: skip
"""Each query with the indexes of which it must use one or more, and the most rows that it may read.

A substring is searched in all names of the tenant in list order, since under row-level security no index can be used
for it. That takes a tenth of a second for 100,000 entities.
"""

CONFINED_QUERIES: Final[dict[str, tuple[Query, set[str], int]]] = {
    "entities": (list_entities(), {E_ID}, 2),
    "inactive entities": (list_entities(state=EntityState.INACTIVE), {E_ID, E_STATE}, RARE),
    "departments": (list_departments(), {D_ID, D_ENTITY}, 4),
    "departments of a manager": (list_departments(manager_user_id="user-500"), {D_MANAGER, D_ID, D_ENTITY}, 50),
}
"""The same for callers who are confined to a scope."""

REQUIRED_INDEXES: Final = {
    E_STATE: "inactive entities",
    E_TYPE: "entities of a rare type",
    E_PARENT: "children of an entity",
    D_STATE: "inactive departments",
    D_MANAGER: "departments of a manager",
    R_BASE: "rates of a base",
    R_DAY: "rates of a month",
}
"""Each index with a query that needs it."""


@pytest.fixture
async def filled(fresh_database: Callable[[], Awaitable[Copy]]) -> Copy:
    copy = await fresh_database()
    admin = await asyncpg.connect(copy.admin_url)
    await BULK_DATA.load(admin)
    await admin.close()
    return copy


@pytest.fixture
async def plans(filled: Copy, settings: Callable[..., Settings]) -> AsyncIterator[Plans]:
    async with opened(settings("entities", database=filled), filled, TENANT_ID) as plans:
        yield plans


async def test_lists_read_few_rows_by_an_index(plans: Plans, filled: Copy) -> None:
    """A single test, so that the rows are created once."""
    assert not await plans.bad_plans(QUERIES)
    assert not await plans.bad_plans(CONFINED_QUERIES, scope=SCOPE)
    await check_that_a_sequential_scan_is_noticed(plans)
    admin = await asyncpg.connect(filled.admin_url)
    for index, name in REQUIRED_INDEXES.items():
        await admin.execute(f"drop index entities.{index}")
        assert await plans.bad_plans({name: QUERIES[name]}), f"{name} without {index}"
    await admin.close()


async def check_that_a_sequential_scan_is_noticed(plans: Plans) -> None:
    await plans.connection.execute("set enable_indexscan = off; set enable_bitmapscan = off")
    name = "inactive entities"
    read, _ = (await plans.bad_plans({name: QUERIES[name]}))[name]
    assert read.sequential_scans == {"billing_entities"}
    assert read.rows >= ROWS
    await plans.connection.execute("reset enable_indexscan; reset enable_bitmapscan")
