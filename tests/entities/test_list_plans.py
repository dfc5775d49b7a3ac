"""How PostgreSQL reads lists of a tenant with 100,000 entities, departments and rates: by an index, and little of it.

What is explained is what the store really asked, as the role that serves and under row-level security; once as it is
planned for the values, once as it is planned for any. Allocations, contracts and the audit log have tests of their own.
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
from services.entities.domain.allocation_rules import RuleState, RuleType
from services.entities.domain.amendments import AmendmentFilter, AmendmentState, AmendmentType
from services.entities.domain.departments import DepartmentFilter, DepartmentState
from services.entities.domain.entities import EntityFilter, EntityState, EntityType
from serving.pages import Page, Slice
from tests.entities.bulk_data import BULK_DATA, ROWS, id_of
from tests.harness.bulk_data import RARE, TENANT_ID
from tests.harness.databases import Copy
from tests.harness.plans import Plans, opened

ONE_PAGE: Final = 51
"""Rows of a page, and the one that tells that there is another."""
WEEKS: Final = {"start": date(2026, 1, 1), "end": date(2026, 2, 1)}
COVERED: Final = Scope(
    entity_ids=frozenset(id_of("entity", number) for number in (99_000, 99_500)),
    department_ids=frozenset(id_of("department", number) for number in (500, 99_900)),
)
"""What a confined caller sees."""

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


def of_rates(**filters: Any) -> Query:
    """ListExchangeRates."""
    return page_of(
        store.rates.list_page, **{"base_currency": "", "quote_currency": "", "start": None, "end": None, **filters}
    )


def of_rules(**filters: Any) -> Query:
    """ListAllocationRules."""
    given = {
        "state": None, "rule_type": None, "target_department_id": None, "source_department_id": None, "category": "",
        "effective_on": None, **filters,
    }  # fmt: skip
    return page_of(store.allocation_rules.list_page, **given)


def of_splits(**filters: Any) -> Query:
    """ListCostSplits."""
    given = {"rule_id": None, "source_ref": "", "start": None, "end": None, **filters}
    return page_of(store.allocation_rules.list_splits, **given)


def of_amendments(**filters: Any) -> Query:
    """ListAmendments of a contract that has twenty."""
    return page_of(store.amendments.list_page, id_of("contract", 30), filters=AmendmentFilter(**filters))


def of_history(department: int) -> Query:
    """ListDepartmentHistory."""
    return page_of(store.placements.list_page, id_of("department", department))


def of_tree(until: datetime | None = None) -> Query:
    """GetEntityHierarchy: an entity, the ten below it and the hundred below those."""
    return lambda tx: store.hierarchies.get(tx, id_of("entity", 900), depth_max=2, until=until)


def planned(entity: int) -> Query:
    """MoveDepartment: where the departments of an entity are and will be."""
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
    "entities that are active": (list_entities(state=EntityState.ACTIVE), {E_ID, E_STATE}, ONE_PAGE),
    "entities that are not": (list_entities(state=EntityState.INACTIVE), {E_STATE}, ONE_PAGE),
    "entities of a rare kind": (list_entities(entity_type=EntityType.BRANCH), {E_TYPE}, ONE_PAGE),
    "entities of a kind that there is not": (list_entities(entity_type=EntityType.HOLDING), {E_TYPE}, 0),
    "entities of a rare kind and state": (
        list_entities(entity_type=EntityType.BRANCH, state=EntityState.ACTIVE), {E_TYPE}, RARE,
    ),
    "entities below one": (list_entities(parent_id=id_of("entity", 17)), {E_PARENT}, 10),
    "entities below one that are not active": (
        list_entities(parent_id=id_of("entity", 17), state=EntityState.INACTIVE), {E_PARENT}, 10,
    ),
    "the entity of a code": (list_entities(code="E77"), {E_CODE}, 1),
    "a piece of a name that many have": (list_entities(text="acme"), {E_ID}, ONE_PAGE),
    "a piece of a name that one has": (list_entities(text="acme 99999"), {E_ID}, ROWS),
    "a piece of a name, below one": (list_entities(text="99999", parent_id=id_of("entity", 17)), {E_PARENT}, 10),
    "a piece of a name, not active": (list_entities(text="x", state=EntityState.INACTIVE), {E_STATE}, RARE),
    "tree": (of_tree(), {E_ID, E_PARENT}, 222),
    "tree of before": (
        of_tree(datetime(2100, 1, 1, tzinfo=UTC)),
        {E_ID, "entity_history_entity_idx", "entity_history_now_idx", "entity_history_parent_idx"}, 222,
    ),
    "departments": (list_departments(), {D_ID}, ONE_PAGE),
    "departments of an entity": (list_departments(entity_id=id_of("entity", 50)), {D_ENTITY}, 20),
    "departments of an entity that are not active": (
        list_departments(entity_id=id_of("entity", 50), state=DepartmentState.INACTIVE), {D_ENTITY}, 20,
    ),
    "departments below one": (list_departments(parent_id=id_of("department", 21)), {D_PARENT}, 4),
    "departments of a manager": (list_departments(manager_user_id="user-7"), {D_MANAGER}, ONE_PAGE),
    "departments of nobody known": (list_departments(manager_user_id="nobody"), {D_MANAGER}, 0),
    "departments of a cost center": (list_departments(cost_center="CC7"), {D_COST_CENTER}, ONE_PAGE),
    "departments that are active": (list_departments(state=DepartmentState.ACTIVE), {D_ID, D_STATE}, ONE_PAGE),
    "departments that are not": (list_departments(state=DepartmentState.INACTIVE), {D_STATE}, ONE_PAGE),
    "history of a department": (of_history(33), {"department_history_from_key", "department_history_now_idx"}, 1),
    "placements of an entity": (planned(90), {D_ENTITY, "department_history_from_key"}, 40),
    "rates": (of_rates(), {R_ID}, ONE_PAGE),
    "rates of a base": (of_rates(base_currency="AAB"), {R_BASE}, ONE_PAGE),
    "rates of a base that there is not": (of_rates(base_currency="XXX"), {R_BASE, R_PAIR}, 0),
    "rates of a quote": (of_rates(quote_currency="ZZC"), {R_QUOTE}, ONE_PAGE),
    "rates of a pair": (of_rates(base_currency="AAB", quote_currency="ZZC"), {R_QUOTE, R_BASE, R_PAIR}, 2_500),
    "rates of a pair and a month": (of_rates(base_currency="AAB", quote_currency="ZZC", **WEEKS), {R_PAIR}, 31),
    "rates of a month": (of_rates(**WEEKS), {R_DAY}, 31 * 40),
    "rules": (of_rules(), {RULE_ID}, ONE_PAGE),
    "rules that have ended": (of_rules(state=RuleState.ENDED), {"allocation_rules_state_idx"}, ONE_PAGE),
    "rules of a rare kind": (of_rules(rule_type=RuleType.EVEN), {"allocation_rules_type_idx"}, ONE_PAGE),
    "rules with a target": (of_rules(target_department_id=id_of("department", 300)), {RULE_ID, RULE_TARGET}, 2),
    "rules of a source": (of_rules(source_department_id=id_of("department", 300)), {"allocation_rules_source_idx"}, 1),
    "rules of a category": (of_rules(category="category 7"), {"allocation_rules_category_idx"}, ONE_PAGE),
    "splits": (of_splits(), {"cost_splits_pkey"}, ONE_PAGE),
    "splits by a rule": (of_splits(rule_id=id_of("rule", 3)), {"cost_splits_rule_idx"}, ONE_PAGE),
    "splits of a bill": (of_splits(source_ref="bill 5"), {"cost_splits_ref_key"}, 1),
    "splits of a month": (of_splits(start=date(2022, 1, 1), end=date(2022, 2, 1)), {"cost_splits_date_idx"}, 310),
    "amendments": (of_amendments(), {A_CONTRACT}, 20),
    "amendments that wait": (of_amendments(state=AmendmentState.APPROVED), {A_CONTRACT, A_WAITING}, 20),
    "amendments of a kind": (of_amendments(amendment_type=AmendmentType.PRICE), {A_CONTRACT}, 20),
}  # fmt: skip
"""What is asked, the indexes of which one or more are read for it, and how many rows at most.

Only a piece of a name is looked for in all names of the tenant, in the order in which they are listed: no index is read
for that under row-level security, whatever it is made of. It takes a tenth of a second for 100,000 entities.
"""

OF_CONFINED: Final[dict[str, tuple[Query, set[str], int]]] = {
    "entities": (list_entities(), {E_ID}, 2),
    "entities that are not active": (list_entities(state=EntityState.INACTIVE), {E_ID, E_STATE}, RARE),
    "departments": (list_departments(), {D_ID, D_ENTITY}, 4),
    "departments of a manager": (list_departments(manager_user_id="user-500"), {D_MANAGER, D_ID, D_ENTITY}, 50),
}
"""The same of callers who see a part of the tenant."""

NEEDED: Final = {
    E_STATE: "entities that are not",
    E_TYPE: "entities of a rare kind",
    E_PARENT: "entities below one",
    D_STATE: "departments that are not",
    D_MANAGER: "departments of a manager",
    R_BASE: "rates of a base",
    R_DAY: "rates of a month",
}
"""Indexes, and for each a question that nothing else answers."""


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


async def test_little_is_read_and_by_an_index(plans: Plans, filled: Copy) -> None:
    """One test, so that one worker makes all the rows."""
    assert not await plans.bad_plans(QUERIES)
    assert not await plans.bad_plans(OF_CONFINED, scope=COVERED)
    await see_what_reads_sequential_scans(plans)
    admin = await asyncpg.connect(filled.admin_url)
    for index, name in NEEDED.items():
        await admin.execute(f"drop index entities.{index}")
        assert await plans.bad_plans({name: QUERIES[name]}), f"{name} without {index}"
    await admin.close()


async def see_what_reads_sequential_scans(plans: Plans) -> None:
    """That it would be seen."""
    await plans.connection.execute("set enable_indexscan = off; set enable_bitmapscan = off")
    name = "entities that are not"
    read, _ = (await plans.bad_plans({name: QUERIES[name]}))[name]
    assert read.sequential_scans == {"billing_entities"}
    assert read.rows >= ROWS
    await plans.connection.execute("reset enable_indexscan; reset enable_bitmapscan")
