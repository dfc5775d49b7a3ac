"""Timers of contracts: notice, end and automatic renewal, once even with several replicas and crashes."""

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
from tests.entities.contract_api import ContractApi, contract_timers, day, let_days_pass, money
from tests.entities.entities_api import EntitiesApi
from tests.entities.test_contract_states import wait_for_state
from tests.entities.timer_replicas import TimerlessService, process_before_commit, replicas
from tests.harness.callers import Caller
from tests.harness.observe import OutboxEvent, PublishedEvents, eventually

Admin: TypeAlias = "asyncpg.Pool[asyncpg.Record]"
OutboxEvents: TypeAlias = Callable[[str], Awaitable[list[OutboxEvent]]]


class TestNotice:
    async def test_notice_is_published_at_the_notice_date(
        self, contracts: ContractApi, acme: Entity, admin: Admin, published_events: PublishedEvents
    ) -> None:
        active = await contracts.create_active(
            acme, start_date="2026-01-01", end_date=day(100), renewal_notice_days=40, auto_renew=True,
            renewal_uplift_bp=500, billing_frequency=Contract.ONE_TIME,
        )  # fmt: skip
        assert published_events.of(ContractRenewalDue) == []
        await let_days_pass(admin, 60, active)
        event = await published_events.first(ContractRenewalDue)
        check = await contracts.check_renewal(active)
        assert event == ContractRenewalDue(
            contract_id=active.id, entity_id=acme.id, contract_number=active.contract_number, end_date=day(40),
            notice_date=day(), auto_renew=True, renewal_value=check.renewal_value,
        )  # fmt: skip

    async def test_notice_is_published_once(
        self,
        contracts: ContractApi,
        acme: Entity,
        admin: Admin,
        published_events: PublishedEvents,
        outbox_events: OutboxEvents,
    ) -> None:
        active = await contracts.create_active(acme, end_date=day(100))
        await let_days_pass(admin, 80, active)
        await published_events.first(ContractRenewalDue)
        for _ in range(2):
            await make_timer_due(admin, active, "contract-notice")
            await wait_until_timer_is_gone(admin, active, "contract-notice")
        assert count(await outbox_events("entities"))[ContractRenewalDue.DESCRIPTOR.full_name] == 1

    async def test_early_timer_is_reset(
        self, contracts: ContractApi, acme: Entity, admin: Admin, outbox_events: OutboxEvents
    ) -> None:
        active = await contracts.create_active(acme, end_date=day(100))
        right = await contract_timers(admin, active)
        await make_timer_due(admin, active, "contract-notice")

        async def is_reset() -> bool:
            return await contract_timers(admin, active) == right

        await eventually(is_reset)
        assert ContractRenewalDue.DESCRIPTOR.full_name not in count(await outbox_events("entities"))

    async def test_notice_is_published_again_for_another_end_date(
        self, contracts: ContractApi, acme: Entity, admin: Admin, published_events: PublishedEvents
    ) -> None:
        active = await contracts.create_active(acme, end_date=day(100))
        await let_days_pass(admin, 80, active)
        await published_events.first(ContractRenewalDue)
        await admin.execute(
            "update entities.billing_contracts set end_date = end_date + 5 where id = $1", ids.CONTRACT.parse(active.id)
        )
        await make_timer_due(admin, active, "contract-notice")
        events = await published_events.at_least(2, ContractRenewalDue)
        assert [event.end_date for event in events] == [day(20), day(25)]

    async def test_notice_is_published_at_activation_after_the_notice_date(
        self, contracts: ContractApi, acme: Entity, published_events: PublishedEvents
    ) -> None:
        await contracts.create_active(acme, end_date=day(10), start_date=day(-300))
        assert (await published_events.first(ContractRenewalDue)).notice_date == day(-20)

    async def test_terminated_contract_gets_no_notice(
        self, contracts: ContractApi, acme: Entity, admin: Admin, outbox_events: OutboxEvents
    ) -> None:
        active = await contracts.create_active(acme, end_date=day(100))
        await contracts.terminate(active, effective_date=day(100))
        await let_days_pass(admin, 100, active)
        await wait_for_state(contracts, active, Contract.TERMINATED)
        assert ContractRenewalDue.DESCRIPTOR.full_name not in count(await outbox_events("entities"))

    @pytest.mark.parametrize("zone", ["UTC", "Pacific/Kiritimati", "Pacific/Pago_Pago", "America/New_York"])
    async def test_due_times_are_in_the_time_zone_of_the_entity(
        self, api: EntitiesApi, contracts: ContractApi, admin: Admin, zone: str
    ) -> None:
        entity = await api.create_entity("ZONE", time_zone=zone)
        active = await contracts.create_active(entity, end_date=day(100))
        ends = date.fromisoformat(active.end_date)
        assert await contract_timers(admin, active) == {
            "contract-end": dates.day_start(ends, zone),
            "contract-notice": dates.day_start(ends - timedelta(days=30), zone),
        }
        moved = "Asia/Tokyo"
        await api.update(entity, time_zone=moved)
        assert (await contract_timers(admin, active))["contract-end"] == dates.day_start(ends, moved)


class TestEnd:
    async def test_contract_without_renewal_expires(
        self, contracts: ContractApi, acme: Entity, admin: Admin, published_events: PublishedEvents
    ) -> None:
        active = await contracts.create_active(acme, end_date=day(100))
        await let_days_pass(admin, 99, active)
        await published_events.first(ContractRenewalDue)
        assert (await contracts.get(active)).state == Contract.ACTIVE
        await let_days_pass(admin, 1, active)
        assert await published_events.first(ContractExpired) == ContractExpired(
            contract_id=active.id, entity_id=acme.id, end_date=day()
        )
        assert (await contracts.get(active)).state == Contract.EXPIRED
        assert await contract_timers(admin, active) == {}

    async def test_contract_is_active_on_its_last_day(
        self, api: EntitiesApi, contracts: ContractApi, admin: Admin, outbox_events: OutboxEvents
    ) -> None:
        """A timer that fires too early, for example by the wrong time zone, is reset."""
        entity = await api.create_entity("ZONE", time_zone="Pacific/Pago_Pago")
        tomorrow = (datetime.now(ZoneInfo("Pacific/Pago_Pago")).date() + timedelta(days=1)).isoformat()
        active = await contracts.create_active(entity, start_date=day(-300), end_date=tomorrow)
        due_time = (await contract_timers(admin, active))["contract-end"]
        await make_timer_due(admin, active, "contract-end")

        async def is_reset() -> bool:
            return (await contract_timers(admin, active)).get("contract-end") == due_time

        await eventually(is_reset)
        assert (await contracts.get(active)).state == Contract.ACTIVE

    @pytest.mark.parametrize("kind", ["contract-end", "contract-notice"])
    async def test_timer_of_a_draft_has_no_effect(
        self, contracts: ContractApi, acme: Entity, admin: Admin, outbox_events: OutboxEvents, kind: str
    ) -> None:
        draft = await contracts.create(acme, start_date=day(-300), end_date=day(-1), auto_renew=True)
        before = count(await outbox_events("entities"))
        await make_timer_due(admin, draft, kind)
        await wait_until_timer_is_gone(admin, draft, kind)
        assert await contracts.get(draft) == draft
        assert count(await outbox_events("entities")) == before

    async def test_auto_renew_creates_an_active_successor(
        self, contracts: ContractApi, acme: Entity, admin: Admin, published_events: PublishedEvents
    ) -> None:
        active = await contracts.create_active(
            acme, auto_renew=True, renewal_uplift_bp=300, license_tier="gold", seats=3, renewal_term_months=12,
            start_date="2024-03-01", end_date=day(50), purchase_order_number="PO-1",
        )  # fmt: skip
        await let_days_pass(admin, 50, active)
        renewed = await published_events.first(ContractRenewed)
        assert (renewed.contract_id, renewed.automatic) == (active.id, True)
        old, new = await contracts.get(active), await contracts.get(renewed.renewed_to_id)
        assert (old.state, old.renewed_to_id) == (Contract.RENEWED, new.id)
        assert (new.state, new.renewed_from_id, new.start_date) == (Contract.ACTIVE, old.id, old.end_date)
        assert (new.license_state, new.auto_renew, new.renewal_uplift_bp) == (Contract.REQUESTED, True, 300)
        assert (new.purchase_order_number, list(new.signatures)) == ("PO-1", [])
        assert new.contract_number != old.contract_number
        event = (await published_events.at_least(2, ContractActivated))[1]
        assert (event.contract_id, event.renewed_from_id, event.license_tier, event.seats) == (
            new.id,
            old.id,
            "gold",
            3,
        )
        assert set(await contract_timers(admin, new)) == {"contract-end", "contract-notice"}

    async def test_missed_terms_are_renewed_one_by_one(
        self, contracts: ContractApi, acme: Entity, admin: Admin, outbox_events: OutboxEvents
    ) -> None:
        """If no timer fired for three terms, each term still gets its notice and its successor."""
        active = await contracts.create_active(
            acme, auto_renew=True, renewal_term_months=1, renewal_notice_days=5, start_date=day(-300), end_date=day(1),
            billing_frequency=Contract.ONE_TIME,
        )  # fmt: skip
        await let_days_pass(admin, 80, active)

        async def up_to_date() -> list[Contract]:
            renewed = list((await contracts.list_page(page_size=1000)).contracts)
            return renewed if renewed[-1].end_date > day() else []

        chain = await eventually(up_to_date)
        assert [contract.state for contract in chain] == [Contract.RENEWED] * (len(chain) - 1) + [Contract.ACTIVE]
        assert len(chain) in {3, 4}
        for old, new in pairwise(chain):
            assert (old.renewed_to_id, old.end_date) == (new.id, new.start_date)
        counts = count(await outbox_events("entities"))
        assert counts[ContractRenewed.DESCRIPTOR.full_name] == len(chain) - 1
        assert counts[ContractRenewalDue.DESCRIPTOR.full_name] in {len(chain) - 1, len(chain)}

    async def test_suspended_contract_is_not_renewed_automatically(
        self, contracts: ContractApi, acme: Entity, admin: Admin, published_events: PublishedEvents
    ) -> None:
        active = await contracts.create_active(acme, auto_renew=True, end_date=day(50))
        assert (await contracts.check_renewal(active)).auto_renew
        await contracts.suspend(active)
        assert not (await contracts.check_renewal(active)).auto_renew
        await let_days_pass(admin, 50, active)
        assert (await wait_for_state(contracts, active, Contract.EXPIRED)).renewed_to_id == ""
        assert not (await published_events.first(ContractRenewalDue)).auto_renew

    async def test_terminated_contract_is_not_renewed(self, contracts: ContractApi, acme: Entity, admin: Admin) -> None:
        active = await contracts.create_active(acme, auto_renew=True, end_date=day(50))
        await contracts.terminate(active, effective_date=day(50))
        await let_days_pass(admin, 50, active)
        assert (await wait_for_state(contracts, active, Contract.TERMINATED)).renewed_to_id == ""

    async def test_active_successor_takes_over(
        self, contracts: ContractApi, acme: Entity, admin: Admin, published_events: PublishedEvents
    ) -> None:
        active = await contracts.create_active(acme, auto_renew=True, end_date=day(50))
        successor = await contracts.activate_draft(await contracts.renew(active))
        assert (successor.state, successor.start_date) == (Contract.ACTIVE, day(50))
        assert (await contracts.get(active)).state == Contract.ACTIVE
        await let_days_pass(admin, 50, active, successor)
        event = await published_events.first(ContractRenewed)
        assert (event.contract_id, event.renewed_to_id, event.automatic) == (active.id, successor.id, False)
        assert (await contracts.get(active)).state == Contract.RENEWED
        assert (await contracts.get(successor)).state == Contract.ACTIVE
        assert published_events.of(ContractRenewalDue) == []  # since the successor was already active
        assert len(await contracts.list_names()) == 2

    async def test_draft_successor_does_not_take_over(self, contracts: ContractApi, acme: Entity, admin: Admin) -> None:
        active = await contracts.create_active(acme, end_date=day(50))
        draft = await contracts.renew(active)
        await let_days_pass(admin, 50, active, draft)
        await wait_for_state(contracts, active, Contract.EXPIRED)
        assert (await contracts.activate_draft(draft)).state == Contract.ACTIVE  # late activation is still possible

    async def test_auto_renew_withdraws_a_draft_successor(
        self, contracts: ContractApi, acme: Entity, admin: Admin
    ) -> None:
        active = await contracts.create_active(acme, auto_renew=True, end_date=day(50))
        draft = await contracts.update(await contracts.renew(active), total_value=money("1"))
        await let_days_pass(admin, 50, active, draft)
        old = await wait_for_state(contracts, active, Contract.RENEWED)
        new, withdrawn = await contracts.get(old.renewed_to_id), await contracts.get(draft)
        assert (new.state, withdrawn.state) == (Contract.ACTIVE, Contract.TERMINATED)
        assert new.id != draft.id
        assert "renewed automatically" in withdrawn.termination_reason


def count(events: list[OutboxEvent]) -> Counter[str]:
    return Counter(event.type for event in events)


async def make_timer_due(admin: Admin, contract: Contract, kind: str) -> None:
    """Make a timer of the contract due now, whether it is set or not."""
    await admin.execute(
        "insert into entities.timers (tenant_id, kind, resource_id, due_time) select tenant_id, $1, id, now()"
        " from entities.billing_contracts where id = $2"
        " on conflict (tenant_id, kind, resource_id) do update set due_time = now()",
        kind,
        ids.CONTRACT.parse(contract.id),
    )


async def wait_until_timer_is_gone(admin: Admin, contract: Contract, kind: str) -> None:
    async def gone() -> bool:
        return kind not in await contract_timers(admin, contract)

    await eventually(gone)


@pytest.fixture
def timerless_api(timerless: TimerlessService, finance: Caller) -> ContractApi:
    return ContractApi(EntitiesApi(finance, timerless.served.stubs))


class TestReplicas:
    async def test_three_replicas_have_each_effect_once(
        self, timerless: TimerlessService, timerless_api: ContractApi, tenant: UUID
    ) -> None:
        entity = await timerless_api.api.create_entity()
        cases: dict[str, dict[str, Any]] = {"renew": {"auto_renew": True}, "expire": {}, "terminate": {}, "notify": {}}
        contracts_by_case: dict[str, list[Contract]] = {name: [] for name in cases}
        for name, terms in cases.items():
            for _ in range(6):
                active = await timerless_api.create_active(
                    entity, end_date=day(70 if name == "notify" else 50), **terms
                )
                contracts_by_case[name].append(active)
                if name == "terminate":
                    await timerless_api.terminate(active, effective_date=day(45))
        await let_days_pass(
            timerless.admin, 50, *(contract for group in contracts_by_case.values() for contract in group)
        )
        async with replicas(timerless, 3):
            await eventually(lambda: timerless.has_no_due_timer(tenant), within_s=30)
        counts = await timerless.count_events(tenant)
        assert {number for (event, _), number in counts.items() if event.startswith("Contract")} == {1}
        contract_ids = {event: {id for kind, id in counts if kind == event} for event in {kind for kind, _ in counts}}
        by_name = {name: {contract.id for contract in group} for name, group in contracts_by_case.items()}
        assert contract_ids["ContractRenewalDue"] == by_name["renew"] | by_name["expire"] | by_name["notify"]
        assert contract_ids["ContractRenewed"] == by_name["renew"]
        assert contract_ids["ContractExpired"] == by_name["expire"]
        assert contract_ids["ContractTerminated"] == by_name["terminate"]
        assert len(await timerless_api.list_names()) == 4 * 6 + 6

    @pytest.mark.parametrize(("kind", "events"), [
        ("contract-end", {"ContractRenewalDue", "ContractRenewed"}), ("contract-notice", {"ContractRenewalDue"}),
    ])  # fmt: skip
    async def test_killed_replica_leaves_no_partial_effect(
        self, timerless: TimerlessService, timerless_api: ContractApi, tenant: UUID, kind: str, events: set[str]
    ) -> None:
        entity = await timerless_api.api.create_entity()
        active = await timerless_api.create_active(entity, end_date=day(50), auto_renew=True)
        await let_days_pass(timerless.admin, 50 if kind == "contract-end" else 20, active)
        with process_before_commit(timerless.settings, kind) as (process, pipe):
            assert await asyncio.to_thread(pipe.poll, 30)
            assert pipe.recv() == ids.CONTRACT.parse(active.id)
            async with replicas(timerless, 2):
                process.kill()
                await eventually(lambda: timerless.has_no_due_timer(tenant), within_s=30)
        counts = {
            event: number for (event, id), number in (await timerless.count_events(tenant)).items() if id == active.id
        }
        assert counts == {"ContractActivated": 1, **dict.fromkeys(events, 1)}
        assert len(await timerless_api.list_names()) == (2 if kind == "contract-end" else 1)
