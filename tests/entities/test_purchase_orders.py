"""How much of a purchase order the fees of a contract have used, and who is told when it comes to its end."""

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
from tests.entities.clocks import Quiet, process_amid_effect, replicas
from tests.entities.conftest import EntitiesApi
from tests.entities.contract_api import ContractApi, day, days_pass, money
from tests.entities.test_fees import day as on
from tests.entities.test_fees import eur, terms
from tests.harness.callers import Caller
from tests.harness.observe import PublishedEvents, eventually

Admin: TypeAlias = "asyncpg.Pool[asyncpg.Record]"
MONTHLY_100 = domain.fees.build_plan(terms(phases={"2027-01-01": "100.00"}))


@pytest.fixture
def contracts(api: EntitiesApi) -> ContractApi:
    return ContractApi(api)


@pytest.fixture
async def acme(api: EntitiesApi) -> Entity:
    return await api.found()


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
    def test_it_counts_what_has_fallen_due(
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
    def test_the_days_of_its_thresholds_are_known_before(self, limit: str, days: dict[int, str]) -> None:
        found = domain.purchase_orders.threshold_dates(MONTHLY_100, eur(limit))
        assert {threshold: each.isoformat() for threshold, each in found.items()} == days


async def limited(contracts: ContractApi, entity: Entity | str, limit: str = "500", **given: Any) -> Contract:
    """100 EUR a month since today, and a purchase order."""
    order = {"purchase_order_number": "PO-1", "purchase_order_limit": money(limit)}
    start, end = day(), f"{int(day()[:4]) + 1}{day()[4:]}".replace("02-29", "02-28")
    made = {"start_date": start, "end_date": end, "total_value": money("1200"), **order, **given}
    return await contracts.put_in_force(entity, **made)


class TestShown:
    async def test_a_contract_shows_how_its_order_stands(
        self, contracts: ContractApi, acme: Entity, admin: Admin
    ) -> None:
        active = await limited(contracts, acme)
        assert active.purchase_order_use == PurchaseOrderUse(
            used=money("100.00"), remaining=money("400.00"), state=PurchaseOrderUse.OK,
            exceed_date=active.purchase_order_use.exceed_date,
        )  # fmt: skip
        assert active.purchase_order_use.exceed_date > day(140)
        await days_pass(admin, 100, active)
        found = await contracts.get(active)
        assert (found.purchase_order_use.used, found.purchase_order_use.state) == (
            money("400.00"),
            PurchaseOrderUse.NEAR,
        )
        await days_pass(admin, 60, active)
        found = await contracts.get(active)
        assert found.purchase_order_use.state == PurchaseOrderUse.EXCEEDED
        assert found.purchase_order_use.remaining == money("-100.00")
        assert (await contracts.page()).contracts[0] == found

    async def test_not_without_a_limit_nor_before_it_was_active(self, contracts: ContractApi, acme: Entity) -> None:
        order = {"purchase_order_number": "PO-1", "purchase_order_limit": money("500")}
        draft = await contracts.write(acme, **order)
        unlimited = await contracts.put_in_force(acme, purchase_order_number="PO-1")
        for contract in (draft, await contracts.get(draft), unlimited):
            assert not contract.HasField("purchase_order_use")


class TestTold:
    async def test_once_for_each_threshold(
        self, contracts: ContractApi, acme: Entity, admin: Admin, published_events: PublishedEvents
    ) -> None:
        active = await limited(contracts, acme)
        assert not published_events.of(PurchaseOrderLimitReached)
        await days_pass(admin, 100, active)
        near = await published_events.first(PurchaseOrderLimitReached)
        exceed_date = (await contracts.get(active)).purchase_order_use.exceed_date
        assert near == PurchaseOrderLimitReached(
            contract_id=active.id, entity_id=acme.id, contract_number=active.contract_number,
            purchase_order_number="PO-1", purchase_order_limit=money("500.00"), used=money("400.00"),
            threshold_bp=8000, exceed_date=exceed_date,
        )  # fmt: skip
        await contracts.suspend(active)
        await contracts.resume(active)
        await days_pass(admin, 60, active)
        told = await published_events.at_least(2, PurchaseOrderLimitReached)
        assert [(event.threshold_bp, event.used) for event in told] == [(8000, near.used), (10000, money("600.00"))]
        assert await _timer(admin, active) is None

    async def test_the_next_is_looked_for_on_its_day(self, contracts: ContractApi, acme: Entity, admin: Admin) -> None:
        active = await limited(contracts, acme, start_date=day(), limit="500")
        fourth = dates.months_later(on(active.start_date), 3)
        assert await _timer(admin, active) == dates.day_start(fourth, "UTC")

    async def test_again_for_another_order_or_limit(
        self, api: EntitiesApi, contracts: ContractApi, acme: Entity, published_events: PublishedEvents
    ) -> None:
        amendments = AmendmentApi(api)
        active = await limited(contracts, acme, limit="90")
        assert [event.threshold_bp for event in await published_events.at_least(2, PurchaseOrderLimitReached)] == [
            8000,
            10000,
        ]
        more = await amendments.agree(active, Amendment.OTHER, purchase_order_limit=money("125"))
        await amendments.settled(more)
        assert (await published_events.at_least(3, PurchaseOrderLimitReached))[2].threshold_bp == 8000
        assert (await contracts.get(active)).purchase_order_use.state == PurchaseOrderUse.NEAR
        other = await amendments.agree(active, Amendment.OTHER, purchase_order_number="PO-2")
        await amendments.settled(other)
        assert (await published_events.at_least(4, PurchaseOrderLimitReached))[3].purchase_order_number == "PO-2"

    async def test_an_amendment_of_the_fee_counts(
        self, api: EntitiesApi, contracts: ContractApi, acme: Entity, published_events: PublishedEvents
    ) -> None:
        amendments = AmendmentApi(api)
        active = await limited(contracts, acme)
        dearer = await amendments.agree(active, Amendment.PRICE, fee=money("450"))
        await amendments.settled(dearer)
        assert (await published_events.first(PurchaseOrderLimitReached)).used == money("450.00")

    async def test_what_has_ended_is_not_looked_at(
        self, contracts: ContractApi, acme: Entity, admin: Admin, published_events: PublishedEvents
    ) -> None:
        active = await limited(contracts, acme)
        assert await _timer(admin, active)
        await contracts.terminate(active, for_cause=True)
        assert await _timer(admin, active) is None
        assert (await contracts.get(active)).purchase_order_use.used == money("0.00")
        assert not published_events.of(PurchaseOrderLimitReached)


class TestReplicas:
    async def test_three_together_say_each_thing_once(self, quiet: Quiet, finance: Caller, tenant: UUID) -> None:
        contracts = ContractApi(EntitiesApi(finance, quiet.served.stubs))
        entity = await contracts.api.found()
        made = [await limited(contracts, entity) for _ in range(8)]
        await days_pass(quiet.admin, 100, *made[:4])
        await days_pass(quiet.admin, 160, *made[4:])
        async with replicas(quiet, 3):
            await eventually(lambda: quiet.idle(tenant), within_s=30)
        said = await quiet.said(tenant)
        assert [said["PurchaseOrderLimitReached", contract.id] for contract in made] == [1] * 4 + [2] * 4

    async def test_one_that_is_killed_in_the_middle_leaves_it_to_the_others(
        self, quiet: Quiet, finance: Caller, tenant: UUID
    ) -> None:
        contracts = ContractApi(EntitiesApi(finance, quiet.served.stubs))
        active = await limited(contracts, await contracts.api.found())
        await days_pass(quiet.admin, 100, active)
        with process_amid_effect(quiet.settings, "purchase-order") as (process, pipe):
            assert await asyncio.to_thread(pipe.poll, 30)
            assert pipe.recv() == ids.CONTRACT.parse(active.id)
            async with replicas(quiet, 2):
                process.kill()
                await eventually(lambda: quiet.idle(tenant), within_s=30)
        assert (await quiet.said(tenant))["PurchaseOrderLimitReached", active.id] == 1


async def _timer(admin: Admin, contract: Contract) -> Any:
    return await admin.fetchval(
        "select due_time from entities.timers where kind = 'purchase-order' and resource_id = $1",
        ids.CONTRACT.parse(contract.id),
    )
