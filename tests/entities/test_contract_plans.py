"""Query plans for 20,000 contracts of one tenant: no filtered query may scan the whole table."""

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
Query = Callable[[ReadSession, UUID], Awaitable[object]]


@pytest.fixture
async def bulk_database(fresh_database: Callable[[], Awaitable[Copy]]) -> AsyncIterator[tuple[Copy, UUID, list[UUID]]]:
    """A database with these contracts, their tenant and its entities."""
    copy = await fresh_database()
    tenant, entity_ids = ids.new(), [ids.new() for _ in range(ENTITIES)]
    admin = await asyncpg.connect(copy.admin_url)
    await admin.execute("set search_path = entities")
    await admin.execute("set session_replication_role = replica")  # without audit records of the bulk data
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


def list_query(**filters: Any) -> Query:
    """A page of ListContracts; a true `entity_id` is replaced by the id of an entity."""

    def query(tx: ReadSession, entity_id: UUID) -> Awaitable[object]:
        of_entity = {"entity_id": entity_id} if "entity_id" in filters else {}
        return store.contracts.list_page(tx, Page(50, None, b"", b""), ContractFilter(**{**filters, **of_entity}))

    return query


QUERIES: Final[dict[str, Query]] = {
    "list": list_query(),
    "list of an entity": list_query(entity_id=True),
    "list of a state": list_query(state=ContractState.DRAFT),
    "list of a state without contracts": list_query(state=ContractState.SUSPENDED),
    "list of a type": list_query(contract_type=ContractType.MASTER),
    "list by end date": list_query(ends_from=date(2026, 1, 1), ends_before=date(2026, 1, 8)),
    "contracts in force of an entity": store.contracts.list_ids_in_force,
    "summary": lambda tx, entity_id: store.contracts.summarize(tx, [entity_id]),
}
"""Without the text filter: under row-level security PostgreSQL would not use an index for it."""


async def test_queries_use_an_index(
    bulk_database: tuple[Copy, UUID, list[UUID]], settings: Callable[..., Settings]
) -> None:
    copy, tenant, entity_ids = bulk_database
    database = Database(settings("entities", database=copy))
    connection = await asyncpg.connect(copy.url("entities_app"))
    plans = Plans(database, connection, tenant)
    violations = {}
    try:
        for name, query in QUERIES.items():
            ((statement, parameters),) = await statements_of(plans, query, entity_ids[7])
            for read in await plans.reads(statement, parameters, of_table=TABLE):
                if read.sequential_scans or not read.indexes:
                    violations[name] = read, statement
        for read in await plans.reads("select max(name) from billing_contracts", []):
            assert read.sequential_scans  # a full scan is detected
    finally:
        await connection.close()
        await database.close()
    assert not violations


async def statements_of(plans: Plans, query: Query, entity_id: UUID) -> list[Statement]:
    """Return the statements on the contracts table that the query sends."""
    statements, _ = await plans.statements(lambda tx: query(tx, entity_id))
    return [statement for statement in statements if TABLE in statement[0]]
