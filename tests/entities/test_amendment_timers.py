"""Amendments are applied automatically on their effective date, once even with several replicas and crashes."""

import asyncio
from datetime import datetime, timedelta
from typing import TypeAlias
from uuid import UUID
from zoneinfo import ZoneInfo

import asyncpg
import pytest
from billing.entities.v1.amendment_pb2 import Amendment
from billing.entities.v1.contract_pb2 import Contract
from billing.entities.v1.entity_pb2 import Entity
from billing.entities.v1.events_pb2 import AmendmentRejected, ContractAmended

from kit import dates, ids
from tests.entities.amendment_api import AmendmentApi, days_after, make_due
from tests.entities.contract_api import ContractApi, contract_timers, day, let_days_pass, money
from tests.entities.entities_api import EntitiesApi
from tests.entities.timer_replicas import TimerlessService, process_before_commit, replicas
from tests.harness.callers import Caller
from tests.harness.observe import PublishedEvents, eventually

Admin: TypeAlias = "asyncpg.Pool[asyncpg.Record]"


@pytest.fixture
async def contract(contracts: ContractApi, acme: Entity) -> Contract:
    return await contracts.create_active(acme, seats=10, license_tier="gold")


async def timer(admin: Admin, amendment: Amendment) -> datetime | None:
    """Return the due time of the amendment's timer; None if it is not set."""
    due: datetime | None = await admin.fetchval(
        "select due_time from entities.timers where kind = 'amendment' and resource_id = $1",
        ids.AMENDMENT.parse(amendment.id),
    )
    return due


class TestEffectiveDate:
    async def test_due_time_is_in_the_time_zone_of_the_entity(
        self, api: EntitiesApi, contracts: ContractApi, amendments: AmendmentApi, admin: Admin
    ) -> None:
        entity = await api.create_entity("ZONE", time_zone="America/New_York")
        contract = await contracts.create_active(entity, seats=10)
        draft = await amendments.create(contract, effective_date=day(40))
        assert await timer(admin, draft) is None
        await amendments.approve(draft)
        effective = datetime.fromisoformat(day(40)).date()
        assert await timer(admin, draft) == dates.day_start(effective, "America/New_York")
        await api.update(entity, time_zone="Asia/Tokyo")
        assert await timer(admin, draft) == dates.day_start(effective, "Asia/Tokyo")

    async def test_amendment_is_applied_automatically(
        self,
        contracts: ContractApi,
        amendments: AmendmentApi,
        contract: Contract,
        admin: Admin,
        published_events: PublishedEvents,
    ) -> None:
        approved = await amendments.create_approved(contract, effective_date=day(1))
        await make_due(admin, approved)
        assert (await published_events.first(ContractAmended)).seats == 20
        current = await amendments.get(approved)
        assert (current.state, current.approved_by) == (Amendment.APPLIED, "alice")
        assert (await contracts.get(contract)).seats == 20
        assert await timer(admin, approved) is None

    async def test_past_effective_date_is_applied_at_once(
        self, contracts: ContractApi, amendments: AmendmentApi, contract: Contract
    ) -> None:
        overdue = await amendments.create_approved(contract, effective_date=day(-2))
        assert (await amendments.wait_until_finished(overdue)).state == Amendment.APPLIED

    async def test_early_timer_is_reset(
        self, api: EntitiesApi, contracts: ContractApi, amendments: AmendmentApi, admin: Admin
    ) -> None:
        entity = await api.create_entity("ZONE", time_zone="Pacific/Pago_Pago")
        contract = await contracts.create_active(entity, start_date=day(-30), seats=10)
        tomorrow = (datetime.now(ZoneInfo("Pacific/Pago_Pago")).date() + timedelta(days=1)).isoformat()
        approved = await amendments.create_approved(contract, effective_date=tomorrow)
        due = await timer(admin, approved)
        await admin.execute(
            "update entities.timers set due_time = now() where resource_id = $1", ids.AMENDMENT.parse(approved.id)
        )

        async def is_reset() -> bool:
            return await timer(admin, approved) == due

        await eventually(is_reset)
        assert (await amendments.get(approved)).state == Amendment.APPROVED

    async def test_timers_of_the_contract_follow_its_end_date(
        self, contracts: ContractApi, amendments: AmendmentApi, contract: Contract, admin: Admin
    ) -> None:
        end = days_after(contract.end_date, 100)
        created = await amendments.create_approved(contract, Amendment.TERM, end_date=end)
        await amendments.wait_until_finished(created)
        ends = datetime.fromisoformat(end).date()
        assert (await contract_timers(admin, contract))["contract-end"] == dates.day_start(ends, "UTC")
        evergreen = await amendments.create_approved(contract, Amendment.TERM, end_date="")
        await amendments.wait_until_finished(evergreen)
        assert await contract_timers(admin, contract) == {}

    async def test_extended_contract_does_not_expire_if_timers_are_late(
        self, timerless: TimerlessService, finance: Caller, tenant: UUID
    ) -> None:
        """Both timers are overdue, and that of the end fires first."""
        timerless_api = EntitiesApi(finance, timerless.served.stubs)
        contracts, amendments = ContractApi(timerless_api), AmendmentApi(timerless_api)
        contract = await contracts.create_active(await timerless_api.create_entity(), end_date=day(60))
        longer = await amendments.create_approved(contract, Amendment.TERM, effective_date=day(50), end_date=day(500))
        amendment_id = ids.AMENDMENT.parse(longer.id)
        await let_days_pass(timerless.admin, 70, contract)
        await timerless.admin.execute(
            "update entities.contract_amendments set effective_date = effective_date - 70,"
            " changes = jsonb_set(changes, '{before,end_date}', to_jsonb($1::text)) where id = $2",
            day(-10),
            amendment_id,
        )
        make_overdue = "update entities.timers set due_time = now() - make_interval(days => $1) where resource_id = $2"
        await timerless.admin.execute(make_overdue, 1, amendment_id)
        async with replicas(timerless, 2):
            await eventually(lambda: timerless.has_no_due_timer(tenant), within_s=30)
        current = await contracts.get(contract)
        assert (current.state, current.end_date) == (Contract.ACTIVE, day(500))
        assert (await amendments.get(longer)).state == Amendment.APPLIED


class TestChangedContract:
    async def test_suspended_contract_is_amended(
        self, contracts: ContractApi, amendments: AmendmentApi, contract: Contract, admin: Admin
    ) -> None:
        approved = await amendments.create_approved(contract, effective_date=day(1))
        await contracts.suspend(contract)
        await make_due(admin, approved)
        assert (await amendments.wait_until_finished(approved)).state == Amendment.APPLIED
        current = await contracts.get(contract)
        assert (current.state, current.suspension_reason, current.seats) == (Contract.SUSPENDED, "not paid", 20)

    async def test_amendment_of_a_terminated_contract_is_rejected(
        self,
        contracts: ContractApi,
        amendments: AmendmentApi,
        contract: Contract,
        admin: Admin,
        published_events: PublishedEvents,
    ) -> None:
        approved = await amendments.create_approved(contract, effective_date=day(1))
        await contracts.terminate(contract, for_cause=True)
        await make_due(admin, approved)
        event = await published_events.first(AmendmentRejected)
        assert (event.contract_id, event.amendment_id) == (contract.id, approved.id)
        rejected = await amendments.get(approved)
        assert (rejected.state, rejected.rejection_reason) == (Amendment.REJECTED, event.reason)
        assert event.reason == f"The contract {contract.id} is TERMINATED; it can be amended in ACTIVE or SUSPENDED."
        assert (await contracts.get(contract)).seats == 10
        assert not published_events.of(ContractAmended)

    async def test_amendment_after_the_termination_date_is_rejected(
        self, contracts: ContractApi, amendments: AmendmentApi, contract: Contract, admin: Admin
    ) -> None:
        approved = await amendments.create_approved(contract, effective_date=day(100))
        await contracts.terminate(contract, for_cause=True, effective_date=day(50))
        await admin.execute(
            "update entities.billing_contracts set termination_date = $1 where id = $2",
            datetime.fromisoformat(day(-1)).date(),
            ids.CONTRACT.parse(contract.id),
        )
        await admin.execute(
            "update entities.contract_amendments set effective_date = $1 where id = $2",
            datetime.fromisoformat(day()).date(),
            ids.AMENDMENT.parse(approved.id),
        )
        await make_due(admin, approved)
        rejected = await amendments.wait_until_finished(approved)
        assert rejected.state == Amendment.REJECTED
        assert "outside" in rejected.rejection_reason


class TestReplicas:
    async def test_three_replicas_apply_each_amendment_once_and_in_order(
        self, timerless: TimerlessService, finance: Caller, tenant: UUID
    ) -> None:
        timerless_api = EntitiesApi(finance, timerless.served.stubs)
        contracts, amendments = ContractApi(timerless_api), AmendmentApi(timerless_api)
        entity = await timerless_api.create_entity()
        created: list[tuple[Contract, list[Amendment]]] = []
        for number in range(8):
            contract = await contracts.create_active(entity, seats=10)
            group = [
                await amendments.create_approved(contract, effective_date=day(1), seats=11 + step) for step in range(3)
            ]
            group.append(
                await amendments.create_approved(contract, Amendment.PRICE, effective_date=day(1), fee=money("50"))
            )
            if number % 2:
                await contracts.terminate(contract, for_cause=True)
            created.append((contract, group))
        await make_due(timerless.admin, *(amendment for _, group in created for amendment in group))
        async with replicas(timerless, 3):
            await eventually(lambda: timerless.has_no_due_timer(tenant), within_s=30)
        for number, (contract, group) in enumerate(created):
            expected = Amendment.REJECTED if number % 2 else Amendment.APPLIED
            assert [(await amendments.get(amendment)).state for amendment in group] == [expected] * 4
            current = await contracts.get(contract)
            assert (current.seats, len(current.phases)) == ((10, 0) if number % 2 else (13, 2))
        counts = await timerless.count_events(tenant)
        assert {id: counts["ContractAmended", id] for id in (contract.id for contract, _ in created)} == {
            contract.id: 0 if number % 2 else 4 for number, (contract, _) in enumerate(created)
        }
        assert {id: counts["AmendmentRejected", id] for id in (contract.id for contract, _ in created)} == {
            contract.id: 4 if number % 2 else 0 for number, (contract, _) in enumerate(created)
        }

    @pytest.mark.parametrize("terminated", [False, True])
    async def test_killed_replica_leaves_no_partial_effect(
        self, timerless: TimerlessService, finance: Caller, tenant: UUID, *, terminated: bool
    ) -> None:
        timerless_api = EntitiesApi(finance, timerless.served.stubs)
        contracts, amendments = ContractApi(timerless_api), AmendmentApi(timerless_api)
        contract = await contracts.create_active(await timerless_api.create_entity(), seats=10)
        approved = await amendments.create_approved(contract, effective_date=day(1))
        if terminated:
            await contracts.terminate(contract, for_cause=True)
        await make_due(timerless.admin, approved)
        with process_before_commit(timerless.settings, "amendment") as (process, pipe):
            assert await asyncio.to_thread(pipe.poll, 30)
            assert pipe.recv() == ids.AMENDMENT.parse(approved.id)
            assert (await amendments.get(approved)).state == Amendment.APPROVED
            async with replicas(timerless, 2):
                process.kill()
                await eventually(lambda: timerless.has_no_due_timer(tenant), within_s=30)
        counts = await timerless.count_events(tenant)
        assert (counts["ContractAmended", contract.id], counts["AmendmentRejected", contract.id]) == (
            (0, 1) if terminated else (1, 0)
        )
        assert (await contracts.get(contract)).seats == (10 if terminated else 20)

    async def test_concurrent_call_and_timer_have_one_effect(
        self, timerless: TimerlessService, finance: Caller, tenant: UUID
    ) -> None:
        timerless_api = EntitiesApi(finance, timerless.served.stubs)
        contracts, amendments = ContractApi(timerless_api), AmendmentApi(timerless_api)
        entity = await timerless_api.create_entity()
        approved = []
        for _ in range(6):
            contract = await contracts.create_active(entity, seats=10)
            approved.append(await amendments.create_approved(contract, effective_date=day(1)))
        await make_due(timerless.admin, *approved)
        async with replicas(timerless, 2):
            results = await asyncio.gather(*map(amendments.apply, approved), return_exceptions=True)
            await eventually(lambda: timerless.has_no_due_timer(tenant), within_s=30)
        counts = await timerless.count_events(tenant)
        assert [counts["ContractAmended", amendment.contract_id] for amendment in approved] == [1] * 6
        for amendment, result in zip(approved, results, strict=True):
            assert (await amendments.get(amendment)).state == Amendment.APPLIED
            assert isinstance(result, Amendment) or "APPLIED" in str(result) or "again" in str(result)
