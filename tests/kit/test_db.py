"""Transactions: rows of one tenant, read-only reads, atomic writes."""

import asyncio
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from sqlalchemy import TextClause, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import QueuePool

from kit import clock, ids, transactions
from kit.auth import Scope
from kit.db import Database, WriteSession, found, scope_filter, sqlstate
from kit.errors import Conflict, EtagMismatch
from kit.origin import Origin
from kit.settings import Settings
from services.budgets.models.budgets import BudgetRow
from serving.operations import DeadLetterRow
from tests.harness.databases import Copy
from tests.harness.observe import eventually
from tests.kit.dead_letters import letter, letters

Pool = asyncpg.Pool
Origins = Callable[..., Origin]


SLOW_COMMIT = """
    create or replace function budgets.slow_commit() returns trigger language plpgsql as $$
    begin perform pg_sleep(5); return null; end $$;
    drop trigger if exists slow_commit on budgets.dead_letters;
    create constraint trigger slow_commit after insert on budgets.dead_letters deferrable initially deferred
        for each row when (new.consumer = 'slow') execute function budgets.slow_commit();
"""


async def current_setting(tx: Any, setting: str) -> str:
    value: str = (
        await tx._session.execute(text("select current_setting(:name, true)"), {"name": setting})
    ).scalar_one()
    return value


class TestWrite:
    async def test_it_commits_at_the_end_of_the_block(self, db: Database, origin: Origins) -> None:
        async with db.write(origin()) as tx:
            tx.add(letter())
        assert await letters(db, origin()) == ["c"]

    async def test_an_exception_rolls_everything_back(self, db: Database, origin: Origins) -> None:
        async def write() -> None:
            async with db.write(origin()) as tx:
                tx.add(letter())
                await tx.flush()
                raise RuntimeError("no")

        with pytest.raises(RuntimeError, match="no"):
            await write()
        assert await letters(db, origin()) == []

    async def test_added_rows_get_the_tenant_of_the_transaction(self, db: Database, origin: Origins) -> None:
        row = letter()
        row.tenant_id = uuid4()
        async with db.write(origin()) as tx:
            tx.add(row)
        assert row.tenant_id == origin().tenant_id

    async def test_a_cancelled_call_never_succeeds_without_its_commit(self, db: Database, origin: Origins) -> None:
        outcomes = [await self.cancelled_after(db, origin(tenant_id=uuid4()), turns) for turns in range(0, 60, 2)]
        assert all(stored for stored, succeeded in outcomes if succeeded)

    async def cancelled_after(self, db: Database, origin: Origin, turns: int) -> tuple[bool, bool]:
        """Cancel a write some turns of the loop after its commit began; return whether it was stored, and succeeded."""
        began = asyncio.Event()

        async def write() -> None:
            async with db.write(origin) as tx:
                tx.add(letter())
                began.set()

        task = asyncio.create_task(write())
        await began.wait()
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        (outcome,) = await asyncio.gather(task, return_exceptions=True)
        return bool(await letters(db, origin)), outcome is None

    async def test_a_commit_finishes_although_its_call_is_cancelled(
        self, db: Database, origin: Origins, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The commit is delayed until the cancellation, so that it is always in progress then."""
        begun, cancelled = asyncio.Event(), asyncio.Event()
        commit = transactions._commit

        async def delayed_commit(driver: Any) -> None:
            begun.set()
            await cancelled.wait()
            await commit(driver)

        monkeypatch.setattr(transactions, "_commit", delayed_commit)
        monkeypatch.setattr(
            transactions, "_COMMIT_GRACE_S", 10.0
        )  # a commit to a busy disk takes longer than the default

        async def write() -> None:
            async with db.write(origin()) as tx:
                tx.add(letter())

        task = asyncio.create_task(write())
        await begun.wait()
        task.cancel()
        cancelled.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await letters(db, origin()) == ["c"]

    async def test_a_call_cancelled_before_its_commit_changes_nothing(self, db: Database, origin: Origins) -> None:
        async def write(tenant_id: UUID) -> None:
            async with db.write(origin(tenant_id=tenant_id)) as tx:
                tx.add(letter())
                await tx.flush()
                await asyncio.sleep(3600)

        tenants = [uuid4() for _ in range(10)]
        tasks = [asyncio.create_task(write(tenant_id)) for tenant_id in tenants]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert not any([await letters(db, origin(tenant_id=tenant_id)) for tenant_id in tenants])

    async def test_a_hanging_commit_blocks_neither_call_nor_connection(
        self, db: Database, origin: Origins, kit_admin: "asyncpg.Pool[asyncpg.Record]"
    ) -> None:
        await kit_admin.execute(SLOW_COMMIT)

        async def write() -> None:
            async with db.write(origin()) as tx:
                tx.add(letter("slow"))
                await tx.flush()
                begun.set()

        begun = asyncio.Event()
        task = asyncio.create_task(write())
        await begun.wait()
        await asyncio.sleep(0.1)
        task.cancel()
        started = time.monotonic()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert time.monotonic() - started < 2.5
        pool = db._engine.pool
        assert isinstance(pool, QueuePool)
        await eventually(lambda: asyncio.sleep(0, pool.checkedout() == 0))
        assert await letters(db, origin()) == []


class TestRead:
    async def test_now_is_when_the_transaction_began(self, db: Database, origin: Origins) -> None:
        async with db.read(origin()) as tx:
            began = await tx.now()
            assert await tx.now() == began
            assert began.utcoffset() == timedelta(0)
            assert abs(clock.now() - began) < timedelta(minutes=1)

    def test_found_returns_the_row_or_raises(self) -> None:
        assert found(1, Conflict()) == 1
        with pytest.raises(Conflict):
            found(None, Conflict())

    async def test_the_database_rejects_writes(self, db: Database, origin: Origins) -> None:
        with pytest.raises(DBAPIError) as refused:
            async with db.read(origin()) as tx:
                await tx._session.execute(text("delete from dead_letters"))
        assert sqlstate(refused.value) == "25006"

    async def test_the_session_has_no_methods_that_write(self, db: Database, origin: Origins) -> None:
        async with db.read(origin()) as tx:
            for name in ("add", "flush", "execute", "returning", "answer", "lock"):
                assert not hasattr(tx, name)
                assert hasattr(WriteSession, name)


class TestSettings:
    async def test_tenant_actor_and_trace_are_set_in_the_transaction(self, db: Database, origin: Origins) -> None:
        mine = origin(actor="carol")
        async with db.write(mine) as tx:
            assert await current_setting(tx, "app.tenant_id") == str(mine.tenant_id)
            assert await current_setting(tx, "app.actor") == "carol"
            assert await current_setting(tx, "app.trace_id") == mine.trace.trace_id
            assert await current_setting(tx, "statement_timeout") in {"10s", *(f"{ms}ms" for ms in range(9000, 10_000))}

    async def test_settings_do_not_outlive_the_transaction(
        self, kit_settings: Callable[..., Settings], origin: Origins
    ) -> None:
        db = Database(kit_settings(database_pool_size=1))
        try:
            for _ in range(2):
                async with db.write(origin()) as tx:
                    tx.add(letter())
                with pytest.raises(RuntimeError):
                    async with db.write(origin()):
                        raise RuntimeError
                async with db._engine.connect() as next_user:
                    for setting in ("app.tenant_id", "app.actor", "app.trace_id", "app.everywhere"):
                        value = (await next_user.execute(text(f"select current_setting('{setting}', true)"))).scalar()
                        assert value in {"", None}
                async with db.all_tenants() as session:
                    value = (await session.execute(text("select current_setting('app.tenant_id', true)"))).scalar()
                    assert value in {"", None}
        finally:
            await db.close()

    async def test_statements_are_cancelled_at_the_deadline(self, db: Database, origin: Origins) -> None:
        with pytest.raises(DBAPIError) as refused:
            async with db.read(origin(deadline=asyncio.get_running_loop().time() + 0.1)) as tx:
                await tx._session.execute(text("select pg_sleep(5)"))
        assert sqlstate(refused.value) == "57014"

    async def test_waiting_for_a_lock_times_out(self, kit_settings: Callable[..., Settings], origin: Origins) -> None:
        db = Database(kit_settings(database_lock_timeout_ms=50))
        try:
            async with db.write(origin()) as tx:
                tx.add(letter())
            locked = select(DeadLetterRow).with_for_update()
            async with db.write(origin()) as holder:
                await holder.all(locked)
                with pytest.raises(DBAPIError) as refused:
                    async with db.write(origin()) as waiting:
                        await waiting.all(locked)
            assert sqlstate(refused.value) == "55P03"
        finally:
            await db.close()


class TestTenants:
    TABLES = ("budgets", "budget_entries", "budget_alerts", "audit_log", "outbox", "inbox", "dead_letters",
              "idempotency_keys")  # fmt: skip

    async def test_without_a_tenant_no_row_is_visible(self, kit_database: Copy, db: Database, origin: Origins) -> None:
        async with db.write(origin()) as tx:
            tx.add(letter())
        connection = await asyncpg.connect(kit_database.url("budgets_app"))
        try:
            for table in self.TABLES:
                assert await connection.fetch(f"select * from {table}") == []
        finally:
            await connection.close()

    async def test_only_rows_of_the_tenant_are_visible_and_changed(
        self, db: Database, origin: Origins, kit_admin: "Pool[asyncpg.Record]"
    ) -> None:
        mine, other = origin(), origin(tenant_id=uuid4())
        for whose, name in ((mine, "mine"), (other, "theirs")):
            async with db.write(whose) as tx:
                tx.add(letter(name))
        assert await letters(db, mine) == ["mine"]
        async with db.write(mine) as tx:
            assert await tx.execute(text("update dead_letters set error = 'changed'")) == 1
            assert await tx.execute(text("delete from dead_letters")) == 1
        assert await letters(db, other) == ["theirs"]
        rows = await kit_admin.fetch("select error from budgets.dead_letters where tenant_id = $1", other.tenant_id)
        assert [row["error"] for row in rows] == ["e"]

    async def test_rows_of_other_tenants_can_not_be_written(self, db: Database, origin: Origins) -> None:
        other = uuid4()
        insert = text(
            "insert into inbox (tenant_id, consumer, event_id) values (:tenant_id, 'c', gen_random_uuid())"
        ).bindparams(tenant_id=other)
        move = text("update dead_letters set tenant_id = :tenant_id").bindparams(tenant_id=other)

        async def write(statement: TextClause) -> None:
            async with db.write(origin()) as tx:
                tx.add(letter())
                await tx.flush()
                await tx.execute(statement)

        for statement in (insert, move):
            with pytest.raises(DBAPIError) as refused:
                await write(statement)
            assert sqlstate(refused.value) == "42501"

    async def test_only_outbox_and_dead_letters_are_visible_over_all_tenants(
        self, db: Database, origin: Origins
    ) -> None:
        async with db.write(origin()) as tx:
            tx.add(letter())
        async with db.all_tenants() as session:
            for table in self.TABLES:
                if table not in {"outbox", "dead_letters"}:
                    assert (await session.execute(text(f"select * from {table}"))).all() == []
            assert (await session.execute(text("select * from dead_letters"))).all()

    @pytest.mark.parametrize("statement", ["update dead_letters set error = 'x'", "delete from dead_letters"])
    async def test_dead_letters_of_all_tenants_can_only_be_read(
        self, db: Database, origin: Origins, statement: str
    ) -> None:
        async with db.write(origin()) as tx:
            tx.add(letter())
        async with db.all_tenants() as session:
            result = await session.execute(text(statement))
            assert getattr(result, "rowcount", None) == 0

    async def test_the_service_itself_can_not_write_the_audit_log(self, db: Database, origin: Origins) -> None:
        forged = text(
            "insert into audit_log (tenant_id, resource_table, resource_id, action, actor, trace_id)"
            " values (:tenant_id, 'budgets', gen_random_uuid(), 'update', 'mallory', '')"
        )
        with pytest.raises(DBAPIError) as refused:
            async with db.write(origin()) as tx:
                await tx.execute(forged.bindparams(tenant_id=tx.tenant_id))
        assert sqlstate(refused.value) == "42501"

    async def test_the_service_itself_can_not_write_the_version_table(self, db: Database, origin: Origins) -> None:
        with pytest.raises(DBAPIError) as refused:
            async with db.write(origin()) as tx:
                await tx.execute(text("update alembic_version set version_num = '0001'"))
        assert sqlstate(refused.value) == "42501"

    @pytest.mark.parametrize("table", ["audit_log", "inbox", "idempotency_keys", "budget_entries"])
    @pytest.mark.parametrize("statement", ["update {} set tenant_id = tenant_id", "delete from {}", "truncate {}"])
    async def test_append_only_tables_can_not_be_changed(
        self, db: Database, origin: Origins, table: str, statement: str
    ) -> None:
        with pytest.raises(DBAPIError) as refused:
            async with db.write(origin()) as tx:
                await tx.execute(text(statement.format(table)))
        assert sqlstate(refused.value) == "42501"

    @pytest.mark.parametrize("table", ["audit_log", "inbox", "idempotency_keys", "budget_entries"])
    async def test_not_even_the_owner_can_change_append_only_tables(
        self, kit_database: Copy, origin: Origins, db: Database, table: str
    ) -> None:
        owner = await asyncpg.connect(kit_database.url("budgets_owner"))
        try:
            await owner.execute("select set_config('app.tenant_id', $1, false)", str(origin().tenant_id))
            await owner.execute(
                "insert into inbox (tenant_id, consumer, event_id) values ($1, 'c', $1)", origin().tenant_id
            )
            if table == "inbox":
                with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
                    await owner.execute(f"delete from {table}")
            assert await owner.fetchval("select count(*) from inbox") == 1
        finally:
            await owner.close()

    async def test_other_schemas_are_not_accessible(self, kit_database: Copy) -> None:
        connection = await asyncpg.connect(kit_database.url("budgets_app"))
        try:
            for relation in ("entities.billing_entities", "entities.outbox", "public.budgets"):
                with pytest.raises((asyncpg.InsufficientPrivilegeError, asyncpg.UndefinedTableError)):
                    await connection.fetch(f"select * from {relation}")
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute("create table budgets.mine (id int)")
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute("create schema mine")
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute("alter table budgets disable row level security")
        finally:
            await connection.close()


class TestScope:
    def test_without_a_scope_there_is_no_condition(self) -> None:
        assert scope_filter(None, BudgetRow.entity_id) is None

    def test_an_empty_scope_covers_no_row(self) -> None:
        assert str(scope_filter(Scope(), BudgetRow.entity_id, BudgetRow.department_id)) == "false"

    def test_a_scope_covers_rows_of_an_entity_or_a_department(self) -> None:
        scope = Scope(frozenset({ids.new()}), frozenset({ids.new()}))
        condition = str(scope_filter(scope, BudgetRow.entity_id, BudgetRow.department_id))
        assert "entity_id IN" in condition
        assert " OR " in condition
        assert "department_id IN" in condition
        assert "department" not in str(scope_filter(scope, BudgetRow.entity_id))


class TestEtag:
    def test_an_empty_etag_matches_any_version(self) -> None:
        BudgetRow(version=3).check_etag("")
        BudgetRow(version=3).check_etag("3")

    @pytest.mark.parametrize("given", ["2", "03", "*", "3 "])
    def test_another_etag_is_rejected_with_the_current_one(self, given: str) -> None:
        with pytest.raises(EtagMismatch) as refused:
            BudgetRow(version=3).check_etag(given)
        assert refused.value.metadata == {"given": given, "etag": "3"}
