"""Who answers for departments, when somebody leaves."""

from eventing import outbox
from kit.db import WriteSession
from services.entities import domain, events, store
from services.entities.domain.departments import DepartmentAction


async def hand_over_departments(tx: WriteSession, user_id: str, successor: str) -> int:
    """Let the successor, or nobody where empty, answer for departments of a user, and say so for each.

    Gives for how many; there may be more left, as long as it is not 0.
    """
    handed = await store.managers.lock_departments_of(tx, user_id)
    for department in handed:
        department.state = domain.departments.advance(department.id, department.state, DepartmentAction.CHANGE)
        department.manager_user_id = successor
        await store.departments.save(tx, department)
        outbox.append(tx, events.published.department_manager_changed(department, user_id))
    return len(handed)
