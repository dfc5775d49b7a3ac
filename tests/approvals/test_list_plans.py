"""How PostgreSQL reads the lists of a tenant with 60,000 requests, of which 100 wait: by an index, and little of it.

What is explained is what the store really asked, as the role that serves and under row-level security; once as it is
planned for the values, once as it is planned for any.
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
from services.approvals.domain.delegations import DelegationState
from services.approvals.domain.lives import ApprovalState, ApprovalType, Mine, RuleState
from services.approvals.store import delegations, requests, rules
from services.approvals.store.requests import Filter, Viewer
from serving.pages import Page
from tests.approvals.bulk_data import BULK_DATA, ROWS, id_of
from tests.harness.bulk_data import RARE, TENANT_ID
from tests.harness.databases import Copy
from tests.harness.plans import Plans, opened

ONE_PAGE: Final = 51
"""Rows of a page, and the one that tells that there is another."""
NOW: Final = datetime.now(UTC)
ROOT: Final = Viewer("root", frozenset({"billing_admin"}))
BOSS: Final = Viewer("boss-8", frozenset({"department_manager"}))
FINANCE: Final = Viewer("fiona", frozenset({"finance"}))
COVERED: Final = Scope(entity_ids=frozenset({id_of("entity", 7)}), department_ids=frozenset({id_of("department", 8)}))
"""What a confined caller sees."""

Ask: TypeAlias = Callable[[ReadSession], Awaitable[Any]]


def of_requests(viewer: Viewer = ROOT, **filters: Any) -> Ask:
    """ListApprovals."""

    async def ask(tx: ReadSession) -> Sequence[Any]:
        page = Page(50, filters.pop("after", None), b"", b"")
        return (await requests.list_requests(tx, page, viewer, Filter(**filters))).rows

    return ask


def of_rules(**filters: Any) -> Ask:
    """ListApprovalRules."""
    given = {"state": None, "request_type": None, "ladder": "", **filters}
    return lambda tx: rules.list_rules(tx, Page(50, None, b"", b""), **given)


def of_delegations(**filters: Any) -> Ask:
    """ListDelegations."""
    given = {"own": "", "delegator": "", "delegate": "", "state": None, "now": NOW, **filters}
    return lambda tx: delegations.list_delegations(tx, Page(50, None, b"", b""), **given)


def euros(amount: int) -> Money:
    return Money(Decimal(amount), "EUR")


def _index(table: str) -> Callable[[str], str]:
    return lambda name: f"{table}_{name}"


of_request, of_seat, of_delegation, of_rule = map(
    _index, ("approval_requests", "approval_seats", "delegations", "approval_rules")
)
R_ID, R_STATE, R_ASKER = map(of_request, ("pkey", "state_idx", "requester_idx"))
R_ENTITY, R_DEPARTMENT, R_BUDGET = map(of_request, ("entity_idx", "department_idx", "budget_idx"))
R_TYPE, R_AMOUNT, R_DUE, R_MADE = map(of_request, ("type_idx", "amount_idx", "due_idx", "made_idx"))
R_ABOUT, R_SUBJECT, R_KEY = map(of_request, ("about_idx", "subject_key", "opening_key"))
S_ID, S_USER, S_ROLE = map(of_seat, ("pkey", "user_idx", "role_idx"))
D_ID, D_FROM, D_TO, D_END = map(of_delegation, ("pkey", "delegator_idx", "delegate_idx", "end_idx"))
L_ID, L_STATE, L_TYPE, L_LADDER = map(of_rule, ("pkey", "state_idx", "type_idx", "ladder_idx"))
A_OF, A_BY = "approval_actions_approval_idx", "approval_actions_actor_idx"
COVERED_BY: Final = {R_ID, R_STATE, R_DUE, R_ENTITY, R_DEPARTMENT, R_ASKER, S_USER, S_ID, A_OF, A_BY}
INBOX: Final = {R_ID, R_STATE, S_USER, S_ROLE, S_ID, A_OF, A_BY}

QUERIES: Final[dict[str, tuple[Ask, set[str], int]]] = {
    "requests": (of_requests(), {R_ID}, ONE_PAGE),
    "requests, late page": (of_requests(after=id_of("approval", 500)), {R_ID}, ONE_PAGE),
    "requests that wait": (of_requests(state=ApprovalState.PENDING), {R_STATE, R_DUE}, RARE),
    "requests that were approved": (of_requests(state=ApprovalState.APPROVED), {R_ID, R_STATE}, ONE_PAGE),
    "requests in a state that none has": (of_requests(state=ApprovalState.EXPIRED), {R_STATE}, 0),
    "requests of a rare kind": (of_requests(request_type=ApprovalType.INVOICE), {R_TYPE}, ONE_PAGE),
    "requests of a kind that none has": (of_requests(request_type=ApprovalType.CONTRACT), {R_TYPE}, 0),
    "requests of somebody": (of_requests(requester="user-7"), {R_ASKER}, ONE_PAGE),
    "requests of nobody": (of_requests(requester="nobody"), {R_ASKER}, 0),
    "my requests": (of_requests(Viewer("user-7", frozenset()), mine=Mine.REQUESTED), {R_ASKER}, ONE_PAGE),
    "requests of an entity": (of_requests(entity_id=id_of("entity", 7)), {R_ENTITY}, ONE_PAGE),
    "requests of a department": (of_requests(department_id=id_of("department", 8)), {R_DEPARTMENT}, ONE_PAGE + 20),
    "requests of a budget": (of_requests(budget_id=id_of("budget", 9)), {R_BUDGET}, ONE_PAGE),
    "requests of an entity that wait": (
        of_requests(entity_id=id_of("entity", 7), state=ApprovalState.PENDING), {R_ENTITY, R_STATE, R_DUE}, 200,
    ),
    "small requests": (of_requests(amount_from=euros(10), amount_to=euros(40)), {R_AMOUNT}, ONE_PAGE),
    "requests of another currency": (of_requests(amount_from=Money(Decimal(1), "USD")), {R_AMOUNT, R_ID}, ROWS),
    "requests that are due": (of_requests(due_before=NOW + timedelta(hours=5)), {R_DUE, R_ID}, ROWS),
    "requests about something": (of_requests(subject_type="invoice", subject_id="17"), {R_ABOUT, R_SUBJECT}, 1),
    "requests about nothing known": (of_requests(subject_type="invoice", subject_id="x"), {R_ABOUT, R_SUBJECT}, 0),
    "inbox of somebody": (of_requests(BOSS, mine=Mine.TO_DECIDE), INBOX, 20 * RARE),
    "inbox of a role": (of_requests(FINANCE, mine=Mine.TO_DECIDE), INBOX, 20 * RARE),
    "inbox of nobody": (of_requests(Viewer("x", frozenset()), mine=Mine.TO_DECIDE), INBOX, RARE),
    "history": (
        lambda tx: requests.list_actions(tx, Page(50, None, b"", b""), id_of("approval", 9_000)), {A_OF}, 2,
    ),
    "the request of a key": (lambda tx: requests.find_opened(tx, "user-7", "key"), {R_KEY}, 0),
    "the request about something": (lambda tx: requests.find_about(tx, "invoice", "17"), {R_ABOUT, R_SUBJECT}, 1),
    "where somebody sits who left": (
        lambda tx: requests.find_sat_in(tx, "boss-8", None, 50), {R_STATE, R_DUE}, RARE,
    ),
    "requests of a day": (
        lambda tx: requests.list_past(tx, datetime(2026, 1, 2, tzinfo=UTC), datetime(2026, 1, 3, tzinfo=UTC), 1_000),
        {R_MADE}, 1_001,
    ),
    "rules": (of_rules(), {L_ID, L_STATE}, 2_000),
    "rules that are active": (of_rules(state=RuleState.ACTIVE), {L_ID, L_STATE}, 2 * ONE_PAGE),
    "rules that are paused": (of_rules(state=RuleState.PAUSED), {L_STATE}, ONE_PAGE),
    "rules of a rare kind": (of_rules(request_type=ApprovalType.INVOICE), {L_ID, L_TYPE}, 2 * RARE),
    "rules of a ladder": (of_rules(ladder="ladder"), {L_ID, L_LADDER}, 2 * RARE),
    "delegations": (of_delegations(), {D_ID}, ONE_PAGE),
    "my delegations": (of_delegations(own="user-8"), {D_FROM, D_TO, D_ID}, ROWS // 2),
    "delegations of somebody": (of_delegations(delegator="user-8"), {D_FROM}, ONE_PAGE),
    "delegations to somebody": (of_delegations(delegate="boss-8"), {D_TO}, ONE_PAGE),
    "delegations that are good": (of_delegations(state=DelegationState.ACTIVE), {D_ID, D_END}, ROWS // 2),
    "for whom somebody decides": (
        lambda tx: delegations.find_delegators(tx, "boss-8", NOW), {D_FROM, D_TO, D_END}, 2_000,
    ),
}  # fmt: skip
"""What is asked, the indexes of which one or more are read for it, and how many rows at most.

Where that is all of the tenant, an index of its own is read for the values; planned for any, the list is walked in its
order, which PostgreSQL does where it believes that a page of them comes soon.
"""

OF_CONFINED: Final[dict[str, tuple[Ask, set[str], int]]] = {
    "requests": (of_requests(BOSS), COVERED_BY, 1_000),
    "requests that wait": (of_requests(BOSS, state=ApprovalState.PENDING), COVERED_BY, 1_000),
    "inbox": (of_requests(BOSS, mine=Mine.TO_DECIDE), COVERED_BY | INBOX, 1_000),
    "one": (lambda tx: requests.get_request(tx, id_of("approval", 8), BOSS), COVERED_BY, 20),
}  # fmt: skip
"""The same of callers who see a part of the tenant."""

NEEDED: Final = {
    R_STATE: "requests in a state that none has",
    R_ASKER: "requests of somebody",
    R_TYPE: "requests of a kind that none has",
    R_ENTITY: "requests of an entity",
    R_BUDGET: "requests of a budget",
    R_AMOUNT: "small requests",
    D_TO: "delegations to somebody",
    A_OF: "history",
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
    async with opened(settings("approvals", database=filled), filled, TENANT_ID) as plans:
        yield plans


async def test_little_is_read_and_by_an_index(plans: Plans, filled: Copy) -> None:
    """One test, so that one worker makes all the rows."""
    wrong = await plans.bad_plans(QUERIES)
    wrong |= {f"{name}, confined": told for name, told in (await plans.bad_plans(OF_CONFINED, scope=COVERED)).items()}
    assert not wrong, "\n".join(f"{name}: {read}" for name, (read, _) in wrong.items())
    admin = await asyncpg.connect(filled.admin_url)
    for index, name in NEEDED.items():
        await admin.execute(f"drop index approvals.{index}")
        assert await plans.bad_plans({name: QUERIES[name]}), f"{name} without {index}"
    await admin.close()
