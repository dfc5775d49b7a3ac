from datetime import UTC, date, datetime
from uuid import UUID

import pytest

from kit import dates, ids
from services.entities import domain
from services.entities.domain.departments import DepartmentAction, DepartmentState
from services.entities.domain.entities import EntityAction, EntityState
from services.entities.errors.departments import DepartmentStateForbids, DepartmentTreeTooDeep
from services.entities.errors.entities import EntityStateForbids, EntityTreeTooDeep

RESOURCE_ID = UUID(int=7)

ENTITIES = {
    EntityState.ACTIVE: {
        EntityAction.CHANGE: EntityState.ACTIVE,
        EntityAction.MOVE: EntityState.ACTIVE,
        EntityAction.ADD_COST: EntityState.ACTIVE,
        EntityAction.ADD_CHILD: EntityState.ACTIVE,
        EntityAction.ADD_DEPARTMENT: EntityState.ACTIVE,
        EntityAction.ADD_CONTRACT: EntityState.ACTIVE,
        EntityAction.ADD_INVOICE: EntityState.ACTIVE,
        EntityAction.DEACTIVATE: EntityState.INACTIVE,
    },
    EntityState.INACTIVE: {},
}
DEPARTMENTS = {
    DepartmentState.ACTIVE: {
        DepartmentAction.CHANGE: DepartmentState.ACTIVE,
        DepartmentAction.ADD_CHILD: DepartmentState.ACTIVE,
        DepartmentAction.MOVE: DepartmentState.ACTIVE,
        DepartmentAction.DEACTIVATE: DepartmentState.INACTIVE,
    },
    DepartmentState.INACTIVE: {
        DepartmentAction.CHANGE: DepartmentState.INACTIVE,
        DepartmentAction.ACTIVATE: DepartmentState.ACTIVE,
    },
}


@pytest.mark.parametrize("action", EntityAction)
@pytest.mark.parametrize("state", EntityState)
def test_every_action_in_every_state_of_an_entity(state: EntityState, action: EntityAction) -> None:
    expected = ENTITIES[state].get(action)
    if expected:
        assert domain.entities.advance(RESOURCE_ID, state, action) is expected
        return
    with pytest.raises(EntityStateForbids) as error:
        domain.entities.advance(RESOURCE_ID, state, action)
    allowed = [before for before, actions in ENTITIES.items() if action in actions]
    assert error.value.metadata["state"] == state
    assert error.value.metadata["allowed"] == ", ".join(allowed)


@pytest.mark.parametrize("action", DepartmentAction)
@pytest.mark.parametrize("state", DepartmentState)
def test_every_action_in_every_state_of_a_department(state: DepartmentState, action: DepartmentAction) -> None:
    expected = DEPARTMENTS[state].get(action)
    if expected:
        assert domain.departments.advance(RESOURCE_ID, state, action) is expected
        return
    with pytest.raises(DepartmentStateForbids) as error:
        domain.departments.advance(RESOURCE_ID, state, action)
    allowed = [before for before, actions in DEPARTMENTS.items() if action in actions]
    assert error.value.metadata["state"] == state
    assert error.value.metadata["allowed"] == ", ".join(allowed)


def test_every_action_is_allowed_in_some_state() -> None:
    assert {action for _, action in domain.entities.ENTITY_TRANSITIONS} == set(EntityAction)
    assert {action for _, action in domain.departments.DEPARTMENT_TRANSITIONS} == set(DepartmentAction)


def test_sixteen_levels_are_the_limit() -> None:
    path = [ids.new() for _ in range(16)]
    domain.entities.check_depth(path[:15])
    domain.entities.check_depth(path[:6], levels=10)
    domain.departments.check_depth(path[:15])
    with pytest.raises(EntityTreeTooDeep):
        domain.entities.check_depth(path)
    with pytest.raises(EntityTreeTooDeep):
        domain.entities.check_depth(path[:6], levels=11)
    with pytest.raises(DepartmentTreeTooDeep):
        domain.departments.check_depth(path)


@pytest.mark.parametrize(
    ("time_zone", "day"),
    [
        ("UTC", date(2026, 12, 31)),
        ("Pacific/Kiritimati", date(2027, 1, 1)),
        ("Pacific/Pago_Pago", date(2026, 12, 31)),
        ("Asia/Tokyo", date(2027, 1, 1)),
    ],
)
def test_date_is_that_of_the_time_zone(time_zone: str, day: date) -> None:
    assert dates.date_in(time_zone, datetime(2026, 12, 31, 15, 0, tzinfo=UTC)) == day
