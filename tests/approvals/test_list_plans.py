"""Query plans of the lists for a tenant with 60,000 requests, 100 of them pending: indexes are used and few rows read.

The statements are those of the store, explained as the serving role under row-level security: once planned for the
values, once with a generic plan.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final, TypeAlias

import asyncpg
import pytest

from kit.auth import Scope
from kit.db import ReadSession
from kit.money import Money
from kit.settings import Settings
from services.approvals import store
from services.approvals.domain.approvals import Actor, ApprovalFilter, ApprovalState, ApprovalType, Involvement
from services.approvals.domain.delegations import DelegationFilter, DelegationState
from services.approvals.domain.rules import RuleFilter, RuleState
from serving.pages import Page
from tests.approvals.bulk_data import BULK_DATA, ROWS, id_of
from tests.harness.bulk_data import RARE, TENANT_ID
from tests.harness.databases import Copy
from tests.harness.plans import Plans, opened

ONE_PAGE: Final = 51
"""Rows of a page, and one more that shows that another page follows."""
NOW: Final = datetime.now(UTC)
DAY: Final = datetime(2026, 1, 2, tzinfo=UTC)
"""A day on which requests were created."""
ADMIN: Final = Actor(user_id="admin", admin=True, tenant_admin=True)
ROOT: Final = Actor(user_id="root", roles=frozenset({"billing_admin"}))
BOSS: Final = Actor(user_id="boss-8", roles=frozenset({"department_manager"}))
USER: Final = Actor(user_id="user-7")
NOBODY: Final = Actor(user_id="x")
FINANCE: Final = Actor(user_id="fiona", roles=frozenset({"finance"}))
SCOPE: Final = Scope(entity_ids=frozenset({id_of("entity", 7)}), department_ids=frozenset({id_of("department", 8)}))

Query: TypeAlias = Callable[[ReadSession], Awaitable[Any]]


def list_approvals(actor: Actor = ROOT, **filters: Any) -> Query:
    """ListApprovals."""

    async def query(tx: ReadSession) -> Sequence[Any]:
        page = Page(50, filters.pop("after", None), b"", b"")
        return (await store.approvals.list_page(tx, page, actor, ApprovalFilter(**filters))).rows

    return query


def list_rules(**filters: Any) -> Query:
    """ListApprovalRules."""
    return lambda tx: store.rules.list_page(tx, Page(50, None, b"", b""), RuleFilter(**filters))


def list_delegations(actor: Actor = ADMIN, **filters: Any) -> Query:
    """ListDelegations."""
    page = Page(50, None, b"", b"")
    return lambda tx: store.delegations.list_page(tx, page, actor, DelegationFilter(**filters), NOW)


def euros(amount: int) -> Money:
    return Money(Decimal(amount), "EUR")


def _index(table: str) -> Callable[[str], str]:
    return lambda name: f"{table}_{name}"


request_index, slot_index, delegation_index, rule_index = map(
    _index, ("approval_requests", "approval_seats", "delegations", "approval_rules")
)
R_ID, R_STATE, R_REQUESTER = map(request_index, ("pkey", "state_idx", "requester_idx"))
R_ENTITY, R_DEPARTMENT, R_BUDGET = map(request_index, ("entity_idx", "department_idx", "budget_idx"))
R_TYPE, R_AMOUNT, R_DUE, R_CREATED = map(request_index, ("type_idx", "amount_idx", "due_idx", "made_idx"))
R_ABOUT, R_SUBJECT, R_KEY = map(request_index, ("about_idx", "subject_key", "opening_key"))
S_ID, S_USER, S_ROLE = map(slot_index, ("pkey", "user_idx", "role_idx"))
D_ID, D_FROM, D_TO, D_END = map(delegation_index, ("pkey", "delegator_idx", "delegate_idx", "end_idx"))
L_ID, L_STATE, L_TYPE, L_LADDER = map(rule_index, ("pkey", "state_idx", "type_idx", "ladder_idx"))
U_ID: Final = "deactivated_users_pkey"
A_OF, A_BY = "approval_actions_approval_idx", "approval_actions_actor_idx"
SCOPE_INDEXES: Final = {R_ID, R_STATE, R_DUE, R_ENTITY, R_DEPARTMENT, R_REQUESTER, S_USER, S_ID, A_OF, A_BY}
TO_DECIDE_INDEXES: Final = {R_ID, R_STATE, S_USER, S_ROLE, S_ID, A_OF, A_BY}

QUERIES: Final[dict[str, tuple[Query, set[str], int]]] = {
    "requests": (list_approvals(), {R_ID}, ONE_PAGE),
    "requests, late page": (list_approvals(after=id_of("approval", 500)), {R_ID}, ONE_PAGE),
    "pending requests": (list_approvals(state=ApprovalState.PENDING), {R_STATE, R_DUE}, RARE),
    "approved requests": (list_approvals(state=ApprovalState.APPROVED), {R_ID, R_STATE}, ONE_PAGE),
    "requests in a state without any": (list_approvals(state=ApprovalState.EXPIRED), {R_STATE}, 0),
    "requests of a rare type": (list_approvals(request_type=ApprovalType.INVOICE), {R_TYPE}, ONE_PAGE),
    "requests of a type without any": (list_approvals(request_type=ApprovalType.CONTRACT), {R_TYPE}, 0),
    "requests of a user": (list_approvals(requester="user-7"), {R_REQUESTER}, ONE_PAGE),
    "requests of a user without any": (list_approvals(requester="nobody"), {R_REQUESTER}, 0),
    "own requests": (list_approvals(USER, involvement=Involvement.REQUESTED), {R_REQUESTER}, ONE_PAGE),
    "requests of an entity": (list_approvals(entity_id=id_of("entity", 7)), {R_ENTITY}, ONE_PAGE),
    "requests of a department": (list_approvals(department_id=id_of("department", 8)), {R_DEPARTMENT}, ONE_PAGE + 20),
    "requests of a budget": (list_approvals(budget_id=id_of("budget", 9)), {R_BUDGET}, ONE_PAGE),
    "pending requests of an entity": (
        list_approvals(entity_id=id_of("entity", 7), state=ApprovalState.PENDING), {R_ENTITY, R_STATE, R_DUE}, 200,
    ),
    "small requests": (list_approvals(amount_from=euros(10), amount_to=euros(40)), {R_AMOUNT}, ONE_PAGE),
    "requests of another currency": (list_approvals(amount_from=Money(Decimal(1), "USD")), {R_AMOUNT, R_ID}, ROWS),
    "due requests": (list_approvals(due_before=NOW + timedelta(hours=5)), {R_DUE, R_ID}, ROWS),
    "requests about a subject": (list_approvals(subject_type="invoice", subject_id="17"), {R_ABOUT, R_SUBJECT}, 1),
    "requests about an unknown subject": (
        list_approvals(subject_type="invoice", subject_id="x"), {R_ABOUT, R_SUBJECT}, 0,
    ),
    "to decide by a user": (list_approvals(BOSS, involvement=Involvement.TO_DECIDE), TO_DECIDE_INDEXES, 20 * RARE),
    "to decide by a role": (list_approvals(FINANCE, involvement=Involvement.TO_DECIDE), TO_DECIDE_INDEXES, 20 * RARE),
    "to decide by a user without any": (
        list_approvals(NOBODY, involvement=Involvement.TO_DECIDE), TO_DECIDE_INDEXES, RARE,
    ),
    "history": (
        lambda tx: store.approvals.list_actions(tx, Page(50, None, b"", b""), id_of("approval", 9_000)), {A_OF}, 2,
    ),
    "request by key": (lambda tx: store.approvals.find_by_key(tx, "user-7", "key"), {R_KEY}, 0),
    "open request by subject": (
        lambda tx: store.approvals.find_open_by_subject(tx, "invoice", "17"), {R_ABOUT, R_SUBJECT}, 1,
    ),
    "pending requests of an approver": (
        lambda tx: store.approvals.list_ids_by_approver(tx, "boss-8", ApprovalState.PENDING, None, 50),
        {R_STATE, R_DUE}, RARE,
    ),
    "requests of an approver that are being opened": (
        lambda tx: store.approvals.list_ids_by_approver(tx, "boss-8", ApprovalState.OPENING, None, 1), {R_STATE}, 0,
    ),
    "requests created on a day": (
        lambda tx: store.approvals.list_created(tx, DAY, DAY + timedelta(days=1), 1_000),
        {R_CREATED}, 1_001,
    ),
    "rules": (list_rules(), {L_ID, L_STATE}, 2_000),
    "active rules": (list_rules(state=RuleState.ACTIVE), {L_ID, L_STATE}, 2 * ONE_PAGE),
    "paused rules": (list_rules(state=RuleState.PAUSED), {L_STATE}, ONE_PAGE),
    "rules of a rare type": (list_rules(request_type=ApprovalType.INVOICE), {L_ID, L_TYPE}, 2 * RARE),
    "rules of a ladder": (list_rules(ladder="ladder"), {L_ID, L_LADDER}, 2 * RARE),
    "delegations": (list_delegations(), {D_ID}, ONE_PAGE),
    "own delegations": (list_delegations(Actor(user_id="user-8")), {D_FROM, D_TO, D_ID}, ROWS // 2),
    "delegations of a user": (list_delegations(delegator="user-8"), {D_FROM}, ONE_PAGE),
    "delegations to a user": (list_delegations(delegate="boss-8"), {D_TO}, ONE_PAGE),
    "active delegations": (list_delegations(state=DelegationState.ACTIVE), {D_ID, D_END}, ROWS // 2),
    "delegators of a user": (
        lambda tx: store.delegations.find_delegators(tx, "boss-8", NOW), {D_FROM, D_TO, D_END, U_ID}, 2_000,
    ),
}  # fmt: skip
"""Query, indexes of which at least one must be used, and maximum number of rows read.

If the maximum is all rows of the tenant, the specific plan uses an index of its own; the generic plan may scan the list
in its order, which PostgreSQL does if it expects a page of matching rows soon.
"""

SCOPED_QUERIES: Final[dict[str, tuple[Query, set[str], int]]] = {
    "requests": (list_approvals(BOSS), SCOPE_INDEXES, 1_000),
    "pending requests": (list_approvals(BOSS, state=ApprovalState.PENDING), SCOPE_INDEXES, 1_000),
    "to decide": (list_approvals(BOSS, involvement=Involvement.TO_DECIDE), SCOPE_INDEXES | TO_DECIDE_INDEXES, 1_000),
    "single request": (lambda tx: store.approvals.get(tx, id_of("approval", 8), BOSS), SCOPE_INDEXES, 20),
}  # fmt: skip
"""The same for a caller with a scope."""

NEEDED: Final = {
    R_STATE: "requests in a state without any",
    R_REQUESTER: "requests of a user",
    R_TYPE: "requests of a type without any",
    R_ENTITY: "requests of an entity",
    R_BUDGET: "requests of a budget",
    R_AMOUNT: "small requests",
    D_TO: "delegations to a user",
    A_OF: "history",
}
"""Indexes, each with a query that needs it."""


@pytest.fixture
async def bulk_data(fresh_database: Callable[[], Awaitable[Copy]]) -> Copy:
    copy = await fresh_database()
    admin = await asyncpg.connect(copy.admin_url)
    await BULK_DATA.load(admin)
    await admin.close()
    return copy


@pytest.fixture
async def plans(bulk_data: Copy, settings: Callable[..., Settings]) -> AsyncIterator[Plans]:
    async with opened(settings("approvals", database=bulk_data), bulk_data, TENANT_ID) as plans:
        yield plans


async def test_lists_use_indexes_and_read_few_rows(plans: Plans, bulk_data: Copy) -> None:
    """One test, so that the rows are inserted once."""
    bad = await plans.bad_plans(QUERIES)
    bad |= {f"{name}, scoped": plan for name, plan in (await plans.bad_plans(SCOPED_QUERIES, scope=SCOPE)).items()}
    assert not bad, "\n".join(f"{name}: {read}" for name, (read, _) in bad.items())
    admin = await asyncpg.connect(bulk_data.admin_url)
    for index, name in NEEDED.items():
        await admin.execute(f"drop index approvals.{index}")
        assert await plans.bad_plans({name: QUERIES[name]}), f"{name} without {index}"
    await admin.close()
