"""The ledger with concurrent callers, replicas and tenants: the results are those of sequential calls."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID, uuid4

import asyncpg
import grpc
import pytest
from billing.budgets.v1 import ledger_service_pb2 as pb
from billing.budgets.v1.alert_pb2 import Alert
from billing.budgets.v1.charge_pb2 import Charge
from google.protobuf.timestamp_pb2 import Timestamp

from eventing import timers
from kit import batching, ids
from kit.money import Money
from kit.origin import Origin
from kit.settings import Settings
from kit.telemetry import Trace
from services.budgets import convert, events
from services.budgets.domain.entries import EntryType
from services.budgets.domain.holds import HOLD_EXPIRY_TIMER
from services.budgets.domain.postings import PostingRequest, Replayed
from services.budgets.errors.budgets import BudgetNotFound
from services.budgets.errors.charges import EntryNotFound
from services.budgets.errors.holds import HoldNotFound
from services.budgets.ledger import LedgerCodec, LedgerConnection, PostingOutcome, posting, sql
from services.budgets.ledger.posting import Submission
from services.budgets.ledger.store import LedgerTransaction
from services.budgets.main import compose
from tests.budgets.budgets_api import BudgetsApi, line, numbers
from tests.harness.callers import Caller, Refusal, refusal
from tests.harness.observe import until_blocked
from tests.harness.services import Budgets, Entities, Served, served

Pool = asyncpg.Pool
LOCKED = "select 1 from budgets.budgets where id = $1 for update"


@pytest.fixture
async def replica(
    settings: Callable[..., Settings], entities_served: Served[Entities]
) -> AsyncIterator[Served[Budgets]]:
    """A second replica of the service."""
    addresses = {"entities": entities_served.address}
    async with served(settings("budgets", addresses=addresses), compose, Budgets) as budgets:
        yield budgets


@pytest.fixture
async def engine(settings: Callable[..., Settings]) -> AsyncIterator[LedgerConnection]:
    engine = LedgerConnection(settings("budgets"))
    yield engine
    await engine.close()


@pytest.fixture
async def another_engine(settings: Callable[..., Settings]) -> AsyncIterator[LedgerConnection]:
    engine = LedgerConnection(settings("budgets"))
    yield engine
    await engine.close()


def submission(
    tenant_id: UUID, entry_type: EntryType = EntryType.CHARGE, *, key: str = "", **fields: Any
) -> Submission:
    """Return a submission of one request of the tenant."""
    request = {
        "entry_type": entry_type,
        "budget_id": None,
        "request_key": (tenant_id, convert.postings.CHARGE, key or uuid4().hex),
        "fingerprint": b"the same",
    }
    origin = Origin(tenant_id=tenant_id, actor="alice", trace=Trace.from_header(None), deadline=0)
    return Submission(origin, [PostingRequest(**{**request, **fields})])


CODEC = LedgerCodec(events.published.ledger_event, convert.postings)


async def post(transaction: LedgerTransaction, *submissions: Submission) -> list[PostingOutcome]:
    outcomes, _ = await posting.post(transaction, submissions, CODEC)
    return [outcome for (outcome,) in outcomes]


def _now() -> datetime:
    return datetime.now(UTC)


def _tomorrow() -> Timestamp:
    moment = Timestamp()
    moment.FromDatetime(_now() + timedelta(days=1))
    return moment


LEDGER: Final = "budgets engine"
"""Name of the connections of the ledger."""


class TestReplicas:
    async def test_one_key_from_32_callers_on_two_replicas_is_one_charge_with_one_reply(
        self, api: BudgetsApi, replica: Served[Budgets]
    ) -> None:
        for n in range(5):
            budget = await api.open("10")  # room for one: a repeated request must not be refused
            request = line(budget, "10", f"k{n}")
            stubs = (api.stubs.ledger, replica.stubs.ledger)
            charges = await asyncio.gather(*(api.who.call(stubs[c % 2].Charge, request) for c in range(32)))
            assert all(charge == charges[0] for charge in charges)
            (verification,) = await api.verify(budget)
            assert (verification.spent.amount, verification.entry_count) == ("10.00", 1)

    @pytest.mark.parametrize("amount", ["10", "1000"])
    async def test_a_request_that_waited_for_the_lock_finds_the_reply_stored_meanwhile(
        self,
        api: BudgetsApi,
        tenant: UUID,
        engine: LedgerConnection,
        another_engine: LedgerConnection,
        admin: "Pool[asyncpg.Record]",
        amount: str,
    ) -> None:
        """The stored reply is returned even if the request would be refused now."""
        budget_id = ids.BUDGET.parse((await api.open(amount)).id)
        submissions = [
            submission(tenant, key="k", budget_id=budget_id, amount=Money.parse("10", "EUR")) for _ in range(2)
        ]

        async def late() -> PostingOutcome:
            async with another_engine.begin({tenant}, lock_ms=20_000) as transaction:
                (outcome,) = await post(transaction, submissions[1])
            return outcome

        async with engine.begin({tenant}) as transaction:
            (first,) = await post(transaction, submissions[0])
            waits = asyncio.create_task(late())
            await until_blocked(admin, application=LEDGER)
        assert isinstance(first, bytes)
        if amount == "10":
            outcome = await waits
            assert isinstance(outcome, Replayed)
            assert outcome.reply == first
        else:  # the batcher retries the group
            with pytest.raises(asyncpg.UniqueViolationError):
                await waits

    async def test_concurrent_atomic_batches_with_the_same_keys_get_the_same_reply(
        self, api: BudgetsApi, replica: Served[Budgets]
    ) -> None:
        budget = await api.open("30")
        request = pb.BatchChargeRequest(charges=[line(budget, "10", f"k{n}") for n in range(3)], atomic=True)
        stubs = (api.stubs.ledger, replica.stubs.ledger)
        responses = await asyncio.gather(*(api.who.call(stubs[c % 2].BatchCharge, request) for c in range(16)))
        charges = [[result.charge for result in response.results] for response in responses]
        assert all(charge == charges[0] for charge in charges)
        assert sum(not result.replayed for response in responses for result in response.results) == 3
        assert (await api.verify(budget))[0].entry_count == 3

    async def test_two_replicas_together_never_exceed_the_limit(
        self, api: BudgetsApi, replica: Served[Budgets]
    ) -> None:
        group = await api.open("100", name="Group")
        teams = [await api.open("70", name=f"Team {n}", parent_id=group.id) for n in range(2)]
        stubs = (api.stubs.ledger, replica.stubs.ledger)
        # Each team is charged on both replicas.
        charging = [api.who.call(stubs[n % 2].Charge, line(teams[n // 2 % 2], "3")) for n in range(80)]
        outcomes = await asyncio.gather(*charging, return_exceptions=True)
        refused = [outcome for outcome in outcomes if isinstance(outcome, grpc.aio.AioRpcError)]
        assert len(outcomes) - len(refused) == 33
        assert {error.code() for error in refused} == {grpc.StatusCode.FAILED_PRECONDITION}
        assert (await api.verify(group, *teams))[0].spent.amount == "99.00"


class TestTenants:
    """In a transaction of two tenants, a request with ids of the other tenant finds no rows."""

    @pytest.fixture
    async def theirs(self, api_for: Callable[[Caller], BudgetsApi], caller: Callable[..., Caller]) -> BudgetsApi:
        return api_for(caller(tenant=uuid4(), subject="bob"))

    async def test_nothing_of_another_tenant_is_found_or_changed(
        self, api: BudgetsApi, theirs: BudgetsApi, tenant: UUID, engine: LedgerConnection
    ) -> None:
        mine, other = await api.open("100"), await theirs.open("100", alert_thresholds_bp=[1000])
        hold, charge = await theirs.hold(other, "20"), await theirs.charge(other, "10", "their-key")
        before = await theirs.get(other), await theirs.get_hold(hold), await theirs.alerts(other)
        own_id, other_id = ids.BUDGET.parse(mine.id), ids.BUDGET.parse(other.id)
        hold_id, charge_id = ids.HOLD.parse(hold.id), ids.ENTRY.parse(charge.id)
        amount = Money.parse("1", "EUR")
        async with engine.begin({tenant, theirs.who.tenant_id}) as transaction:
            outcomes = await post(
                transaction,
                submission(tenant, budget_id=other_id, amount=amount),
                submission(tenant, EntryType.HOLD, budget_id=other_id, amount=amount),
                submission(tenant, EntryType.COMMIT, budget_id=own_id, hold_id=hold_id),
                submission(tenant, EntryType.CAPTURE, budget_id=other_id, hold_id=hold_id),
                submission(tenant, EntryType.RELEASE, budget_id=None, hold_id=hold_id),
                submission(tenant, EntryType.REFUND, budget_id=own_id, charge_id=charge_id),
                submission(tenant, EntryType.REFUND, budget_id=other_id, charge_id=charge_id),
                submission(theirs.who.tenant_id, budget_id=own_id, amount=amount),
                submission(tenant, key="their-key", budget_id=own_id, amount=amount),
            )
        assert [type(outcome) for outcome in outcomes] == [
            BudgetNotFound, BudgetNotFound, HoldNotFound, HoldNotFound, HoldNotFound, EntryNotFound, BudgetNotFound,
            BudgetNotFound, bytes,
        ]  # fmt: skip
        assert (await theirs.get(other), await theirs.get_hold(hold), await theirs.alerts(other)) == before
        assert numbers(await api.get(mine))[0] == "1.00"
        await api.verify(mine)
        await theirs.verify(other)

    async def test_each_statement_joins_on_the_tenant(
        self,
        api: BudgetsApi,
        theirs: BudgetsApi,
        tenant: UUID,
        engine: LedgerConnection,
        another_engine: LedgerConnection,
        admin: "Pool[asyncpg.Record]",
    ) -> None:
        mine, other = await api.open("100"), await theirs.open("100", alert_thresholds_bp=[1000])
        hold = await theirs.hold(other, "20", expire_time=_tomorrow())
        charge = await theirs.charge(other, "10", "their-key")
        own_id, other_id = ids.BUDGET.parse(mine.id), ids.BUDGET.parse(other.id)
        hold_id, charge_id = ids.HOLD.parse(hold.id), ids.ENTRY.parse(charge.id)
        them = theirs.who.tenant_id
        method = convert.postings.CHARGE
        async with engine.begin({tenant, them}) as transaction:
            connection = transaction._connection
            key = sql.REQUESTS.parameters([(tenant, method, "their-key")])
            mine_of = sql.CHAINS.parameters([(tenant, other_id, None)])
            assert await connection.fetch(sql.LOCK, *mine_of, *key) == []
            assert await connection.fetch(sql.LOCK, *sql.CHAINS.parameters([(tenant, None, hold_id)]), *key) == []
            assert await connection.fetch(sql.FIND_HOLDS, *sql.KEYS.parameters([(tenant, hold_id)])) == []
            assert await connection.fetch(sql.FIND_CHARGES, *sql.KEYS.parameters([(tenant, charge_id)])) == []
            assert await connection.fetchval(sql.ANSWERED, *key) is False
            theirs_moved = (await another_engine.read({(them, other_id)})).balances[them, other_id]
            mine_moved = theirs_moved._replace(terms=theirs_moved.terms._replace(tenant_id=tenant))
            nothing = *sql.ENTRIES.parameters([]), *sql.REPLIES.parameters([])
            assert await connection.fetchval(sql.RECORD, *sql.BALANCES.parameters([mine_moved]), *nothing) == 0
            await connection.execute(timers.CANCEL_ALL, [tenant], [hold_id], HOLD_EXPIRY_TIMER)
            resolved = (tenant, other_id, "THRESHOLD", 1000, _now())
            await connection.execute(sql.RESOLVE_ALERTS, *sql.RESOLVED.parameters([resolved]))
            # With the right tenant each statement finds the row, so only the join on the tenant excluded it above.
            their_key = sql.REQUESTS.parameters([(them, method, "their-key")])
            theirs_of = sql.CHAINS.parameters([(them, other_id, None)])
            assert len(await connection.fetch(sql.LOCK, *theirs_of, *their_key)) == 2
            assert len(await connection.fetch(sql.FIND_HOLDS, *sql.KEYS.parameters([(them, hold_id)]))) == 1
            assert len(await connection.fetch(sql.FIND_CHARGES, *sql.KEYS.parameters([(them, charge_id)]))) == 1
            assert await connection.fetchval(sql.ANSWERED, *their_key) is True
        assert (await engine.read({(tenant, other_id), (them, own_id)})).balances == {}
        assert (await engine.read({(them, other_id), (tenant, other_id)})).balances.keys() == {(them, other_id)}
        assert numbers(await theirs.get(other))[:2] == ("10.00", "20.00")
        assert [alert.state for alert in await theirs.alerts(other)] == [Alert.OPEN]
        assert await admin.fetchval("select count(*) from budgets.timers where resource_id = $1", hold_id) == 1

    async def test_a_read_leaves_no_tenant_set_on_the_connection(
        self, api: BudgetsApi, tenant: UUID, engine: LedgerConnection
    ) -> None:
        budget_id = ids.BUDGET.parse((await api.open("100")).id)
        assert (await engine.read({(tenant, budget_id)})).balances
        connection = await engine._connected()
        assert not await connection.fetchval("select current_setting('app.tenant_ids', true)")
        assert await connection.fetch("select id from budgets") == []

    async def test_rows_of_tenants_outside_the_transaction_are_invisible(
        self, api: BudgetsApi, theirs: BudgetsApi, tenant: UUID, engine: LedgerConnection
    ) -> None:
        other = await theirs.open("100")
        hold, charge = await theirs.hold(other, "20"), await theirs.charge(other, "10", "their-key")
        them, other_id = theirs.who.tenant_id, ids.BUDGET.parse(other.id)
        async with engine.begin({tenant}) as transaction:
            connection = transaction._connection
            for table in ("budgets", "budget_entries", "budget_holds", "budget_alerts", "idempotency_keys", "timers"):
                rows = await connection.fetch(f"select tenant_id from {table} where tenant_id <> $1", tenant)
                assert rows == [], table
            (outcome,) = await post(transaction, submission(them, budget_id=other_id, amount=Money.parse("1", "EUR")))
            assert isinstance(outcome, BudgetNotFound)
            assert await transaction.find_holds({(them, ids.HOLD.parse(hold.id))}) == {}
            assert await transaction.find_charges({(them, ids.ENTRY.parse(charge.id))}) == {}
        writes = (
            "insert into idempotency_keys (tenant_id, method, key, fingerprint, reply) values ($1, 'm', 'k', '', '')"
        )
        async with engine.begin({tenant}) as transaction:
            await transaction._connection.execute(writes, tenant)

        async def write_to_other_tenant() -> None:
            async with engine.begin({tenant}) as transaction:
                await transaction._connection.execute(writes, them)

        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await write_to_other_tenant()

    async def test_concurrent_calls_of_many_tenants_each_change_their_own_budget(
        self, api_for: Callable[[Caller], BudgetsApi], caller: Callable[..., Caller]
    ) -> None:
        apis = [api_for(caller(tenant=uuid4(), subject=f"boss {n}")) for n in range(6)]
        budgets = [await api.open("100", alert_thresholds_bp=[5000]) for api in apis]
        charging = [
            api.charge(budget, str(n + 1), f"k{turn}")
            for turn in range(10)
            for n, (api, budget) in enumerate(zip(apis, budgets, strict=True))
        ]
        charges = await asyncio.gather(*charging)
        assert len({charge.id for charge in charges}) == 60
        for n, (api, budget) in enumerate(zip(apis, budgets, strict=True)):
            (verification,) = await api.verify(budget)
            assert (verification.spent.amount, verification.entry_count) == (f"{10 * (n + 1)}.00", 10)
            assert {entry.actor for entry in await api.entries(budget)} == {f"boss {n}"}


class TestContention:
    async def test_a_locked_budget_delays_only_its_own_charges(
        self, api: BudgetsApi, admin: "Pool[asyncpg.Record]"
    ) -> None:
        locked, free = await api.open("100"), await api.open("100")
        async with admin.acquire() as connection, connection.transaction():
            await connection.execute(LOCKED, ids.BUDGET.parse(locked.id))
            waits = asyncio.create_task(api.charge(locked, "5", "k"))
            await until_blocked(admin, application=LEDGER)
            charges = await asyncio.gather(*(api.charge(free, "1") for _ in range(30)))
            assert len(charges) == 30
            assert (await api.get(locked)).spent.amount == "0.00"
        try:
            await waits
        except grpc.aio.AioRpcError as error:  # the deadline has passed
            assert error.code() is grpc.StatusCode.ABORTED
        assert (await api.charge(locked, "5", "k")).budget_id == locked.id
        assert [each.entry_count for each in await api.verify(locked, free)] == [1, 30]

    async def test_a_lasting_lock_is_refused_with_a_retry_delay(
        self, api: BudgetsApi, admin: "Pool[asyncpg.Record]"
    ) -> None:
        budget = await api.open("100")
        async with admin.acquire() as connection, connection.transaction():
            await connection.execute(LOCKED, ids.BUDGET.parse(budget.id))
            refused = await refusal(api.charge(budget, "5", "k"))
        assert (refused.code, refused.reason) == (grpc.StatusCode.ABORTED, "CONFLICT")
        assert refused.retry_after_s
        assert await api.charge(budget, "5", "k")

    async def test_refused_charge_does_not_affect_those_that_wait_for_a_lock(
        self, api: BudgetsApi, admin: "Pool[asyncpg.Record]"
    ) -> None:
        locked, full = await api.open("100"), await api.open("1")

        async def charge_both(number: int) -> None:
            charged, refused = await asyncio.gather(
                api.charge(locked, "1", f"k{number}"), refusal(api.charge(full, "2")), return_exceptions=True
            )
            assert isinstance(refused, Refusal)
            assert refused.reason == "BUDGET_EXCEEDED"
            if not isinstance(charged, Charge):
                assert isinstance(charged, grpc.aio.AioRpcError)
                assert charged.code() is grpc.StatusCode.ABORTED

        async with admin.acquire() as connection, connection.transaction():
            await connection.execute(LOCKED, ids.BUDGET.parse(locked.id))
            async with asyncio.timeout(10):
                await asyncio.gather(*(charge_both(number) for number in range(20)))

    async def test_after_a_lost_connection_every_charge_is_made_once(
        self, api: BudgetsApi, admin: "Pool[asyncpg.Record]"
    ) -> None:
        budget = await api.open("1000")
        for turn in range(3):
            async with admin.acquire() as connection, connection.transaction():
                await connection.execute(LOCKED, ids.BUDGET.parse(budget.id))
                charging = [asyncio.create_task(api.charge(budget, "1", f"{turn}-{n}")) for n in range(40)]
                await until_blocked(admin, application=LEDGER)
                killed = await admin.fetch(
                    "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database()"
                    " and application_name = 'budgets engine'"
                )
                assert killed
            outcomes = await asyncio.gather(*charging, return_exceptions=True)
            codes = {outcome.code() for outcome in outcomes if isinstance(outcome, grpc.aio.AioRpcError)}
            assert codes <= {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.ABORTED}
            repeated = await asyncio.gather(*(api.charge(budget, "1", f"{turn}-{n}") for n in range(40)))
            assert all(
                first == second for first, second in zip(outcomes, repeated, strict=True) if isinstance(first, Charge)
            )
        (verification,) = await api.verify(budget)
        assert (verification.spent.amount, verification.entry_count) == ("120.00", 120)

    async def test_a_full_queue_refuses_with_a_retry_delay(
        self,
        api: BudgetsApi,
        settings: Callable[..., Settings],
        entities_served: Served[Entities],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        budget = await api.open("100")
        monkeypatch.setattr(batching, "QUEUE_MAX", 10)
        addresses = {"entities": entities_served.address}
        changed = settings("budgets", addresses=addresses, tenant_reserve=0.0)
        async with served(changed, compose, Budgets) as replica:
            api.stubs = replica.stubs
            refused = await refusal(api.batch(*(line(budget, "1") for _ in range(11))))
            assert (refused.code, refused.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "CONCURRENCY_LIMITED")
            assert (refused.retry_after_s, refused.metadata) == (1, {"resource": "queue"})
            assert (await api.batch(*(line(budget, "1") for _ in range(10)))).accepted_count == 10

    async def test_cancelled_calls_do_not_affect_others(self, api: BudgetsApi, admin: "Pool[asyncpg.Record]") -> None:
        budget = await api.open("100")
        async with admin.acquire() as connection, connection.transaction():
            await connection.execute(LOCKED, ids.BUDGET.parse(budget.id))
            charging = [asyncio.create_task(api.charge(budget, "1", f"k{n}")) for n in range(20)]
            await until_blocked(admin, application=LEDGER)
            for task in charging[::2]:
                task.cancel()
            await asyncio.wait(charging[::2])
        outcomes = await asyncio.gather(*charging[1::2], return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} <= {Charge, grpc.aio.AioRpcError}
        await asyncio.gather(*(api.charge(budget, "1", f"k{n}") for n in range(20)))
        assert (await api.verify(budget))[0].entry_count == 20

    async def test_a_lone_caller_never_waits(self, api: BudgetsApi, monkeypatch: pytest.MonkeyPatch) -> None:
        budget = await api.open("100")
        await asyncio.sleep(batching.BUSY_S)  # earlier calls may have formed a batch
        monkeypatch.setattr(batching, "LINGER_STEP_S", 8.0)
        for _ in range(5):
            request = line(budget, "1")
            await api.who.call(api.stubs.ledger.Charge, request, within_s=5.0)
        assert (await api.get(budget)).spent.amount == "5.00"
