"""Amendments take effect by themselves on their day: once among replicas, whichever of them dies."""

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
from tests.entities.amendment_api import AmendmentApi, its_day_comes, later
from tests.entities.clocks import Quiet, process_amid_effect, replicas
from tests.entities.conftest import EntitiesApi
from tests.entities.contract_api import ContractApi, contract_timers, day, days_pass, money
from tests.harness.callers import Caller
from tests.harness.observe import PublishedEvents, eventually

Admin: TypeAlias = "asyncpg.Pool[asyncpg.Record]"


@pytest.fixture
def contracts(api: EntitiesApi) -> ContractApi:
    return ContractApi(api)


@pytest.fixture
def amendments(api: EntitiesApi) -> AmendmentApi:
    return AmendmentApi(api)


@pytest.fixture
async def acme(api: EntitiesApi) -> Entity:
    return await api.found()


@pytest.fixture
async def contract(contracts: ContractApi, acme: Entity) -> Contract:
    return await contracts.put_in_force(acme, seats=10, license_tier="gold")


async def timer(admin: Admin, amendment: Amendment) -> datetime | None:
    """When the clock lets it take effect; None: it does not."""
    due: datetime | None = await admin.fetchval(
        "select due_time from entities.timers where kind = 'amendment' and resource_id = $1",
        ids.AMENDMENT.parse(amendment.id),
    )
    return due


class TestItsDay:
    async def test_it_takes_effect_when_its_day_begins_where_the_entity_is(
        self, api: EntitiesApi, contracts: ContractApi, amendments: AmendmentApi, admin: Admin
    ) -> None:
        entity = await api.found("ZONE", time_zone="America/New_York")
        contract = await contracts.put_in_force(entity, seats=10)
        draft = await amendments.amend(contract, effective_date=day(40))
        assert await timer(admin, draft) is None
        await amendments.approve(draft)
        effective = datetime.fromisoformat(day(40)).date()
        assert await timer(admin, draft) == dates.day_start(effective, "America/New_York")
        await api.update(entity, time_zone="Asia/Tokyo")
        assert await timer(admin, draft) == dates.day_start(effective, "Asia/Tokyo")

    async def test_nobody_has_to_do_anything(
        self,
        contracts: ContractApi,
        amendments: AmendmentApi,
        contract: Contract,
        admin: Admin,
        published_events: PublishedEvents,
    ) -> None:
        waiting = await amendments.agree(contract, effective_date=day(1))
        await its_day_comes(admin, waiting)
        assert (await published_events.first(ContractAmended)).seats == 20
        found = await amendments.get(waiting)
        assert (found.state, found.approved_by) == (Amendment.APPLIED, "alice")
        assert (await contracts.get(contract)).seats == 20
        assert await timer(admin, waiting) is None

    async def test_one_whose_day_is_over_takes_effect_at_once(
        self, contracts: ContractApi, amendments: AmendmentApi, contract: Contract
    ) -> None:
        late = await amendments.agree(contract, effective_date=day(-2))
        assert (await amendments.settled(late)).state == Amendment.APPLIED

    async def test_fired_too_early_it_waits_for_its_day(
        self, api: EntitiesApi, contracts: ContractApi, amendments: AmendmentApi, admin: Admin
    ) -> None:
        entity = await api.found("ZONE", time_zone="Pacific/Pago_Pago")
        contract = await contracts.put_in_force(entity, start_date=day(-30), seats=10)
        tomorrow = (datetime.now(ZoneInfo("Pacific/Pago_Pago")).date() + timedelta(days=1)).isoformat()
        waiting = await amendments.agree(contract, effective_date=tomorrow)
        due = await timer(admin, waiting)
        await admin.execute(
            "update entities.timers set due_time = now() where resource_id = $1", ids.AMENDMENT.parse(waiting.id)
        )

        async def waits_again() -> bool:
            return await timer(admin, waiting) == due

        await eventually(waits_again)
        assert (await amendments.get(waiting)).state == Amendment.APPROVED

    async def test_the_timers_of_the_contract_follow_its_end(
        self, contracts: ContractApi, amendments: AmendmentApi, contract: Contract, admin: Admin
    ) -> None:
        end = later(contract.end_date, 100)
        made = await amendments.agree(contract, Amendment.TERM, end_date=end)
        await amendments.settled(made)
        ends = datetime.fromisoformat(end).date()
        assert (await contract_timers(admin, contract))["contract-end"] == dates.day_start(ends, "UTC")
        evergreen = await amendments.agree(contract, Amendment.TERM, end_date="")
        await amendments.settled(evergreen)
        assert await contract_timers(admin, contract) == {}

    async def test_a_contract_that_was_to_be_longer_does_not_expire_though_the_clock_stood_still(
        self, quiet: Quiet, finance: Caller, tenant: UUID
    ) -> None:
        """Both are overdue at the same moment, and the end comes first."""
        quiet_api = EntitiesApi(finance, quiet.served.stubs)
        contracts, amendments = ContractApi(quiet_api), AmendmentApi(quiet_api)
        contract = await contracts.put_in_force(await quiet_api.found(), end_date=day(60))
        longer = await amendments.agree(contract, Amendment.TERM, effective_date=day(50), end_date=day(500))
        amendment_id = ids.AMENDMENT.parse(longer.id)
        await days_pass(quiet.admin, 70, contract)
        await quiet.admin.execute(
            "update entities.contract_amendments set effective_date = effective_date - 70,"
            " changes = jsonb_set(changes, '{before,end_date}', to_jsonb($1::text)) where id = $2",
            day(-10),
            amendment_id,
        )
        move = "update entities.timers set due_time = now() - make_interval(days => $1) where resource_id = $2"
        await quiet.admin.execute(move, 1, amendment_id)
        async with replicas(quiet, 2):
            await eventually(lambda: quiet.idle(tenant), within_s=30)
        found = await contracts.get(contract)
        assert (found.state, found.end_date) == (Contract.ACTIVE, day(500))
        assert (await amendments.get(longer)).state == Amendment.APPLIED


class TestMeanwhile:
    async def test_a_contract_that_was_suspended_is_amended_and_stays_suspended(
        self, contracts: ContractApi, amendments: AmendmentApi, contract: Contract, admin: Admin
    ) -> None:
        waiting = await amendments.agree(contract, effective_date=day(1))
        await contracts.suspend(contract)
        await its_day_comes(admin, waiting)
        assert (await amendments.settled(waiting)).state == Amendment.APPLIED
        found = await contracts.get(contract)
        assert (found.state, found.suspension_reason, found.seats) == (Contract.SUSPENDED, "not paid", 20)

    async def test_what_was_terminated_is_not_amended_and_that_is_told(
        self,
        contracts: ContractApi,
        amendments: AmendmentApi,
        contract: Contract,
        admin: Admin,
        published_events: PublishedEvents,
    ) -> None:
        waiting = await amendments.agree(contract, effective_date=day(1))
        await contracts.terminate(contract, for_cause=True)
        await its_day_comes(admin, waiting)
        told = await published_events.first(AmendmentRejected)
        assert (told.contract_id, told.amendment_id) == (contract.id, waiting.id)
        rejected = await amendments.get(waiting)
        assert (rejected.state, rejected.rejection_reason) == (Amendment.REJECTED, told.reason)
        assert told.reason == f"The contract {contract.id} is TERMINATED; it can be amended in ACTIVE or SUSPENDED."
        assert (await contracts.get(contract)).seats == 10
        assert not published_events.of(ContractAmended)

    async def test_what_ends_before_the_day_is_not_amended(
        self, contracts: ContractApi, amendments: AmendmentApi, contract: Contract, admin: Admin
    ) -> None:
        waiting = await amendments.agree(contract, effective_date=day(100))
        await contracts.terminate(contract, for_cause=True, effective_date=day(50))
        await admin.execute(
            "update entities.billing_contracts set termination_date = $1 where id = $2",
            datetime.fromisoformat(day(-1)).date(),
            ids.CONTRACT.parse(contract.id),
        )
        await admin.execute(
            "update entities.contract_amendments set effective_date = $1 where id = $2",
            datetime.fromisoformat(day()).date(),
            ids.AMENDMENT.parse(waiting.id),
        )
        await its_day_comes(admin, waiting)
        rejected = await amendments.settled(waiting)
        assert rejected.state == Amendment.REJECTED
        assert "outside" in rejected.rejection_reason


class TestReplicas:
    async def test_three_together_let_each_take_effect_once_and_in_order(
        self, quiet: Quiet, finance: Caller, tenant: UUID
    ) -> None:
        quiet_api = EntitiesApi(finance, quiet.served.stubs)
        contracts, amendments = ContractApi(quiet_api), AmendmentApi(quiet_api)
        entity = await quiet_api.found()
        made: list[tuple[Contract, list[Amendment]]] = []
        for number in range(8):
            contract = await contracts.put_in_force(entity, seats=10)
            line = [await amendments.agree(contract, effective_date=day(1), seats=11 + step) for step in range(3)]
            line.append(await amendments.agree(contract, Amendment.PRICE, effective_date=day(1), fee=money("50")))
            if number % 2:
                await contracts.terminate(contract, for_cause=True)
            made.append((contract, line))
        await its_day_comes(quiet.admin, *(amendment for _, line in made for amendment in line))
        async with replicas(quiet, 3):
            await eventually(lambda: quiet.idle(tenant), within_s=30)
        for number, (contract, line) in enumerate(made):
            wanted = Amendment.REJECTED if number % 2 else Amendment.APPLIED
            assert [(await amendments.get(amendment)).state for amendment in line] == [wanted] * 4
            found = await contracts.get(contract)
            assert (found.seats, len(found.phases)) == ((10, 0) if number % 2 else (13, 2))
        said = await quiet.said(tenant)
        assert {id: said["ContractAmended", id] for id in (contract.id for contract, _ in made)} == {
            contract.id: 0 if number % 2 else 4 for number, (contract, _) in enumerate(made)
        }
        assert {id: said["AmendmentRejected", id] for id in (contract.id for contract, _ in made)} == {
            contract.id: 4 if number % 2 else 0 for number, (contract, _) in enumerate(made)
        }

    @pytest.mark.parametrize("ended", [False, True])
    async def test_one_that_is_killed_in_the_middle_leaves_nothing_half_done(
        self, quiet: Quiet, finance: Caller, tenant: UUID, *, ended: bool
    ) -> None:
        quiet_api = EntitiesApi(finance, quiet.served.stubs)
        contracts, amendments = ContractApi(quiet_api), AmendmentApi(quiet_api)
        contract = await contracts.put_in_force(await quiet_api.found(), seats=10)
        waiting = await amendments.agree(contract, effective_date=day(1))
        if ended:
            await contracts.terminate(contract, for_cause=True)
        await its_day_comes(quiet.admin, waiting)
        with process_amid_effect(quiet.settings, "amendment") as (process, pipe):
            assert await asyncio.to_thread(pipe.poll, 30)
            assert pipe.recv() == ids.AMENDMENT.parse(waiting.id)
            assert (await amendments.get(waiting)).state == Amendment.APPROVED
            async with replicas(quiet, 2):
                process.kill()
                await eventually(lambda: quiet.idle(tenant), within_s=30)
        said = await quiet.said(tenant)
        assert (said["ContractAmended", contract.id], said["AmendmentRejected", contract.id]) == (
            (0, 1) if ended else (1, 0)
        )
        assert (await contracts.get(contract)).seats == (10 if ended else 20)

    async def test_a_call_and_the_clock_at_the_same_moment_have_one_effect(
        self, quiet: Quiet, finance: Caller, tenant: UUID
    ) -> None:
        quiet_api = EntitiesApi(finance, quiet.served.stubs)
        contracts, amendments = ContractApi(quiet_api), AmendmentApi(quiet_api)
        entity = await quiet_api.found()
        waiting = []
        for _ in range(6):
            contract = await contracts.put_in_force(entity, seats=10)
            waiting.append(await amendments.agree(contract, effective_date=day(1)))
        await its_day_comes(quiet.admin, *waiting)
        async with replicas(quiet, 2):
            answers = await asyncio.gather(*map(amendments.apply, waiting), return_exceptions=True)
            await eventually(lambda: quiet.idle(tenant), within_s=30)
        said = await quiet.said(tenant)
        assert [said["ContractAmended", amendment.contract_id] for amendment in waiting] == [1] * 6
        for amendment, answer in zip(waiting, answers, strict=True):
            assert (await amendments.get(amendment)).state == Amendment.APPLIED
            assert isinstance(answer, Amendment) or "APPLIED" in str(answer) or "again" in str(answer)
