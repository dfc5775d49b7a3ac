"""`make dead-letters`: dead letters of a tenant are listed, redriven and dropped."""

from uuid import UUID, uuid4

import pytest

from deploy.local import keys
from tests.flows.conftest import Stack

CONSUMER = "budgets.close_budgets_of_entity"


def insert(stack: Stack, tenant: str, body: str) -> UUID:
    """Insert a dead letter of the budgets service; return the id of its event."""
    event_id = uuid4()
    stack.local(
        "psql", "--", "-c",
        "insert into budgets.dead_letters (id, tenant_id, consumer, event_id, subject, body, actor, traceparent, error,"
        f" deliveries) values ('{uuid4()}', '{keys.tenant_id(tenant)}', '{CONSUMER}', '{event_id}', 's', '{body}', 'a',"
        " '', 'RuntimeError()', 5)",
    )  # fmt: skip
    return event_id


def test_dead_letters_are_listed_redriven_and_dropped(stack: Stack) -> None:
    tenant = f"t{uuid4().hex[:8]}"
    assert "has no dead letters" in stack.local("dead-letters", TENANT=tenant)
    valid = insert(stack, tenant, f'{{"entityId": "ent_{uuid4().hex}"}}')
    invalid = insert(stack, tenant, '{"entityId": "x"}')
    listed = stack.local("dead-letters", TENANT=tenant)
    assert all(f"{event_id} {CONSUMER} RuntimeError()" in listed for event_id in (valid, invalid))
    redriven = stack.local("dead-letters", TENANT=tenant, REDRIVE="all")
    assert f"{valid} {CONSUMER} redriven" in redriven
    assert f"{invalid} {CONSUMER} failed again" in redriven
    assert f"{invalid} {CONSUMER} dropped" in stack.local("dead-letters", TENANT=tenant, DROP=str(invalid))
    assert "has no dead letters" in stack.local("dead-letters", TENANT=tenant)
    with pytest.raises(AssertionError, match="there is no dead letter of tenant"):
        stack.local("dead-letters", TENANT=tenant, DROP=str(invalid))
