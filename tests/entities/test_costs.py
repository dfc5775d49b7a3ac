"""Costs of departments: along the posted and the current tree, by every grouping, in one currency."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import chain, combinations
from random import Random
from typing import Any, TypeAlias

import asyncpg
import pytest
from billing.entities.v1.allocation_pb2 import Allocation
from billing.entities.v1.cost_pb2 import CostGroup, DepartmentCosts
from billing.entities.v1.department_pb2 import Department
from billing.entities.v1.entity_pb2 import Entity
from billing.entities.v1.exchange_rate_pb2 import ConversionRate
from grpc import StatusCode
from grpc.aio import AioRpcError

from kit import ids
from tests.entities.allocation_api import money_text
from tests.entities.costs_api import CostsApi, sum_values
from tests.harness.callers import Caller, Refusal, refusal
from tests.harness.services import Entities

Admin: TypeAlias = "asyncpg.Pool[asyncpg.Record]"
GROUPINGS = ("CATEGORY", "GL_CODE", "MONTH", "DEPARTMENT")
POSTED, CURRENT = DepartmentCosts.POSTED, DepartmentCosts.CURRENT
FIRST = date(2026, 1, 28)
"""First day of all departments with random costs."""
TODAY = "9999-12-31"
"""A day after all moves."""


@pytest.fixture
def api_for(entities: Entities) -> Callable[[Caller], CostsApi]:
    return lambda caller: CostsApi(caller, entities)


@pytest.fixture
def api(api_for: Callable[[Caller], CostsApi], finance: Caller) -> CostsApi:
    return api_for(finance)


@dataclass
class Model:
    """A simple model of the posted costs: every allocation with the path of its department on its day."""

    placements: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    """First day and parent of each placement by id; an empty parent at the top."""
    posted: list[tuple[Allocation, list[str]]] = field(default_factory=list)

    def path(self, department: str, day: str) -> list[str]:
        """The ids from the department up to the top on a day, in the history as it is known now."""
        parents = [parent for start, parent in self.placements[department] if start <= day]
        parent = parents[-1] if parents else self.placements[department][0][1]
        return [department, *(self.path(parent, day) if parent else [])]

    def move(self, department: str, parent: str, day: str) -> None:
        """Place the department below another one from the day on."""
        kept = [placement for placement in self.placements[department] if placement[0] < day]
        self.placements[department] = [*kept, (day, parent)]

    def post(self, allocation: Allocation, path: list[str]) -> None:
        self.posted.append((allocation, path))

    def allocations_of(self, department: str, tree: Any, *, below: bool) -> Iterator[Allocation]:
        """The allocations that count for the department."""
        for allocation, path in self.posted:
            ancestors = path if tree == POSTED else self.path(allocation.department_id, TODAY)
            if department in (ancestors if below else ancestors[:1]):
                yield allocation

    def groups(
        self, department: str, period: tuple[str, str], by: Sequence[str], tree: Any, *, below: bool
    ) -> list[tuple[tuple[str, ...], tuple[str, int, int, list[str]]]]:
        """The groups that the service must return."""
        result: dict[tuple[str, ...], list[Allocation]] = {}
        for allocation in self.allocations_of(department, tree, below=below):
            if period[0] <= allocation.allocation_date < period[1]:
                result.setdefault(tuple(key_of(allocation, each) for each in by), []).append(allocation)
        return [(key, expected_sum(result[key])) for key in sorted(result)]


def key_of(allocation: Allocation, grouping: str) -> str:
    if grouping == "MONTH":
        return allocation.allocation_date[:7]
    return str(getattr(allocation, {"DEPARTMENT": "department_id"}.get(grouping, grouping.lower())))


def expected_sum(allocations: Sequence[Allocation]) -> tuple[str, int, int, list[str]]:
    reversals = sum(bool(allocation.reversal_of_id) for allocation in allocations)
    cost = sum(Decimal(allocation.entity_amount.amount) for allocation in allocations)
    originals: dict[str, Decimal] = {}
    for allocation in allocations:
        code = allocation.amount.currency_code
        originals[code] = originals.get(code, Decimal(0)) + Decimal(allocation.amount.amount)
    return (
        f"{cost:.2f} EUR",
        len(allocations) - reversals,
        reversals,
        [f"{amount:.2f} {code}" for code, amount in sorted(originals.items())],
    )


def group_key(group: CostGroup, by: Sequence[str]) -> tuple[str, ...]:
    fields = {"DEPARTMENT": "department_id"}
    return tuple(str(getattr(group, fields.get(each, each.lower()))) for each in by)


def random_day(random: Random) -> str:
    return (FIRST + timedelta(days=random.randrange(36))).isoformat()


async def post_random_costs(api: CostsApi, entity: Entity, random: Random) -> Model:
    """Post random allocations, with moves in the past and reversals in between; return the model of them."""
    model = Model()
    departments: list[str] = []
    for number in range(9):
        parent = random.choice(["", *departments])
        created = await api.create_department(entity, f"D{number}", parent_id=parent, start_date=FIRST.isoformat())
        departments.append(created.id)
        model.placements[created.id] = [(FIRST.isoformat(), parent)]
    for _ in range(8):
        mover, target = random.sample(departments, 2)
        moved = random_day(random)
        try:
            await api.move_department(mover, target, moved)
            model.move(mover, target, moved)
        except AioRpcError as error:
            assert Refusal.of(error).reason == "DEPARTMENT_CYCLE"
        for _ in range(6):
            department, day = random.choice(departments), random_day(random)
            allocation = await api.allocate(
                department, day, f"{random.randrange(1, 9999) / 100:.2f} {random.choice(['EUR', 'USD'])}",
                category=random.choice(["", "cloud", "people"]), gl_code=random.choice(["", "6000", "6100"]),
            )  # fmt: skip
            model.post(allocation, model.path(department, day))
        allocation, path = random.choice(model.posted)
        if not allocation.reversal_of_id and all(each.reversal_of_id != allocation.id for each, _ in model.posted):
            later = random.choice(["", "2026-03-04"])
            model.post(await api.reverse(allocation, later), path)
    return model


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_every_grouping_of_both_trees_matches_a_simple_model(api: CostsApi, acme: Entity, seed: int) -> None:
    random = Random(seed)  # noqa: S311 - test data, not a secret
    await api.set_rates("2026-01-01 EUR/USD 1.25", "2026-02-01 EUR/USD 1.1", "2026-03-01 EUR/USD 1.07")
    model = await post_random_costs(api, acme, random)
    period, compared = ("2026-01-30", "2026-03-03"), 0
    for by in chain.from_iterable(combinations(GROUPINGS, count) for count in range(5)):
        for department in random.sample(list(model.placements), 3):
            order, tree, below = random.sample(by, len(by)), random.choice([POSTED, CURRENT]), random.random() < 0.8
            result = await api.costs(department, *period, by=order, tree=tree, include_descendants=below)
            expected = model.groups(department, period, order, tree, below=below)
            groups = [(group_key(group, order), sum_values(group.sum)) for group in result.groups]
            assert groups == (expected if order else [])
            all_of_it = [sum_ for _, sum_ in model.groups(department, period, [], tree, below=below)]
            assert [sum_values(result.total)] == (all_of_it or [("0.00 EUR", 0, 0, [])])
            compared += bool(all_of_it)
    assert compared > 20, "too few comparisons with costs"


class TestTrees:
    async def test_late_cost_counts_below_the_parent_of_its_day(self, api: CostsApi, acme: Entity) -> None:
        old, new = [await api.create_department(acme, code, start_date="2026-01-01") for code in ("OLD", "NEW")]
        team = await api.create_department(acme, "TEAM", parent_id=old.id, start_date="2026-01-01")
        await api.move_department(team, new, "2026-11-28")
        for day, parent in (("2026-10-20", old), ("2026-11-27", old), ("2026-11-28", new)):
            late = await api.allocate(team, day, "10.00 EUR")
            assert list(late.department_path) == [parent.id, team.id]
        assert [await api.total(each, tree=POSTED) for each in (old, new)] == ["20.00 EUR", "10.00 EUR"]

    async def test_prepaid_cost_counts_below_the_planned_parent(self, api: CostsApi, acme: Entity) -> None:
        old, new = await api.create_department(acme, "OLD"), await api.create_department(acme, "NEW")
        team = await api.create_department(acme, "TEAM", parent_id=old.id)
        tomorrow, later = [(datetime.now(UTC).date() + timedelta(days=days)).isoformat() for days in (1, 5)]
        await api.move_department(team, new, later)
        paths = [list((await api.allocate(team, day)).department_path) for day in (tomorrow, later)]
        assert paths == [[old.id, team.id], [new.id, team.id]]

    async def test_cost_before_the_first_placement_counts_below_the_first_parent(
        self, api: CostsApi, acme: Entity
    ) -> None:
        old, new = await api.create_department(acme, "OLD"), await api.create_department(acme, "NEW")
        team = await api.create_department(acme, "TEAM", parent_id=old.id)
        await api.move_department(team, new, (datetime.now(UTC).date() + timedelta(days=1)).isoformat())
        assert list((await api.allocate(team, "2025-12-31")).department_path) == [old.id, team.id]

    async def test_posted_costs_stay_although_the_history_is_corrected(self, api: CostsApi, acme: Entity) -> None:
        old, new = [await api.create_department(acme, code, start_date="2026-01-01") for code in ("OLD", "NEW")]
        team = await api.create_department(acme, "TEAM", parent_id=old.id, start_date="2026-01-01")
        await api.allocate(team, "2026-05-01", "10.00 EUR")
        await api.move_department(team, new, "2026-04-01")
        await api.allocate(team, "2026-05-01", "1.00 EUR")
        assert [await api.total(each, tree=POSTED) for each in (old, new, team)] == [
            "10.00 EUR",
            "1.00 EUR",
            "11.00 EUR",
        ]
        assert [await api.total(each, tree=CURRENT) for each in (old, new, team)] == [
            "0.00 EUR",
            "11.00 EUR",
            "11.00 EUR",
        ]
        assert await api.total(old) == "10.00 EUR", "POSTED is the default"

    async def test_costs_posted_between_a_move_and_its_reversion_are_found(self, api: CostsApi, acme: Entity) -> None:
        old, new = [await api.create_department(acme, code, start_date="2026-01-01") for code in ("OLD", "NEW")]
        team = await api.create_department(acme, "TEAM", parent_id=old.id, start_date="2026-01-01")
        await api.move_department(team, new, "2026-04-01")
        await api.allocate(team, "2026-05-01", "1.00 EUR")
        await api.move_department(team, old, "2026-04-01")
        assert [await api.total(each, tree=POSTED) for each in (old, new)] == ["0.00 EUR", "1.00 EUR"]

    async def test_reversal_counts_where_the_cost_was_posted(self, api: CostsApi, acme: Entity) -> None:
        old, new = await api.create_department(acme, "OLD"), await api.create_department(acme, "NEW")
        team = await api.create_department(acme, "TEAM", parent_id=old.id)
        allocation = await api.allocate(team, "2026-05-01", "10.00 EUR")
        await api.move_department(team, new)
        await api.reverse(allocation)
        result = await api.costs(old, include_descendants=True, by=["MONTH"])
        assert sum_values(result.total) == ("0.00 EUR", 1, 1, ["0.00 EUR"])
        assert [group.month for group in result.groups] == ["2026-05"], "a group with the sum zero is included"
        assert await api.total(new, tree=CURRENT) == "0.00 EUR"

    async def test_without_descendants_only_own_costs_count(self, api: CostsApi, acme: Entity) -> None:
        top = await api.create_department(acme, "TOP")
        below = await api.create_department(acme, "BELOW", parent_id=top.id)
        await api.allocate(top, "2026-05-01", "1.00 EUR")
        await api.allocate(below, "2026-05-01", "2.00 EUR")
        for tree in (POSTED, CURRENT):
            result = await api.costs(top, tree=tree)
            assert (money_text(result.total.cost), result.include_descendants) == ("1.00 EUR", False)
            assert await api.total(top, tree=tree) == "3.00 EUR"


class TestPeriods:
    async def test_period_includes_start_and_excludes_end(self, api: CostsApi, acme: Entity) -> None:
        department = await api.create_department(acme)
        for cents, day in enumerate(("2026-01-31", "2026-02-01", "2026-02-28", "2026-03-01")):
            await api.allocate(department, day, f"0.0{cents + 1} EUR")
        assert await api.total(department, "2026-02-01", "2026-03-01") == "0.05 EUR"
        assert await api.total(department, "2026-02-28", "2026-03-01") == "0.03 EUR"
        result = await api.costs(department, by=["MONTH"])
        months = [(group.month, group.sum.cost.amount) for group in result.groups]
        assert months == [("2026-01", "0.01"), ("2026-02", "0.05"), ("2026-03", "0.04")]

    async def test_no_costs_result_in_zero(self, api: CostsApi, acme: Entity) -> None:
        department = await api.create_department(acme)
        result = await api.costs(department, by=["MONTH", "CATEGORY"], include_descendants=True)
        assert (sum_values(result.total), list(result.groups)) == (("0.00 EUR", 0, 0, []), [])
        assert (result.department_id, result.entity_id) == (department.id, acme.id)
        assert (result.start_date, result.end_date, result.tree) == ("2026-01-01", "2027-01-01", POSTED)
        assert list(result.group_by) == [DepartmentCosts.MONTH, DepartmentCosts.CATEGORY]
        assert result.conversion_rate.derivation == ConversionRate.SAME

    @pytest.mark.parametrize("end", ["2026-01-01", "2025-12-31"])
    async def test_end_must_be_after_start(self, api: CostsApi, acme: Entity, end: str) -> None:
        error = await refusal(api.costs(await api.create_department(acme), "2026-01-01", end))
        assert (error.reason, set(error.rules.values())) == ("INVALID_FIELDS", {"costs.period"})

    async def test_group_by_must_be_unique(self, api: CostsApi, acme: Entity) -> None:
        error = await refusal(api.costs(await api.create_department(acme), by=["MONTH", "MONTH"]))
        assert (error.reason, set(error.fields)) == ("INVALID_FIELDS", {"group_by"})


class TestCurrencies:
    async def test_sums_are_converted_at_the_rate_of_the_last_day(self, api: CostsApi, acme: Entity) -> None:
        department = await api.create_department(acme)
        await api.set_rates("2026-01-01 EUR/USD 2", "2026-02-01 EUR/USD 1.125", "2026-03-01 EUR/USD 3")
        await api.allocate(department, "2026-01-10", "0.02 EUR", category="a")
        await api.allocate(
            department, "2026-01-10", "10.00 USD", category="b"
        )  # 5.00 EUR in the currency of the entity
        await api.allocate(department, "2026-02-10", "0.06 EUR", category="c")
        result = await api.costs(department, "2026-01-01", "2026-03-01", by=["CATEGORY"], currency_code="USD")
        costs = [(group.category, sum_values(group.sum)) for group in result.groups]
        assert costs == [
            ("a", ("0.02 USD", 1, 0, ["0.02 EUR"])),  # 0.0225
            ("b", ("5.63 USD", 1, 0, ["10.00 USD"])),  # 5.625
            ("c", ("0.07 USD", 1, 0, ["0.06 EUR"])),  # 0.0675
        ]
        assert sum_values(result.total) == ("5.72 USD", 3, 0, ["0.08 EUR", "10.00 USD"]), "5.715: half to even"
        rate = result.conversion_rate
        assert (rate.from_currency, rate.to_currency, rate.conversion_date) == ("EUR", "USD", "2026-02-28")
        assert (rate.derivation, rate.rate, rate.rate_date) == (ConversionRate.DIRECT, "1.125", "2026-02-01")

    async def test_total_is_the_same_for_every_grouping(self, api: CostsApi, acme: Entity) -> None:
        top = await api.create_department(acme, "TOP")
        departments = [await api.create_department(acme, f"D{number}", parent_id=top.id) for number in range(3)]
        await api.set_rates("2026-01-01 EUR/USD 1.028")
        for index, amount in enumerate(("0.11", "0.15", "0.12", "0.06", "0.16", "0.18")):
            await api.allocate(
                departments[index // 2], f"2026-01-{10 + index}", f"{amount} EUR", category=f"c{index}",
                gl_code=f"{index // 3}",
            )  # fmt: skip
        for count in range(5):
            for by in combinations(GROUPINGS, count):
                result = await api.costs(
                    top, "2026-01-01", "2026-02-01", by=by, include_descendants=True, currency_code="USD"
                )
                assert money_text(result.total.cost) == "0.80 USD", by  # 0.78 × 1.028 = 0.80184
                groups = sum(Decimal(group.sum.cost.amount) for group in result.groups)
                assert groups == (Decimal("0.80") if by else 0), by
        by_category = await api.costs(
            top, "2026-01-01", "2026-02-01", by=["CATEGORY"], include_descendants=True, currency_code="USD"
        )
        # 0.11308, 0.1542, 0.12336, 0.06168, 0.16448, 0.18504: the largest remainder is that of the last one.
        assert [group.sum.cost.amount for group in by_category.groups] == [
            "0.11", "0.15", "0.12", "0.06", "0.17", "0.19",
        ]  # fmt: skip

    async def test_unfinished_period_uses_the_rate_of_today(self, api: CostsApi) -> None:
        kiritimati = await api.create_entity("KI", time_zone="Pacific/Kiritimati")
        before = datetime.now(UTC) + timedelta(hours=14)
        department = await api.create_department(kiritimati)
        await api.set_rates(f"{before.date() - timedelta(days=1)} EUR/USD 2")
        end = before.date() + timedelta(days=300)
        result = await api.costs(department, "2026-01-01", end.isoformat(), currency_code="USD")
        after = datetime.now(UTC) + timedelta(hours=14)
        days = [each.date().isoformat() for each in (before, after)]
        assert days[0] <= result.conversion_rate.conversion_date <= days[1]

    async def test_missing_rate_is_refused_with_its_day(self, api: CostsApi, acme: Entity) -> None:
        department = await api.create_department(acme)
        await api.set_rates("2026-01-01 EUR/USD 2")
        error = await refusal(api.costs(department, "2026-01-01", "2026-03-01", currency_code="USD"))
        assert (error.code, error.reason) == (StatusCode.FAILED_PRECONDITION, "RATE_MISSING")
        assert error.metadata == {"from_currency_code": "EUR", "to_currency_code": "USD", "rate_date": "2026-02-28"}

    async def test_sums_have_the_digits_of_the_currency(self, api: CostsApi) -> None:
        tokyo = await api.create_entity("JP", currency_code="JPY")
        department = await api.create_department(tokyo)
        await api.set_rates("2026-05-01 JPY/BHD 0.0025")
        await api.allocate(department, "2026-05-01", "1001 JPY")
        assert await api.total(department, "2026-05-01", "2026-06-01") == "1001 JPY"
        assert await api.total(department, "2026-05-01", "2026-06-01", currency_code="BHD") == "2.502 BHD"  # 2.5025

    async def test_unknown_currency_is_refused(self, api: CostsApi, acme: Entity) -> None:
        error = await refusal(api.costs(await api.create_department(acme), currency_code="XYZ"))
        assert (error.reason, set(error.fields)) == ("INVALID_FIELDS", {"currency_code"})


async def test_too_many_groups_are_refused(api: CostsApi, acme: Entity, admin: Admin) -> None:
    department = await api.create_department(acme)
    await _allocate_categories(admin, api, acme, department, 10_000)
    result = await api.costs(department, by=["CATEGORY"])
    assert (len(result.groups), money_text(result.total.cost)) == (10_000, "10000.00 EUR")
    await api.allocate(department, "2026-05-01", "1.00 EUR", category="one more")
    error = await refusal(api.costs(department, by=["CATEGORY"]))
    assert (error.code, error.reason) == (StatusCode.FAILED_PRECONDITION, "TOO_MANY_COST_GROUPS")
    assert error.metadata == {"limit": "10000"}
    assert await api.total(department) == "10001.00 EUR"


async def _allocate_categories(admin: Admin, api: CostsApi, entity: Entity, department: Department, count: int) -> None:
    """Allocate 1.00 EUR in each of `count` categories."""
    await admin.execute(
        "insert into entities.cost_allocations (tenant_id, id, entity_id, department_id, department_path, category,"
        " source, source_ref, amount, currency_code, entity_amount, entity_currency_code, unit, gl_code,"
        " allocation_date, description, actor, create_time) select $1, gen_random_uuid(), $2, $3, array[$3::uuid],"
        " 'category ' || n, 'MANUAL', '', 1, 'EUR', 1, 'EUR', '', '', '2026-05-01', '', 'alice', now()"
        " from generate_series(1, $4::int) n",
        api.caller.tenant_id, ids.ENTITY.parse(entity.id), ids.DEPARTMENT.parse(department.id), count,
    )  # fmt: skip


class TestScopes:
    async def test_department_outside_scope_is_not_found(
        self, api: CostsApi, acme: Entity, api_for: Callable[[Caller], CostsApi], caller: Callable[..., Caller]
    ) -> None:
        mine, other = await api.create_department(acme, "MINE"), await api.create_department(acme, "OTHER")
        conny = api_for(caller("department_manager", department_scope=[mine.id]))
        other_tenant = api_for(caller("billing_admin", tenant=ids.new()))
        unknown = ids.DEPARTMENT.format(ids.new())
        for reader, department in ((conny, other.id), (other_tenant, mine.id), (api, unknown)):
            error = await refusal(reader.costs(department))
            assert (error.code, error.reason) == (StatusCode.NOT_FOUND, "DEPARTMENT_NOT_FOUND")
            assert error.metadata == {"department_id": department}
        assert sum_values((await conny.costs(mine)).total) == ("0.00 EUR", 0, 0, [])

    async def test_confined_caller_sees_costs_of_covered_departments_only(
        self, api: CostsApi, acme: Entity, api_for: Callable[[Caller], CostsApi], caller: Callable[..., Caller]
    ) -> None:
        top = await api.create_department(acme, "TOP")
        stays = await api.create_department(acme, "STAYS", parent_id=top.id)
        leaves = await api.create_department(acme, "LEAVES", parent_id=top.id)
        for department, amount in ((top, "1.00 EUR"), (stays, "2.00 EUR"), (leaves, "4.00 EUR")):
            await api.allocate(department, "2026-05-01", amount)
        await api.move_department(leaves)
        assert await api.total(top) == "7.00 EUR"
        of_department = api_for(caller("department_manager", department_scope=[top.id]))
        assert [await of_department.total(top, tree=tree) for tree in (POSTED, CURRENT)] == ["3.00 EUR"] * 2
        of_entity = api_for(caller("department_manager", entity_scope=[acme.id]))
        assert [await of_entity.total(top, tree=tree) for tree in (POSTED, CURRENT)] == ["7.00 EUR", "3.00 EUR"]
