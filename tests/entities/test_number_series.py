"""Number series: gapless under concurrency, formatted once a year, and protected by the database."""

import asyncio

import asyncpg
import pytest
from billing.entities.v1.billing_profile_pb2 import BillingProfile

from kit import ids
from kit.origin import Origin
from services.entities import store
from services.entities.domain.billing_documents import DocumentType
from tests.entities.billing_profile_api import BillingProfileApi
from tests.harness.callers import Caller, refusal
from tests.harness.services import Entities, Served

INVOICE, STATEMENT, CREDIT_NOTE = DocumentType.INVOICE, DocumentType.STATEMENT, DocumentType.CREDIT_NOTE


class RolledBack(Exception):
    """Ends a transaction without a commit."""


class Series:
    """Takes numbers of a profile, each in a transaction of its own."""

    def __init__(self, served: Served[Entities], origin: Origin) -> None:
        self.db, self.origin = served.service.db, origin

    async def take(
        self, profile: BillingProfile, kind: DocumentType = INVOICE, year: int = 2026, *, commit: bool = True
    ) -> str:
        async with self.db.write(self.origin) as tx:
            row = await store.billing_profiles.get(tx, ids.BILLING_PROFILE.parse(profile.id))
            number = await store.number_series.take_next(tx, row, kind, year)
            if not commit:
                raise RolledBack
            return number


@pytest.fixture
def profiles(entities: Entities, finance: Caller) -> BillingProfileApi:
    return BillingProfileApi(finance, entities)


@pytest.fixture
def series(entities_served: Served[Entities], origin: Origin) -> Series:
    return Series(entities_served, origin)


class TestTakeNext:
    async def test_numbers_count_by_type_and_year(self, profiles: BillingProfileApi, series: Series) -> None:
        profile = await profiles.create()
        assert [await series.take(profile) for _ in range(3)] == [f"INV-2026-00000{number}" for number in (1, 2, 3)]
        assert await series.take(profile, STATEMENT) == "ST-2026-000001"
        assert await series.take(profile, CREDIT_NOTE) == "CN-2026-000001"
        assert await series.take(profile, INVOICE, 2027) == "INV-2027-000001"
        assert await series.take(profile) == "INV-2026-000004"

    async def test_profiles_have_series_of_their_own(self, profiles: BillingProfileApi, series: Series) -> None:
        first = await profiles.create()
        second = await profiles.create("B", invoice_prefix="B-", statement_prefix="BS-", credit_note_prefix="BC-")
        assert [await series.take(each) for each in (first, second, first)] == [
            "INV-2026-000001", "B-2026-000001", "INV-2026-000002",
        ]  # fmt: skip

    async def test_20_concurrent_takers_with_rollbacks_leave_no_gap(
        self, profiles: BillingProfileApi, series: Series
    ) -> None:
        profile = await profiles.create()
        committed: list[str] = []

        async def taker(number: int) -> None:
            for turn in range(5):
                try:
                    committed.append(await series.take(profile, commit=(number + turn) % 3 > 0))
                except RolledBack:
                    continue

        await asyncio.gather(*map(taker, range(20)))
        assert 50 < len(committed) < 100
        assert sorted(committed) == [f"INV-2026-{number:06}" for number in range(1, len(committed) + 1)]

    async def test_change_of_the_profile_applies_from_the_next_year_on(
        self, profiles: BillingProfileApi, series: Series
    ) -> None:
        profile = await profiles.create()
        assert await series.take(profile) == "INV-2026-000001"
        await profiles.update(profile, invoice_prefix="RE-", number_digits=3)
        assert await series.take(profile) == "INV-2026-000002"
        assert await series.take(profile, INVOICE, 2027) == "RE-2027-001"
        assert await series.take(profile, CREDIT_NOTE) == "CN-2026-001"

    async def test_used_prefix_stays_with_its_profile_and_type(
        self, profiles: BillingProfileApi, series: Series
    ) -> None:
        profile = await profiles.create()
        await series.take(profile)
        changed = await profiles.update(profile, invoice_prefix="RE-")
        others = {"statement_prefix": "BS-", "credit_note_prefix": "BC-"}
        for attempt in (profiles.create("B", **others), profiles.update(profile, statement_prefix="INV-")):
            assert (await refusal(attempt)).reason == "NUMBER_PREFIX_TAKEN"
        assert (await profiles.update(changed, invoice_prefix="INV-")).invoice_prefix == "INV-"

    async def test_count_goes_on_beyond_its_digits(
        self, profiles: BillingProfileApi, series: Series, admin: "asyncpg.Pool[asyncpg.Record]"
    ) -> None:
        profile = await profiles.create(number_digits=3)
        await series.take(profile)
        async with admin.acquire() as connection, connection.transaction():
            await connection.execute("set local session_replication_role = replica")
            await connection.execute(
                "update entities.number_series set last_number = 999 where profile_id = $1",
                ids.BILLING_PROFILE.parse(profile.id),
            )
        assert await series.take(profile) == "INV-2026-1000"

    async def test_first_number_and_change_of_the_prefix_at_once(
        self, profiles: BillingProfileApi, series: Series
    ) -> None:
        for year in range(2030, 2042):
            profile = (await profiles.create(invoice_prefix=f"A{year}-", statement_prefix=f"S{year}-",
                                             credit_note_prefix=f"C{year}-"))  # fmt: skip
            number, _, later = await asyncio.gather(
                series.take(profile, INVOICE, year), profiles.update(profile, invoice_prefix=f"B{year}-"),
                series.take(profile, INVOICE, year),
            )  # fmt: skip
            assert {number.partition("-")[0], later.partition("-")[0]} in ({f"A{year}"}, {f"B{year}"})
            assert sorted(each[-6:] for each in (number, later)) == ["000001", "000002"]


MANIPULATIONS = {
    "set back": "update number_series set last_number = last_number - 1 where last_number > 1",
    "set to the same number": "update number_series set last_number = last_number",
    "jump": "update number_series set last_number = last_number + 2",
    "other prefix": "update number_series set prefix = 'CN-', last_number = last_number + 1",
    "other digits": "update number_series set digits = 4, last_number = last_number + 1",
    "other year": "update number_series set year = 2027, last_number = last_number + 1",
    "other type": "update number_series set document_type = 'CREDIT_NOTE', last_number = last_number + 1",
    "delete": "delete from number_series",
    "late start": "insert into number_series select tenant_id, profile_id, document_type, 2031, prefix, digits, 7"
    " from number_series",
}


class TestProtection:
    @pytest.mark.parametrize("statement", MANIPULATIONS.values(), ids=MANIPULATIONS)
    @pytest.mark.parametrize("role", ["entities_app", "entities_owner"])
    async def test_manipulation_is_refused(
        self, profiles: BillingProfileApi, series: Series, admin: "asyncpg.Pool[asyncpg.Record]", role: str,
        statement: str,
    ) -> None:  # fmt: skip
        profile = await profiles.create()
        for _ in range(2):
            await series.take(profile)
        tenant_id = profiles.caller.tenant_id
        async with admin.acquire() as connection:
            before = await connection.fetch("select * from entities.number_series where tenant_id = $1", tenant_id)
            async with connection.transaction():
                await connection.execute(f"set local role {role}; set local search_path = entities")
                await connection.execute("select set_config('app.tenant_id', $1, true)", str(tenant_id))
                with pytest.raises((asyncpg.IntegrityConstraintViolationError, asyncpg.InsufficientPrivilegeError)):
                    async with connection.transaction():
                        await connection.execute(statement)
            after = await connection.fetch("select * from entities.number_series where tenant_id = $1", tenant_id)
            assert after == before

    async def test_used_prefix_cannot_be_removed_or_given_away(
        self, profiles: BillingProfileApi, series: Series, admin: "asyncpg.Pool[asyncpg.Record]"
    ) -> None:
        profile = await profiles.create()
        await series.take(profile)
        profile_id = ids.BILLING_PROFILE.parse(profile.id)
        for statement in (
            "delete from entities.number_prefixes where profile_id = $1 and document_type = 'INVOICE'",
            "update entities.number_prefixes set document_type = 'STATEMENT' where profile_id = $1 and prefix = 'INV-'",
            "delete from entities.billing_profiles where id = $1",
        ):
            with pytest.raises(asyncpg.IntegrityConstraintViolationError):
                await admin.execute(statement, profile_id)

    async def test_a_tenant_has_at_most_one_default(
        self, profiles: BillingProfileApi, admin: "asyncpg.Pool[asyncpg.Record]"
    ) -> None:
        await profiles.create()
        second = await profiles.create("B", invoice_prefix="B-", statement_prefix="BS-", credit_note_prefix="BC-")
        with pytest.raises(asyncpg.UniqueViolationError, match="billing_profiles_default_key"):
            await admin.execute(
                "update entities.billing_profiles set is_default = true where id = $1",
                ids.BILLING_PROFILE.parse(second.id),
            )
