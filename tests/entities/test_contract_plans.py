"""How PostgreSQL reads twenty thousand contracts of one tenant: never from end to end for a part of them."""

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import date
from typing import Any, Final
from uuid import UUID

import asyncpg
import pytest

from kit import ids
from kit.db import Database, ReadSession
from kit.settings import Settings
from services.entities import store
from services.entities.domain.contracts import ContractFilter, ContractState, ContractType
from serving.pages import Page
from tests.harness.databases import Copy
from tests.harness.plans import Plans, Statement

CONTRACTS: Final = 20_000
ENTITIES: Final = 100
TABLE: Final = "billing_contracts"
Ask = Callable[[ReadSession, UUID], Awaitable[object]]


@pytest.fixture
async def filled(fresh_database: Callable[[], Awaitable[Copy]]) -> AsyncIterator[tuple[Copy, UUID, list[UUID]]]:
    """A database with the contracts, their tenant and its entities."""
    copy = await fresh_database()
    tenant, entity_ids = ids.new(), [ids.new() for _ in range(ENTITIES)]
    admin = await asyncpg.connect(copy.admin_url)
    await admin.execute("set search_path = entities")
    await admin.execute("set session_replication_role = replica")  # no audit of what is only there to be many
    await admin.execute(
        "insert into billing_entities select $1, id, null, id, 'Acme', '', 'HOLDING', 'EUR', 'DE', '', '', 0, null,"
        " 'UTC', 1, 30, 'A', 'INCLUDE', 'ACTIVE', '{}', 1, now(), now() from unnest($2::uuid[]) id",
        tenant,
        entity_ids,
    )
    await admin.execute(
        "insert into billing_contracts (tenant_id, id, entity_id, contract_number, name, contract_type, start_date,"
        " end_date, total_value, currency_code, billing_frequency, phases, license_tier, seats, payment_terms_days,"
        " purchase_order_number, auto_renew, renewal_term_months, renewal_notice_days, renewal_uplift_bp,"
        " license_state, license_id, license_problem, state, suspension_reason, termination_reason,"
        " terminated_for_cause, version, create_time, update_time) select $1, gen_random_uuid(),"
        " ($2::uuid[])[1 + n % $4], 'C-' || n, 'Cloud ' || n, case when n % 50 = 0 then 'MASTER' else 'SERVICES' end,"
        " '2020-01-01', date '2021-01-01' + n % 3650, 1, 'EUR', 'MONTHLY', '[]', '', 0, 30, '', false, 12, 30, 0,"
        " 'NONE', '', '', case when n % 40 = 0 then 'DRAFT' when n % 5 = 0 then 'ACTIVE' else 'EXPIRED' end, '', '',"
        " false, 1, now(), now() from generate_series(1, $3) n",
        tenant,
        entity_ids,
        CONTRACTS,
        ENTITIES,
    )
    await admin.execute("vacuum analyze billing_contracts")
    yield copy, tenant, entity_ids
    await admin.close()


def listed(**filters: Any) -> Ask:
    """ListContracts, a page of it; "entity" stands for one of them."""

    def ask(tx: ReadSession, entity_id: UUID) -> Awaitable[object]:
        of_entity = {"entity_id": entity_id} if "entity_id" in filters else {}
        return store.contracts.list_page(tx, Page(50, None, b"", b""), ContractFilter(**{**filters, **of_entity}))

    return ask


QUERIES: Final[dict[str, Ask]] = {
    "list": listed(),
    "list of an entity": listed(entity_id=True),
    "list of a state": listed(state=ContractState.DRAFT),
    "list of a state that none is in": listed(state=ContractState.SUSPENDED),
    "list of a type": listed(contract_type=ContractType.MASTER),
    "list of what ends soon": listed(ends_from=date(2026, 1, 1), ends_before=date(2026, 1, 8)),
    "those in force of an entity": store.contracts.list_ids_in_force,
    "summary": lambda tx, entity_id: store.contracts.summarize(tx, [entity_id]),
}
"""What is asked. Text that is looked for is in no index, since under row-level security none would be read for it."""


async def test_a_part_is_read_by_an_index(
    filled: tuple[Copy, UUID, list[UUID]], settings: Callable[..., Settings]
) -> None:
    copy, tenant, entity_ids = filled
    database = Database(settings("entities", database=copy))
    connection = await asyncpg.connect(copy.url("entities_app"))
    plans = Plans(database, connection, tenant)
    wrong = {}
    try:
        for name, ask in QUERIES.items():
            ((statement, parameters),) = await asked(plans, ask, entity_ids[7])
            for read in await plans.reads(statement, parameters, of_table=TABLE):
                if read.sequential_scans or not read.indexes:
                    wrong[name] = read, statement
        for read in await plans.reads("select max(name) from billing_contracts", []):
            assert read.sequential_scans  # so it would be seen
    finally:
        await connection.close()
        await database.close()
    assert not wrong


async def asked(plans: Plans, ask: Ask, entity_id: UUID) -> list[Statement]:
    """The statements about contracts that the store sends."""
    said, _ = await plans.statements(lambda tx: ask(tx, entity_id))
    return [each for each in said if TABLE in each[0]]
