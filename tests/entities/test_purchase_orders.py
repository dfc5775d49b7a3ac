"""Purchase orders: how much of the limit is used, and the warnings at its thresholds."""

import asyncio
from datetime import date
from typing import Any, TypeAlias
from uuid import UUID

import asyncpg
import pytest
from billing.entities.v1.amendment_pb2 import Amendment
from billing.entities.v1.contract_pb2 import Contract, PurchaseOrderUse
from billing.entities.v1.entity_pb2 import Entity
from billing.entities.v1.events_pb2 import PurchaseOrderLimitReached

from kit import dates, ids
from services.entities import domain
from services.entities.domain.purchase_orders import PurchaseOrderState
from tests.entities.amendment_api import AmendmentApi
from tests.entities.contract_api import ContractApi, day, let_days_pass, money
from tests.entities.entities_api import EntitiesApi
from tests.entities.test_fees import day as on
from tests.entities.test_fees import eur, terms
from tests.entities.timer_replicas import TimerlessService, process_before_commit, replicas
from tests.harness.callers import Caller
from tests.harness.observe import PublishedEvents, eventually

Admin: TypeAlias = "asyncpg.Pool[asyncpg.Record]"
MONTHLY_100 = domain.fees.build_plan(terms(phases={"2027-01-01": "100.00"}))


class TestRules:
    @pytest.mark.parametrize(
        ("today", "used", "remaining", "state"),
        [
            ("2026-12-31", "0.00", "1000.00", PurchaseOrderState.OK),
            ("2027-01-01", "100.00", "900.00", PurchaseOrderState.OK),
            ("2027-07-31", "700.00", "300.00", PurchaseOrderState.OK),
            ("2027-08-01", "800.00", "200.00", PurchaseOrderState.NEAR),
            ("2027-10-01", "1000.00", "0.00", PurchaseOrderState.NEAR),
            ("2027-11-01", "1100.00", "-100.00", PurchaseOrderState.EXCEEDED),
            ("2030-01-01", "1200.00", "-200.00", PurchaseOrderState.EXCEEDED),
        ],
    )
    def test_use_counts_the_fees_that_have_fallen_due(
        self, today: str, used: str, remaining: str, state: PurchaseOrderState
    ) -> None:
        use = domain.purchase_orders.compute_use(MONTHLY_100, eur("1000"), on(today))
        assert (use.used.text(), use.remaining.text(), use.state) == (used, remaining, state)
        assert use.exceed_date == date(2027, 11, 1)

    @pytest.mark.parametrize(
        ("limit", "days"),
        [
            ("1000", {8000: "2027-08-01", 10000: "2027-11-01"}),
            ("1200", {8000: "2027-10-01"}),
            ("1199.99", {8000: "2027-10-01", 10000: "2027-12-01"}),
            ("100", {8000: "2027-01-01", 10000: "2027-02-01"}),
            ("0.01", {8000: "2027-01-01", 10000: "2027-01-01"}),
            ("9000", {}),
        ],
    )
    def test_threshold_dates_are_known_in_advance(self, limit: str, days: dict[int, str]) -> None:
        dates_by_bp = domain.purchase_orders.threshold_dates(MONTHLY_100, eur(limit))
        assert {bp: date.isoformat() for bp, date in dates_by_bp.items()} == days


async def create_with_order(
    contracts: ContractApi, entity: Entity | str, limit: str = "500", **fields: Any
) -> Contract:
    """An active contract of 100 EUR a month from today on, with a purchase order."""
    order = {"purchase_order_number": "PO-1", "purchase_order_limit": money(limit)}
    start, end = day(), f"{int(day()[:4]) + 1}{day()[4:]}".replace("02-29", "02-28")
    defaults = {"start_date": start, "end_date": end, "total_value": money("1200"), **order}
    return await contracts.create_active(entity, **{**defaults, **fields})


class TestUse:
    async def test_contract_shows_the_use_of_its_order(
        self, contracts: ContractApi, acme: Entity, admin: Admin
    ) -> None:
        active = await create_with_order(contracts, acme)
        assert active.purchase_order_use == PurchaseOrderUse(
            used=money("100.00"), remaining=money("400.00"), state=PurchaseOrderUse.OK,
            exceed_date=active.purchase_order_use.exceed_date,
        )  # fmt: skip
        assert active.purchase_order_use.exceed_date > day(140)
        await let_days_pass(admin, 100, active)
        current = await contracts.get(active)
        assert (current.purchase_order_use.used, current.purchase_order_use.state) == (
            money("400.00"),
            PurchaseOrderUse.NEAR,
        )
        await let_days_pass(admin, 60, active)
        current = await contracts.get(active)
        assert current.purchase_order_use.state == PurchaseOrderUse.EXCEEDED
        assert current.purchase_order_use.remaining == money("-100.00")
        assert (await contracts.list_page()).contracts[0] == current

    async def test_use_is_not_set_without_a_limit_or_before_activation(
        self, contracts: ContractApi, acme: Entity
    ) -> None:
        order = {"purchase_order_number": "PO-1", "purchase_order_limit": money("500")}
        draft = await contracts.create(acme, **order)
        unlimited = await contracts.create_active(acme, purchase_order_number="PO-1")
        for contract in (draft, await contracts.get(draft), unlimited):
            assert not contract.HasField("purchase_order_use")


class TestWarnings:
    async def test_each_threshold_is_published_once(
        self, contracts: ContractApi, acme: Entity, admin: Admin, published_events: PublishedEvents
    ) -> None:
        active = await create_with_order(contracts, acme)
        assert not published_events.of(PurchaseOrderLimitReached)
        await let_days_pass(admin, 100, active)
        near = await published_events.first(PurchaseOrderLimitReached)
        exceed_date = (await contracts.get(active)).purchase_order_use.exceed_date
        assert near == PurchaseOrderLimitReached(
            contract_id=active.id, entity_id=acme.id, contract_number=active.contract_number,
            purchase_order_number="PO-1", purchase_order_limit=money("500.00"), used=money("400.00"),
            threshold_bp=8000, exceed_date=exceed_date,
        )  # fmt: skip
        await contracts.suspend(active)
        await contracts.resume(active)
        await let_days_pass(admin, 60, active)
        events = await published_events.at_least(2, PurchaseOrderLimitReached)
        assert [(event.threshold_bp, event.used) for event in events] == [(8000, near.used), (10000, money("600.00"))]
        assert await _due_time(admin, active) is None

    async def test_timer_is_due_on_the_next_threshold_date(
        self, contracts: ContractApi, acme: Entity, admin: Admin
    ) -> None:
        active = await create_with_order(contracts, acme, start_date=day(), limit="500")
        fourth = dates.months_later(on(active.start_date), 3)
        assert await _due_time(admin, active) == dates.day_start(fourth, "UTC")

    async def test_another_order_or_limit_has_its_own_warnings(
        self, api: EntitiesApi, contracts: ContractApi, acme: Entity, published_events: PublishedEvents
    ) -> None:
        amendments = AmendmentApi(api)
        active = await create_with_order(contracts, acme, limit="90")
        assert [event.threshold_bp for event in await published_events.at_least(2, PurchaseOrderLimitReached)] == [
            8000,
            10000,
        ]
        more = await amendments.create_approved(active, Amendment.OTHER, purchase_order_limit=money("125"))
        await amendments.wait_until_finished(more)
        assert (await published_events.at_least(3, PurchaseOrderLimitReached))[2].threshold_bp == 8000
        assert (await contracts.get(active)).purchase_order_use.state == PurchaseOrderUse.NEAR
        other = await amendments.create_approved(active, Amendment.OTHER, purchase_order_number="PO-2")
        await amendments.wait_until_finished(other)
        assert (await published_events.at_least(4, PurchaseOrderLimitReached))[3].purchase_order_number == "PO-2"

    async def test_amended_fee_counts(
        self, api: EntitiesApi, contracts: ContractApi, acme: Entity, published_events: PublishedEvents
    ) -> None:
        amendments = AmendmentApi(api)
        active = await create_with_order(contracts, acme)
        amendment = await amendments.create_approved(active, Amendment.PRICE, fee=money("450"))
        await amendments.wait_until_finished(amendment)
        assert (await published_events.first(PurchaseOrderLimitReached)).used == money("450.00")

    async def test_terminated_contract_gets_no_warning(
        self, contracts: ContractApi, acme: Entity, admin: Admin, published_events: PublishedEvents
    ) -> None:
        active = await create_with_order(contracts, acme)
        assert await _due_time(admin, active)
        await contracts.terminate(active, for_cause=True)
        assert await _due_time(admin, active) is None
        assert (await contracts.get(active)).purchase_order_use.used == money("0.00")
        assert not published_events.of(PurchaseOrderLimitReached)


class TestReplicas:
    async def test_three_replicas_publish_each_warning_once(
        self, timerless: TimerlessService, finance: Caller, tenant: UUID
    ) -> None:
        contracts = ContractApi(EntitiesApi(finance, timerless.served.stubs))
        entity = await contracts.api.create_entity()
        created = [await create_with_order(contracts, entity) for _ in range(8)]
        await let_days_pass(timerless.admin, 100, *created[:4])
        await let_days_pass(timerless.admin, 160, *created[4:])
        async with replicas(timerless, 3):
            await eventually(lambda: timerless.has_no_due_timer(tenant), within_s=30)
        counts = await timerless.count_events(tenant)
        assert [counts["PurchaseOrderLimitReached", contract.id] for contract in created] == [1] * 4 + [2] * 4

    async def test_killed_replica_leaves_the_warning_to_others(
        self, timerless: TimerlessService, finance: Caller, tenant: UUID
    ) -> None:
        contracts = ContractApi(EntitiesApi(finance, timerless.served.stubs))
        active = await create_with_order(contracts, await contracts.api.create_entity())
        await let_days_pass(timerless.admin, 100, active)
        with process_before_commit(timerless.settings, "purchase-order") as (process, pipe):
            assert await asyncio.to_thread(pipe.poll, 30)
            assert pipe.recv() == ids.CONTRACT.parse(active.id)
            async with replicas(timerless, 2):
                process.kill()
                await eventually(lambda: timerless.has_no_due_timer(tenant), within_s=30)
        assert (await timerless.count_events(tenant))["PurchaseOrderLimitReached", active.id] == 1


async def _due_time(admin: Admin, contract: Contract) -> Any:
    return await admin.fetchval(
        "select due_time from entities.timers where kind = 'purchase-order' and resource_id = $1",
        ids.CONTRACT.parse(contract.id),
    )
