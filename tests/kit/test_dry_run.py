"""Dry runs and advisory locks of write transactions."""

from collections.abc import Callable
from uuid import UUID, uuid4

import asyncpg
import pytest
from billing.budgets.v1.events_pb2 import BudgetClosed
from sqlalchemy.exc import DBAPIError

from eventing import outbox
from kit.db import Database, sqlstate
from kit.errors import IdempotencyMismatch
from kit.origin import Call, Origin
from kit.settings import Settings
from tests.kit.dead_letters import letter, letters

Origins = Callable[..., Origin]


class TestDryRun:
    async def test_nothing_is_stored(self, db: Database, call: Callable[..., Call]) -> None:
        checked = call(key="k", fingerprint=b"dry")
        async with db.write(checked, dry_run=True) as tx:
            tx.add(letter())
            outbox.append(tx, BudgetClosed(budget_id="b"))
            await tx.answer(BudgetClosed())
        assert await letters(db, checked) == []
        async with db.read(checked) as tx:
            for table in ("outbox", "idempotency_keys"):
                assert await tx.fetch(f"select * from {table} where tenant_id = $1", checked.tenant_id) == []

    async def test_relay_is_not_woken(self, db: Database, origin: Origins) -> None:
        db.appended.clear()
        async with db.write(origin(), dry_run=True) as tx:
            outbox.append(tx, BudgetClosed(budget_id="b"))
        assert not db.appended.is_set()

    async def test_key_is_free_afterwards(self, db: Database, call: Callable[..., Call]) -> None:
        for dry_run, fingerprint in ((True, b"dry"), (False, b"real")):
            async with db.write(call(key="k", fingerprint=fingerprint), dry_run=dry_run) as tx:
                tx.add(letter())
                await tx.answer(BudgetClosed())
        assert await letters(db, call()) == ["c"]

    async def test_key_used_by_a_real_call_is_a_mismatch(self, db: Database, call: Callable[..., Call]) -> None:
        async with db.write(call(key="k", fingerprint=b"real")) as tx:
            await tx.answer(BudgetClosed())
        with pytest.raises(IdempotencyMismatch):
            async with db.write(call(key="k", fingerprint=b"dry"), dry_run=True):
                pytest.fail("the block must not run")

    async def test_constraints_are_checked(self, db: Database, origin: Origins) -> None:
        async def insert_twice() -> None:
            async with db.write(origin(), dry_run=True) as tx:
                for row in (letter(), letter()):
                    row.event_id = UUID(int=1)
                    tx.add(row)

        with pytest.raises(DBAPIError) as refused:
            await insert_twice()
        assert sqlstate(refused.value) == "23505"

    async def test_deferred_statements_are_executed(self, db: Database, origin: Origins) -> None:
        with pytest.raises(asyncpg.UndefinedTableError):
            async with db.write(origin(), dry_run=True) as tx:
                tx.defer("insert into no_such_table values ($1)", 1)


class TestLock:
    @pytest.mark.parametrize("held", ["exclusive", "shared"])
    @pytest.mark.parametrize("requested", ["exclusive", "shared"])
    async def test_only_shared_locks_go_together(
        self, kit_settings: Callable[..., Settings], origin: Origins, held: str, requested: str
    ) -> None:
        db = Database(kit_settings(database_lock_timeout_ms=50))

        async def lock(kind: str) -> None:
            async with db.write(origin()) as tx:
                await tx.lock("trees", shared=kind == "shared")

        try:
            async with db.write(origin()) as holder:
                await holder.lock("trees", shared=held == "shared")
                if held == requested == "shared":
                    await lock(requested)
                else:
                    with pytest.raises(asyncpg.LockNotAvailableError):
                        await lock(requested)
            await lock(requested)
        finally:
            await db.close()

    async def test_other_names_and_tenants_do_not_wait(self, db: Database, origin: Origins) -> None:
        async with db.write(origin()) as holder:
            await holder.lock("trees")
            async with db.write(origin()) as tx:
                await tx.lock("rules")
            async with db.write(origin(tenant_id=uuid4())) as tx:
                await tx.lock("trees")
