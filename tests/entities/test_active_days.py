"""The days of which a department accepts costs: from its start on, and while it was active."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from uuid import UUID

import asyncpg
import pytest
from billing.entities.v1.department_pb2 import Department
from billing.entities.v1.entity_pb2 import Entity
from grpc import StatusCode

from kit import ids
from services.entities.domain.departments import ActiveDays
from services.entities.errors.departments import DepartmentInactiveOnDate
from tests.entities.allocation_api import line
from tests.entities.costs_api import CostsApi
from tests.harness.callers import Caller, refusal
from tests.harness.services import Entities

DAYS = [date(2026, 3, day) for day in range(1, 8)]
A, B, C, D, E, F, G = DAYS


@pytest.fixture
def api(entities: Entities, finance: Caller) -> CostsApi:
    return CostsApi(finance, entities)


def day(days: int) -> str:
    """The day `days` from today."""
    return (datetime.now(UTC).date() + timedelta(days=days)).isoformat()


@pytest.mark.parametrize(
    ("start", "changes", "active"),
    [
        (None, [], "ABCDEFG"),
        (C, [], "CDEFG"),
        (None, [D], "ABC"),
        (B, [D], "BC"),
        (None, [B, D], "ADEFG"),
        (None, [B, D, F], "ADE"),
        (None, [B, B], "ABCDEFG"),
        (None, [B, D, D], "A"),
        (None, [B, B, D], "ABC"),
        (D, [B], ""),
    ],
)
def test_active_days_follow_from_start_and_state_changes(start: date | None, changes: list[date], active: str) -> None:
    def is_active(on: date) -> bool:
        try:
            ActiveDays(start, changes).check(UUID(int=1), on)
        except DepartmentInactiveOnDate:
            return False
        return True

    assert "".join(name for name, on in zip("ABCDEFG", DAYS, strict=True) if is_active(on)) == active


def test_state_changes_stay_in_order_when_the_clock_or_the_time_zone_goes_back() -> None:
    assert ActiveDays(None, [D]).with_change(C) == [D, D]
    assert ActiveDays(None, [D]).with_change(E) == [D, E]
    assert ActiveDays(None, []).with_change(A) == [A]


class TestDeactivated:
    async def test_late_invoice_of_a_closed_department_is_accepted(self, api: CostsApi, acme: Entity) -> None:
        department = await api.create_department(acme)
        await api.deactivate_department(department)
        late = await api.allocate(department, day(-1), "100.00 EUR")
        assert late.department_id == department.id
        for after in (0, 1):
            error = await refusal(api.allocate(department, day(after)))
            assert (error.code, error.reason) == (StatusCode.FAILED_PRECONDITION, "DEPARTMENT_INACTIVE_ON_DATE")
            assert error.metadata == {
                "department_id": department.id, "allocation_date": day(after), "inactive_date": day(0),
            }  # fmt: skip
            assert error.message == (
                f"The department {department.id} accepts costs only for days on which it is active, not for"
                f" {day(after)}: it is inactive since {day(0)}."
            )
        assert await api.total(department, day(-1), day(2)) == "100.00 EUR"

    async def test_days_between_deactivation_and_activation_stay_inactive(
        self, api: CostsApi, acme: Entity, admin: "asyncpg.Pool[asyncpg.Record]"
    ) -> None:
        department = await api.create_department(acme)
        inactive = await api.deactivate_department(department)
        assert (inactive.state, inactive.inactive_date) == (Department.INACTIVE, day(0))
        earlier = "update entities.departments set state_changes = array[current_date - 5] where id = $1"
        await admin.execute(earlier, ids.DEPARTMENT.parse(department.id))
        active = await api.activate_department(department)
        assert (active.state, active.inactive_date) == (Department.ACTIVE, "")
        for accepted in (-6, 0):
            await api.allocate(department, day(accepted))
        for refused in (-5, -1):
            error = await refusal(api.allocate(department, day(refused)))
            assert error.message.endswith(f"it was inactive from {day(-5)} until {day(0)}.")
            assert (error.metadata["inactive_date"], error.metadata["active_again_date"]) == (day(-5), day(0))

    async def test_each_line_of_a_batch_is_checked_for_its_day(self, api: CostsApi, acme: Entity) -> None:
        department = await api.create_department(acme)
        await api.deactivate_department(department)
        lines = [line(department, allocation_date=day(days)) for days in (-1, 0, -2)]
        results = (await api._allocations.batch(*lines)).results
        assert [result.refusal.reason for result in results] == ["", "DEPARTMENT_INACTIVE_ON_DATE", ""]

    async def test_a_repeated_cost_returns_the_existing_allocation(self, api: CostsApi, acme: Entity) -> None:
        department = await api.create_department(acme)
        first = await api.allocate(department, day(0), source_ref="INV-1")
        await api.deactivate_department(department)
        assert (await api.allocate(department, day(0), source_ref="INV-1")).id == first.id


class TestStart:
    async def test_cost_before_the_start_is_refused(self, api: CostsApi, acme: Entity) -> None:
        department = await api.create_department(acme, start_date="2026-10-01")
        assert department.start_date == "2026-10-01"
        assert await api.department(department) == department
        await api.allocate(department, "2026-10-01")
        error = await refusal(api.allocate(department, "2026-09-30"))
        assert (error.code, error.reason) == (StatusCode.FAILED_PRECONDITION, "DEPARTMENT_INACTIVE_ON_DATE")
        assert error.metadata == {
            "department_id": department.id, "allocation_date": "2026-09-30", "start_date": "2026-10-01",
        }  # fmt: skip
        assert error.message.endswith("not for 2026-09-30: it starts on 2026-10-01.")

    async def test_start_can_be_changed_and_cleared(self, api: CostsApi, acme: Entity) -> None:
        department = await api.create_department(acme, start_date="2026-10-01")
        assert (await api.update_department(department, start_date="2026-09-01")).start_date == "2026-09-01"
        await api.allocate(department, "2026-09-30")
        await refusal(api.allocate(department, "2026-08-31"))
        cleared = await api.update_department(department, update_mask={"paths": ["start_date"]})
        assert cleared.start_date == ""
        await api.allocate(department, "2026-08-31")

    async def test_without_a_start_costs_of_any_day_are_accepted(self, api: CostsApi, acme: Entity) -> None:
        department = await api.create_department(acme)
        assert department.start_date == ""
        await api.allocate(department, "2025-01-31")

    async def test_placement_begins_with_a_start_in_the_past(self, api: CostsApi, acme: Entity) -> None:
        top = await api.create_department(acme, "TOP", start_date=day(-30))
        low = await api.create_department(acme, "LOW", parent_id=top.id, start_date=day(-20))
        later = await api.create_department(acme, "LATER", parent_id=top.id, start_date=day(20))
        assert await api.history(top) == [("", day(-30), "")]
        assert await api.history(low) == [(top.id, day(-20), "")]
        assert await api.history(later) == [(top.id, day(0), "")]
        await refusal(api.allocate(later, day(19)))
        await api.allocate(later, day(20))


class TestScope:
    async def test_scopes_follow_the_tree_of_today(
        self, api: CostsApi, acme: Entity, entities: Entities, caller: Callable[..., Caller]
    ) -> None:
        """A manager posts to the departments below theirs today, wherever these were on the day of the cost."""
        old = await api.create_department(acme, "OLD", start_date=day(-60))
        new = await api.create_department(acme, "NEW", start_date=day(-60))
        team = await api.create_department(acme, "TEAM", parent_id=old.id, start_date=day(-60))
        await api.move_department(team, new)
        managers = [CostsApi(caller(department_scope=[each.id]), entities) for each in (old, new)]
        assert (await refusal(managers[0].allocate(team, day(-30)))).reason == "DEPARTMENT_NOT_FOUND"
        assert list((await managers[1].allocate(team, day(-30))).department_path) == [old.id, team.id]
