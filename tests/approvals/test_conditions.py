"""Conditions of rules: the time and memory of every expression are bounded."""

import asyncio
import time
from typing import Any
from uuid import UUID

import pytest

from kit import ids
from kit.errors import InvalidFields
from services.approvals import service
from services.approvals.domain.approvals import ApprovalType
from services.approvals.domain.rules import Facts, Rule, RuleSpec
from services.approvals.domain.simulations import SimulatedHistory, SimulatedRequest
from services.approvals.errors.approvals import NoRuleMatches

ATTRIBUTES = {f"k{number}": "a" * 500 for number in range(50)}
DOUBLED_TEXT = "['aaaa']" + ".map(x, x + x)" * 24 + ".size() > 0"
DOUBLED_LIST = "[[1, 2, 3, 4, 5, 6, 7, 8]]" + ".map(x, x + x)" * 18 + ".size() > 0"
DOUBLED_BY_LOOPS = "[title + title].exists(a, [a + a].exists(b, [b + b].exists(c, size(c) > 0)))"
SHARED_LISTS = "[[title]].exists(a, [[a, a]].exists(b, b == b))"
REGULAR_EXPRESSIONS = " || ".join(["title.matches('((a{1,30}){1,30})z')"] * 40)


def facts(**fields: Any) -> Facts:
    return Facts(**{
        "request_type": ApprovalType.PURCHASE, "title": "a" * 200, "requester": "alice",
        "entity_path": (UUID(int=1),), "department_path": (), "category": "", "amount": None, "attributes": ATTRIBUTES,
    } | fields)  # fmt: skip


@pytest.mark.parametrize(
    "condition",
    [
        DOUBLED_TEXT, DOUBLED_LIST, DOUBLED_BY_LOOPS, SHARED_LISTS, REGULAR_EXPRESSIONS,
        "attributes.filter(k, true) == ['a']", "matches(title, 'a')",
        "attributes.all(a, attributes.all(b, a == b))",
        "attributes.all(a, attributes.exists // not a call?\n (b, a == b))",
        "attributes.all(a, a != '" + "x" * 500 + "')",
    ],
)  # fmt: skip
def test_condition_of_unbounded_cost_is_refused_and_not_true_where_it_is_saved(condition: str) -> None:
    with pytest.raises(InvalidFields) as refused:
        service.conditions.check_syntax(condition)
    assert {violation.field for violation in refused.value.violations} == {"condition"}
    started = time.perf_counter()
    assert service.conditions.unmet(condition, facts())
    assert time.perf_counter() - started < 0.2


@pytest.mark.parametrize(
    "condition",
    [
        "attributes.exists(k, k == 'k1')", "['lap', 'aaa'].exists(part, title.contains(part))",
        "attributes.all(k, attributes[k] != '')", "[1, 2].exists_one(n, n == 1)",
        "title.startsWith('a') && title.endsWith('a') && size(title) == 200",
        "has(attributes.k1) && 'k2' in attributes",
    ],
)  # fmt: skip
def test_condition_with_one_loop_or_none_is_evaluated(condition: str) -> None:
    service.conditions.check_syntax(condition)
    assert service.conditions.unmet(condition, facts()) is None


def test_most_expensive_condition_takes_milliseconds() -> None:
    text = "attributes['k1']"
    for _ in range(4):
        text = f"({text}+{text})"
    loop = "[" + ",".join("0" * 80) + f"].all(x,size({text})>0)"
    service.conditions.check_syntax(loop)
    started = time.perf_counter()
    assert service.conditions.unmet(loop, facts()) is None
    assert time.perf_counter() - started < 0.5


async def test_many_expensive_conditions_never_hold_the_event_loop_for_fifty_milliseconds() -> None:
    text = "+".join(["attributes[x]"] * 16)
    condition = f"attributes.exists(x,size(({text})+({text}))<{{}})"
    service.conditions.check_syntax(condition.format(0))
    rules = [
        Rule(id=UUID(int=number), version=1, spec=RuleSpec(name=f"{number}", condition=condition.format(-number)))
        for number in range(20)
    ]
    unused: Any = None  # the requests have no amount
    requests = [asyncio.create_task(service.routing.choose(unused, unused, rules, facts())) for _ in range(10)]
    await asyncio.sleep(0)  # starts all tasks; on a server, calls start when they arrive
    longest, rounds, before = 0.0, 0, time.thread_time()
    while not all(request.done() for request in requests):
        await asyncio.sleep(0)
        now = time.thread_time()
        longest, rounds, before = max(longest, now - before), rounds + 1, now
    assert {type(request.exception()) for request in requests} == {NoRuleMatches}
    assert longest < 0.05
    assert rounds > 20  # depends on the speed of the machine


async def test_simulation_lets_other_tasks_run_between_its_requests() -> None:
    history = SimulatedHistory([SimulatedRequest(ids.new(), facts()) for _ in range(100)], [])
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    clients: Any = None  # not used: the requests have no amount
    draft = RuleSpec(name="draft", condition="title == 'a'")
    await service.simulations.simulate(clients, clients, history, draft, None, changes_max=1)
    counting.cancel()
    assert turns >= 100
