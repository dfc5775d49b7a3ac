"""What the clock does to contracts: notice, end, renewal by itself; once among replicas, whichever of them dies."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import date, datetime, timedelta
from itertools import pairwise
from typing import Any, TypeAlias
from uuid import UUID
from zoneinfo import ZoneInfo

import asyncpg
import pytest
from billing.entities.v1.contract_pb2 import Contract
from billing.entities.v1.entity_pb2 import Entity
from billing.entities.v1.events_pb2 import (
    ContractActivated,
    ContractExpired,
    ContractRenewalDue,
    ContractRenewed,
)

from kit import dates, ids
from tests.entities.clocks import Quiet, process_amid_effect, replicas
from tests.entities.conftest import EntitiesApi
from tests.entities.contract_api import ContractApi, contract_timers, day, days_pass, money
from tests.entities.test_contract_lives import becomes
from tests.harness.callers import Caller
from tests.harness.observe import OutboxEvent, PublishedEvents, eventually

Admin: TypeAlias = "asyncpg.Pool[asyncpg.Record]"
Said: TypeAlias = Callable[[str], Awaitable[list[OutboxEvent]]]


@pytest.fixture
def contracts(api: EntitiesApi) -> ContractApi:
    return ContractApi(api)


@pytest.fixture
async def acme(api: EntitiesApi) -> Entity:
    return await api.found("ACME")


class TestNotice:
    async def test_the_parties_are_told_that_long_before_the_end(
        self, contracts: ContractApi, acme: Entity, admin: Admin, published_events: PublishedEvents
    ) -> None:
        active = await contracts.put_in_force(
            acme, start_date="2026-01-01", end_date=day(100), renewal_notice_days=40, auto_renew=True,
            renewal_uplift_bp=500, billing_frequency=Contract.ONE_TIME,
        )  # fmt: skip
        assert published_events.of(ContractRenewalDue) == []
        await days_pass(admin, 60, active)
        told = await published_events.first(ContractRenewalDue)
        check = await contracts.check(active)
        assert told == ContractRenewalDue(
            contract_id=active.id, entity_id=acme.id, contract_number=active.contract_number, end_date=day(40),
            notice_date=day(), auto_renew=True, renewal_value=check.renewal_value,
        )  # fmt: skip

    async def test_once_whatever_happens_later(
        self, contracts: ContractApi, acme: Entity, admin: Admin, published_events: PublishedEvents, outbox_events: Said
    ) -> None:
        active = await contracts.put_in_force(acme, end_date=day(100))
        await days_pass(admin, 80, active)
        await published_events.first(ContractRenewalDue)
        for _ in range(2):
            await fire(admin, active, "contract-notice")
            await no_timer(admin, active, "contract-notice")
        assert count(await outbox_events("entities"))[ContractRenewalDue.DESCRIPTOR.full_name] == 1

    async def test_not_before_its_day(
        self, contracts: ContractApi, acme: Entity, admin: Admin, outbox_events: Said
    ) -> None:
        """A clock that fires too early is set again."""
        active = await contracts.put_in_force(acme, end_date=day(100))
        right = await contract_timers(admin, active)
        await fire(admin, active, "contract-notice")

        async def set_again() -> bool:
            return await contract_timers(admin, active) == right

        await eventually(set_again)
        assert ContractRenewalDue.DESCRIPTOR.full_name not in count(await outbox_events("entities"))

    async def test_again_for_another_end(
        self, contracts: ContractApi, acme: Entity, admin: Admin, published_events: PublishedEvents
    ) -> None:
        active = await contracts.put_in_force(acme, end_date=day(100))
        await days_pass(admin, 80, active)
        await published_events.first(ContractRenewalDue)
        await admin.execute(
            "update entities.billing_contracts set end_date = end_date + 5 where id = $1", ids.CONTRACT.parse(active.id)
        )
        await fire(admin, active, "contract-notice")
        told = await published_events.at_least(2, ContractRenewalDue)
        assert [event.end_date for event in told] == [day(20), day(25)]

    async def test_late_when_it_is_activated_late(
        self, contracts: ContractApi, acme: Entity, published_events: PublishedEvents
    ) -> None:
        await contracts.put_in_force(acme, end_date=day(10), start_date=day(-300))
        assert (await published_events.first(ContractRenewalDue)).notice_date == day(-20)

    async def test_none_when_it_was_terminated(
        self, contracts: ContractApi, acme: Entity, admin: Admin, outbox_events: Said
    ) -> None:
        active = await contracts.put_in_force(acme, end_date=day(100))
        await contracts.terminate(active, effective_date=day(100))
        await days_pass(admin, 100, active)
        await becomes(contracts, active, Contract.TERMINATED)
        assert ContractRenewalDue.DESCRIPTOR.full_name not in count(await outbox_events("entities"))

    @pytest.mark.parametrize("zone", ["UTC", "Pacific/Kiritimati", "Pacific/Pago_Pago", "America/New_York"])
    async def test_days_begin_in_the_time_zone_of_the_entity(
        self, api: EntitiesApi, contracts: ContractApi, admin: Admin, zone: str
    ) -> None:
        entity = await api.found("ZONE", time_zone=zone)
        active = await contracts.put_in_force(entity, end_date=day(100))
        ends = date.fromisoformat(active.end_date)
        assert await contract_timers(admin, active) == {
            "contract-end": dates.day_start(ends, zone),
            "contract-notice": dates.day_start(ends - timedelta(days=30), zone),
        }
        moved = "Asia/Tokyo"
        await api.update(entity, time_zone=moved)
        assert (await contract_timers(admin, active))["contract-end"] == dates.day_start(ends, moved)


class TestEnd:
    async def test_what_nobody_renewed_expires(
        self, contracts: ContractApi, acme: Entity, admin: Admin, published_events: PublishedEvents
    ) -> None:
        active = await contracts.put_in_force(acme, end_date=day(100))
        await days_pass(admin, 99, active)
        await published_events.first(ContractRenewalDue)
        assert (await contracts.get(active)).state == Contract.ACTIVE
        await days_pass(admin, 1, active)
        assert await published_events.first(ContractExpired) == ContractExpired(
            contract_id=active.id, entity_id=acme.id, end_date=day()
        )
        assert (await contracts.get(active)).state == Contract.EXPIRED
        assert await contract_timers(admin, active) == {}

    async def test_on_its_last_day_it_still_holds(
        self, api: EntitiesApi, contracts: ContractApi, admin: Admin, outbox_events: Said
    ) -> None:
        """Fired too early, in the wrong zone for example, it waits for its day."""
        entity = await api.found("ZONE", time_zone="Pacific/Pago_Pago")
        tomorrow = (datetime.now(ZoneInfo("Pacific/Pago_Pago")).date() + timedelta(days=1)).isoformat()
        active = await contracts.put_in_force(entity, start_date=day(-300), end_date=tomorrow)
        due_time = (await contract_timers(admin, active))["contract-end"]
        await fire(admin, active, "contract-end")

        async def waits_again() -> bool:
            return (await contract_timers(admin, active)).get("contract-end") == due_time

        await eventually(waits_again)
        assert (await contracts.get(active)).state == Contract.ACTIVE

    @pytest.mark.parametrize("kind", ["contract-end", "contract-notice"])
    async def test_what_is_not_in_force_knows_no_clock(
        self, contracts: ContractApi, acme: Entity, admin: Admin, outbox_events: Said, kind: str
    ) -> None:
        draft = await contracts.write(acme, start_date=day(-300), end_date=day(-1), auto_renew=True)
        before = count(await outbox_events("entities"))
        await fire(admin, draft, kind)
        await no_timer(admin, draft, kind)
        assert await contracts.get(draft) == draft
        assert count(await outbox_events("entities")) == before

    async def test_auto_renew_makes_a_successor_that_is_active(
        self, contracts: ContractApi, acme: Entity, admin: Admin, published_events: PublishedEvents
    ) -> None:
        active = await contracts.put_in_force(
            acme, auto_renew=True, renewal_uplift_bp=300, license_tier="gold", seats=3, renewal_term_months=12,
            start_date="2024-03-01", end_date=day(50), purchase_order_number="PO-1",
        )  # fmt: skip
        await days_pass(admin, 50, active)
        renewed = await published_events.first(ContractRenewed)
        assert (renewed.contract_id, renewed.automatic) == (active.id, True)
        old, new = await contracts.get(active), await contracts.get(renewed.renewed_to_id)
        assert (old.state, old.renewed_to_id) == (Contract.RENEWED, new.id)
        assert (new.state, new.renewed_from_id, new.start_date) == (Contract.ACTIVE, old.id, old.end_date)
        assert (new.license_state, new.auto_renew, new.renewal_uplift_bp) == (Contract.REQUESTED, True, 300)
        assert (new.purchase_order_number, list(new.signatures)) == ("PO-1", [])
        assert new.contract_number != old.contract_number
        told = (await published_events.at_least(2, ContractActivated))[1]
        assert (told.contract_id, told.renewed_from_id, told.license_tier, told.seats) == (new.id, old.id, "gold", 3)
        assert set(await contract_timers(admin, new)) == {"contract-end", "contract-notice"}

    async def test_what_was_missed_is_made_up_for(
        self, contracts: ContractApi, acme: Entity, admin: Admin, outbox_events: Said
    ) -> None:
        """The clock stood still for three terms: each has its notice and its successor."""
        active = await contracts.put_in_force(
            acme, auto_renew=True, renewal_term_months=1, renewal_notice_days=5, start_date=day(-300), end_date=day(1),
            billing_frequency=Contract.ONE_TIME,
        )  # fmt: skip
        await days_pass(admin, 80, active)

        async def up_to_date() -> list[Contract]:
            found = list((await contracts.page(page_size=1000)).contracts)
            return found if found[-1].end_date > day() else []

        line = await eventually(up_to_date)
        assert [contract.state for contract in line] == [Contract.RENEWED] * (len(line) - 1) + [Contract.ACTIVE]
        assert len(line) in {3, 4}
        for old, new in pairwise(line):
            assert (old.renewed_to_id, old.end_date) == (new.id, new.start_date)
        said = count(await outbox_events("entities"))
        assert said[ContractRenewed.DESCRIPTOR.full_name] == len(line) - 1
        assert said[ContractRenewalDue.DESCRIPTOR.full_name] in {len(line) - 1, len(line)}

    async def test_what_is_withheld_is_not_renewed_by_itself(
        self, contracts: ContractApi, acme: Entity, admin: Admin
    ) -> None:
        active = await contracts.put_in_force(acme, auto_renew=True, end_date=day(50))
        await contracts.suspend(active)
        await days_pass(admin, 50, active)
        assert (await becomes(contracts, active, Contract.EXPIRED)).renewed_to_id == ""

    async def test_who_terminated_it_for_its_end_has_the_last_word(
        self, contracts: ContractApi, acme: Entity, admin: Admin
    ) -> None:
        active = await contracts.put_in_force(acme, auto_renew=True, end_date=day(50))
        await contracts.terminate(active, effective_date=day(50))
        await days_pass(admin, 50, active)
        assert (await becomes(contracts, active, Contract.TERMINATED)).renewed_to_id == ""

    async def test_an_active_successor_takes_over(
        self, contracts: ContractApi, acme: Entity, admin: Admin, published_events: PublishedEvents
    ) -> None:
        active = await contracts.put_in_force(acme, auto_renew=True, end_date=day(50))
        successor = await contracts.bring_into_force(await contracts.renew(active))
        assert (successor.state, successor.start_date) == (Contract.ACTIVE, day(50))
        assert (await contracts.get(active)).state == Contract.ACTIVE
        await days_pass(admin, 50, active, successor)
        told = await published_events.first(ContractRenewed)
        assert (told.contract_id, told.renewed_to_id, told.automatic) == (active.id, successor.id, False)
        assert (await contracts.get(active)).state == Contract.RENEWED
        assert (await contracts.get(successor)).state == Contract.ACTIVE
        assert published_events.of(ContractRenewalDue) == []  # it was settled before
        assert len(await contracts.names()) == 2

    async def test_a_successor_that_is_not_active_yet_does_not(
        self, contracts: ContractApi, acme: Entity, admin: Admin
    ) -> None:
        active = await contracts.put_in_force(acme, end_date=day(50))
        draft = await contracts.renew(active)
        await days_pass(admin, 50, active, draft)
        await becomes(contracts, active, Contract.EXPIRED)
        assert (await contracts.bring_into_force(draft)).state == Contract.ACTIVE  # late, but it goes on

    async def test_with_auto_renew_what_was_agreed_goes_on_and_the_draft_is_withdrawn(
        self, contracts: ContractApi, acme: Entity, admin: Admin
    ) -> None:
        active = await contracts.put_in_force(acme, auto_renew=True, end_date=day(50))
        draft = await contracts.update(await contracts.renew(active), total_value=money("1"))
        await days_pass(admin, 50, active, draft)
        old = await becomes(contracts, active, Contract.RENEWED)
        new, withdrawn = await contracts.get(old.renewed_to_id), await contracts.get(draft)
        assert (new.state, withdrawn.state) == (Contract.ACTIVE, Contract.TERMINATED)
        assert new.id != draft.id
        assert "renewed automatically" in withdrawn.termination_reason


def count(said: list[OutboxEvent]) -> Counter[str]:
    return Counter(event.type for event in said)


async def fire(admin: Admin, contract: Contract, kind: str) -> None:
    """Have a timer of the contract be due now, whether it is set or not."""
    await admin.execute(
        "insert into entities.timers (tenant_id, kind, resource_id, due_time) select tenant_id, $1, id, now()"
        " from entities.billing_contracts where id = $2"
        " on conflict (tenant_id, kind, resource_id) do update set due_time = now()",
        kind,
        ids.CONTRACT.parse(contract.id),
    )


async def no_timer(admin: Admin, contract: Contract, kind: str) -> None:
    async def gone() -> bool:
        return kind not in await contract_timers(admin, contract)

    await eventually(gone)


@pytest.fixture
def quiet_api(quiet: Quiet, finance: Caller) -> ContractApi:
    return ContractApi(EntitiesApi(finance, quiet.served.stubs))


class TestReplicas:
    async def test_three_together_do_each_thing_once(self, quiet: Quiet, quiet_api: ContractApi, tenant: UUID) -> None:
        entity = await quiet_api.api.found()
        given: dict[str, dict[str, Any]] = {"renew": {"auto_renew": True}, "expire": {}, "terminate": {}, "tell": {}}
        made: dict[str, list[Contract]] = {name: [] for name in given}
        for name, terms in given.items():
            for _ in range(6):
                active = await quiet_api.put_in_force(entity, end_date=day(70 if name == "tell" else 50), **terms)
                made[name].append(active)
                if name == "terminate":
                    await quiet_api.terminate(active, effective_date=day(45))
        await days_pass(quiet.admin, 50, *(contract for some in made.values() for contract in some))
        async with replicas(quiet, 3):
            await eventually(lambda: quiet.idle(tenant), within_s=30)
        said = await quiet.said(tenant)
        assert {number for (event, _), number in said.items() if event.startswith("Contract")} == {1}
        told = {event: {id for kind, id in said if kind == event} for event in {kind for kind, _ in said}}
        by_name = {name: {contract.id for contract in some} for name, some in made.items()}
        assert told["ContractRenewalDue"] == by_name["renew"] | by_name["expire"] | by_name["tell"]
        assert told["ContractRenewed"] == by_name["renew"]
        assert told["ContractExpired"] == by_name["expire"]
        assert told["ContractTerminated"] == by_name["terminate"]
        assert len(await quiet_api.names()) == 4 * 6 + 6

    @pytest.mark.parametrize(("kind", "events"), [
        ("contract-end", {"ContractRenewalDue", "ContractRenewed"}), ("contract-notice", {"ContractRenewalDue"}),
    ])  # fmt: skip
    async def test_one_that_is_killed_in_the_middle_leaves_nothing_half_done(
        self, quiet: Quiet, quiet_api: ContractApi, tenant: UUID, kind: str, events: set[str]
    ) -> None:
        entity = await quiet_api.api.found()
        active = await quiet_api.put_in_force(entity, end_date=day(50), auto_renew=True)
        await days_pass(quiet.admin, 50 if kind == "contract-end" else 20, active)
        with process_amid_effect(quiet.settings, kind) as (process, pipe):
            assert await asyncio.to_thread(pipe.poll, 30)
            assert pipe.recv() == ids.CONTRACT.parse(active.id)
            async with replicas(quiet, 2):
                process.kill()
                await eventually(lambda: quiet.idle(tenant), within_s=30)
        of_this = {event: number for (event, id), number in (await quiet.said(tenant)).items() if id == active.id}
        assert of_this == {"ContractActivated": 1, **dict.fromkeys(events, 1)}
        assert len(await quiet_api.names()) == (2 if kind == "contract-end" else 1)
