"""State changes of amendments, and the order in which they are applied."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import asyncpg
import pytest
from billing.entities.v1.amendment_pb2 import Amendment
from billing.entities.v1.contract_pb2 import Contract
from billing.entities.v1.entity_pb2 import Entity
from billing.entities.v1.events_pb2 import AmendmentRejected
from grpc import StatusCode

from kit import ids
from services.entities.domain.amendments import AMENDMENT_TRANSITIONS, AmendmentAction, AmendmentState
from services.entities.domain.contracts import CONTRACT_TRANSITIONS, ContractAction, ContractState
from tests.entities.amendment_api import AmendmentApi, create_in_state, make_due, move_to_today
from tests.entities.contract_api import ContractApi, day, money
from tests.harness.callers import refusal
from tests.harness.observe import PublishedEvents

Admin: TypeAlias = "asyncpg.Pool[asyncpg.Record]"


@pytest.fixture
async def contract(contracts: ContractApi, acme: Entity) -> Contract:
    """An active contract for 365 days since the day before yesterday: 1,200 EUR, 10 gold seats."""
    return await contracts.create_active(acme, seats=10, license_tier="gold")


class TestStates:
    @pytest.mark.parametrize("state", AmendmentState)
    async def test_every_action_in_every_state(
        self, amendments: AmendmentApi, contract: Contract, admin: Admin, state: AmendmentState
    ) -> None:
        rpcs = {
            AmendmentAction.APPROVE: amendments.approve,
            AmendmentAction.REJECT: amendments.reject,
            AmendmentAction.APPLY: amendments.apply,
        }
        for number, (action, rpc) in enumerate(rpcs.items(), 20):
            amendment = await create_in_state(amendments, contract, admin, state, seats=number)
            after = AMENDMENT_TRANSITIONS.get((state, action))
            if after:
                assert Amendment.State.Name((await rpc(amendment)).state) == after
            else:
                error = await refusal(rpc(amendment))
                assert (error.code, error.reason) == (StatusCode.FAILED_PRECONDITION, "AMENDMENT_STATE")
                allowed = [before for before, allowed_action in AMENDMENT_TRANSITIONS if allowed_action is action]
                assert error.metadata == {
                    "amendment_id": amendment.id, "state": state, "allowed": ", ".join(allowed)
                }  # fmt: skip
                assert Amendment.State.Name((await amendments.get(amendment)).state) == state

    @pytest.mark.parametrize("state", ContractState)
    async def test_only_contracts_in_force_are_amended(
        self, contracts: ContractApi, amendments: AmendmentApi, contract: Contract, admin: Admin, state: ContractState
    ) -> None:
        draft = await amendments.create(contract, Amendment.SCOPE, license_tier="silver")
        approved = await amendments.create_approved(contract, seats=22, effective_date=day(1))
        await _put_into_state(admin, contract, state)
        await move_to_today(admin, approved)
        calls: list[Callable[[], Awaitable[Amendment]]] = [
            lambda: amendments.create(contract), lambda: amendments.approve(draft), lambda: amendments.apply(approved)
        ]  # fmt: skip
        for rpc in calls:
            if (state, ContractAction.AMEND) in CONTRACT_TRANSITIONS:
                await rpc()
            else:
                error = await refusal(rpc())
                assert (error.reason, error.metadata["state"]) == ("CONTRACT_STATE", state)
                assert error.metadata["allowed"] == "ACTIVE, SUSPENDED"
        if state is ContractState.SUSPENDED:
            current = await contracts.get(contract)
            assert (current.seats, current.state, current.suspension_reason) == (22, Contract.SUSPENDED, "not paid")

    async def test_apply_before_the_effective_date_is_rejected(
        self, contracts: ContractApi, amendments: AmendmentApi, contract: Contract
    ) -> None:
        approved = await amendments.create_approved(contract, effective_date=day(2))
        error = await refusal(amendments.apply(approved))
        assert (error.code, error.reason) == (StatusCode.FAILED_PRECONDITION, "AMENDMENT_NOT_DUE")
        assert error.metadata == {"amendment_id": approved.id, "effective_date": day(2)}
        assert await contracts.get(contract) == contract

    async def test_rejection_is_published_with_its_reason(
        self,
        contracts: ContractApi,
        amendments: AmendmentApi,
        contract: Contract,
        published_events: PublishedEvents,
        admin: Admin,
    ) -> None:
        approved = await amendments.create_approved(contract, effective_date=day(1))
        rejected = await amendments.reject(approved, reason="The board said no.")
        assert (rejected.state, rejected.rejection_reason) == (Amendment.REJECTED, "The board said no.")
        timers = "select count(*) from entities.timers where resource_id = $1"
        assert await admin.fetchval(timers, ids.AMENDMENT.parse(approved.id)) == 0
        assert await published_events.first(AmendmentRejected) == AmendmentRejected(
            contract_id=contract.id, entity_id=contract.entity_id, amendment_id=approved.id, reason="The board said no."
        )
        assert (await contracts.get(contract)).seats == 10


async def _put_into_state(admin: Admin, contract: Contract, state: ContractState) -> None:
    suspended = state is ContractState.SUSPENDED
    await admin.execute(
        "update entities.billing_contracts set state = $1, suspend_time = case when $2 then now() end,"
        " suspension_reason = case when $2 then 'not paid' else '' end where id = $3",
        state.value,
        suspended,
        ids.CONTRACT.parse(contract.id),
    )


class TestOrder:
    async def test_later_amendment_builds_on_earlier_ones(
        self, contracts: ContractApi, amendments: AmendmentApi, contract: Contract, admin: Admin
    ) -> None:
        first = await amendments.create_approved(contract, effective_date=day(1), seats=15)
        second = await amendments.create_approved(contract, effective_date=day(1), seats=18)
        assert (first.before.seats, second.before.seats) == (10, 15)
        await make_due(admin, second, first)
        for amendment in (first, second):
            assert (await amendments.wait_until_finished(amendment)).state == Amendment.APPLIED
        assert (await contracts.get(contract)).seats == 18

    async def test_earlier_amendments_are_applied_first(
        self, contracts: ContractApi, amendments: AmendmentApi, contract: Contract, admin: Admin
    ) -> None:
        first = await amendments.create_approved(contract, effective_date=day(1), seats=15)
        second = await amendments.create_approved(contract, effective_date=day(1), seats=18)
        for amendment in (first, second):
            await move_to_today(admin, amendment)
        assert (await amendments.apply(second)).state == Amendment.APPLIED
        assert (await amendments.get(first)).state == Amendment.APPLIED
        assert (await contracts.get(contract)).seats == 18

    async def test_stale_amendment_is_not_applied_but_rejected(
        self, contracts: ContractApi, amendments: AmendmentApi, contract: Contract, admin: Admin
    ) -> None:
        stale = await amendments.create_approved(contract, effective_date=day(1), seats=30, license_tier="platinum")
        overtaking = await amendments.create_approved(contract, seats=12)
        await amendments.wait_until_finished(overtaking)
        await move_to_today(admin, stale)
        error = await refusal(amendments.apply(stale))
        assert (error.code, error.reason) == (StatusCode.FAILED_PRECONDITION, "AMENDMENT_STALE")
        assert error.metadata == {"amendment_id": stale.id, "changed": "seats"}
        assert (await amendments.get(stale)).state == Amendment.APPROVED
        await admin.execute(
            "update entities.timers set due_time = now() where resource_id = $1", ids.AMENDMENT.parse(stale.id)
        )
        rejected = await amendments.wait_until_finished(stale)
        assert (rejected.state, rejected.rejection_reason) == (Amendment.REJECTED, error.message)
        current = await contracts.get(contract)
        assert (current.seats, current.license_tier) == (12, "gold")

    async def test_amendment_of_other_terms_is_not_stale(
        self, contracts: ContractApi, amendments: AmendmentApi, contract: Contract
    ) -> None:
        price = await amendments.create(contract, Amendment.PRICE, fee=money("90"))
        seats = await amendments.create_approved(contract, seats=12)
        await amendments.wait_until_finished(seats)
        await amendments.approve(price)
        assert (await amendments.wait_until_finished(price)).state == Amendment.APPLIED
        assert (await contracts.get(contract)).seats == 12

    async def test_stale_draft_is_not_approved(self, amendments: AmendmentApi, contract: Contract) -> None:
        stale = await amendments.create(contract, Amendment.PRICE, fee=money("90"))
        other = await amendments.create_approved(contract, Amendment.PRICE, fee=money("95"))
        await amendments.wait_until_finished(other)
        error = await refusal(amendments.approve(stale))
        assert (error.reason, error.metadata["changed"]) == ("AMENDMENT_STALE", "fee")
        assert (await amendments.get(stale)).state == Amendment.DRAFT

    async def test_concurrent_amendments_of_one_term_are_applied_once(
        self, contracts: ContractApi, amendments: AmendmentApi, contract: Contract
    ) -> None:
        drafts = [await amendments.create(contract, seats=seats) for seats in (20, 30)]
        outcomes = await asyncio.gather(*map(amendments.approve, drafts), return_exceptions=True)
        finished = []
        for draft, outcome in zip(drafts, outcomes, strict=True):
            if not isinstance(outcome, BaseException):
                finished.append(await amendments.wait_until_finished(draft))
        (applied,) = [each for each in finished if each.state == Amendment.APPLIED]
        assert (await contracts.get(contract)).seats == applied.after.seats

    async def test_numbers_have_no_gaps(self, amendments: AmendmentApi, contract: Contract) -> None:
        created = await asyncio.gather(*(amendments.create(contract, seats=20 + number) for number in range(8)))
        assert sorted(amendment.number for amendment in created) == list(range(1, 9))
