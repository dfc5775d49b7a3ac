"""The life of amendments: what can be done to them in which state, and in which order they take effect."""

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
from tests.entities.amendment_api import AmendmentApi, in_state, its_day_comes, put_back
from tests.entities.conftest import EntitiesApi
from tests.entities.contract_api import ContractApi, day, money
from tests.harness.callers import refusal
from tests.harness.observe import PublishedEvents

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
    """Since the day before yesterday, for 365 days: 1,200 EUR, 10 gold seats."""
    return await contracts.put_in_force(acme, seats=10, license_tier="gold")


class TestStates:
    @pytest.mark.parametrize("state", AmendmentState)
    async def test_every_action_in_every_state(
        self, amendments: AmendmentApi, contract: Contract, admin: Admin, state: AmendmentState
    ) -> None:
        does = {
            AmendmentAction.APPROVE: amendments.approve,
            AmendmentAction.REJECT: amendments.reject,
            AmendmentAction.APPLY: amendments.apply,
        }
        for number, (action, act) in enumerate(does.items(), 20):
            amendment = await in_state(amendments, contract, admin, state, seats=number)
            after = AMENDMENT_TRANSITIONS.get((state, action))
            if after:
                assert Amendment.State.Name((await act(amendment)).state) == after
            else:
                refused = await refusal(act(amendment))
                assert (refused.code, refused.reason) == (StatusCode.FAILED_PRECONDITION, "AMENDMENT_STATE")
                allowed = [before for before, allowed_action in AMENDMENT_TRANSITIONS if allowed_action is action]
                assert refused.metadata == {
                    "amendment_id": amendment.id, "state": state, "allowed": ", ".join(allowed)
                }  # fmt: skip
                assert Amendment.State.Name((await amendments.get(amendment)).state) == state

    @pytest.mark.parametrize("state", ContractState)
    async def test_only_contracts_in_force_are_amended(
        self, contracts: ContractApi, amendments: AmendmentApi, contract: Contract, admin: Admin, state: ContractState
    ) -> None:
        draft = await amendments.amend(contract, Amendment.SCOPE, license_tier="silver")
        waiting = await amendments.agree(contract, seats=22, effective_date=day(1))
        await _put_into_state(admin, contract, state)
        await put_back(admin, waiting)
        acts: list[Callable[[], Awaitable[Amendment]]] = [
            lambda: amendments.amend(contract), lambda: amendments.approve(draft), lambda: amendments.apply(waiting)
        ]  # fmt: skip
        for act in acts:
            if (state, ContractAction.AMEND) in CONTRACT_TRANSITIONS:
                await act()
            else:
                refused = await refusal(act())
                assert (refused.reason, refused.metadata["state"]) == ("CONTRACT_STATE", state)
                assert refused.metadata["allowed"] == "ACTIVE, SUSPENDED"
        if state is ContractState.SUSPENDED:
            found = await contracts.get(contract)
            assert (found.seats, found.state, found.suspension_reason) == (22, Contract.SUSPENDED, "not paid")

    async def test_it_takes_no_effect_before_its_day(
        self, contracts: ContractApi, amendments: AmendmentApi, contract: Contract
    ) -> None:
        waiting = await amendments.agree(contract, effective_date=day(2))
        refused = await refusal(amendments.apply(waiting))
        assert (refused.code, refused.reason) == (StatusCode.FAILED_PRECONDITION, "AMENDMENT_NOT_DUE")
        assert refused.metadata == {"amendment_id": waiting.id, "effective_date": day(2)}
        assert await contracts.get(contract) == contract

    async def test_a_rejected_one_says_why_and_is_told(
        self,
        contracts: ContractApi,
        amendments: AmendmentApi,
        contract: Contract,
        published_events: PublishedEvents,
        admin: Admin,
    ) -> None:
        waiting = await amendments.agree(contract, effective_date=day(1))
        rejected = await amendments.reject(waiting, reason="The board said no.")
        assert (rejected.state, rejected.rejection_reason) == (Amendment.REJECTED, "The board said no.")
        timers = "select count(*) from entities.timers where resource_id = $1"
        assert await admin.fetchval(timers, ids.AMENDMENT.parse(waiting.id)) == 0
        assert await published_events.first(AmendmentRejected) == AmendmentRejected(
            contract_id=contract.id, entity_id=contract.entity_id, amendment_id=waiting.id, reason="The board said no."
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
    async def test_one_that_was_planned_later_counts_on_those_before(
        self, contracts: ContractApi, amendments: AmendmentApi, contract: Contract, admin: Admin
    ) -> None:
        first = await amendments.agree(contract, effective_date=day(1), seats=15)
        second = await amendments.agree(contract, effective_date=day(1), seats=18)
        assert (first.before.seats, second.before.seats) == (10, 15)
        await its_day_comes(admin, second, first)
        for amendment in (first, second):
            assert (await amendments.settled(amendment)).state == Amendment.APPLIED
        assert (await contracts.get(contract)).seats == 18

    async def test_one_takes_effect_after_those_that_are_due_before(
        self, contracts: ContractApi, amendments: AmendmentApi, contract: Contract, admin: Admin
    ) -> None:
        first = await amendments.agree(contract, effective_date=day(1), seats=15)
        second = await amendments.agree(contract, effective_date=day(1), seats=18)
        for amendment in (first, second):
            await put_back(admin, amendment)
        assert (await amendments.apply(second)).state == Amendment.APPLIED
        assert (await amendments.get(first)).state == Amendment.APPLIED
        assert (await contracts.get(contract)).seats == 18

    async def test_one_that_the_contract_has_left_behind_is_refused_and_then_rejected(
        self, contracts: ContractApi, amendments: AmendmentApi, contract: Contract, admin: Admin
    ) -> None:
        stale = await amendments.agree(contract, effective_date=day(1), seats=30, license_tier="platinum")
        overtaking = await amendments.agree(contract, seats=12)
        await amendments.settled(overtaking)
        await put_back(admin, stale)
        refused = await refusal(amendments.apply(stale))
        assert (refused.code, refused.reason) == (StatusCode.FAILED_PRECONDITION, "AMENDMENT_STALE")
        assert refused.metadata == {"amendment_id": stale.id, "changed": "seats"}
        assert (await amendments.get(stale)).state == Amendment.APPROVED
        await admin.execute(
            "update entities.timers set due_time = now() where resource_id = $1", ids.AMENDMENT.parse(stale.id)
        )
        rejected = await amendments.settled(stale)
        assert (rejected.state, rejected.rejection_reason) == (Amendment.REJECTED, refused.message)
        found = await contracts.get(contract)
        assert (found.seats, found.license_tier) == (12, "gold")

    async def test_one_that_changes_other_terms_does_not_matter(
        self, contracts: ContractApi, amendments: AmendmentApi, contract: Contract
    ) -> None:
        price = await amendments.amend(contract, Amendment.PRICE, fee=money("90"))
        seats = await amendments.agree(contract, seats=12)
        await amendments.settled(seats)
        await amendments.approve(price)
        assert (await amendments.settled(price)).state == Amendment.APPLIED
        assert (await contracts.get(contract)).seats == 12

    async def test_a_stale_draft_is_not_approved(self, amendments: AmendmentApi, contract: Contract) -> None:
        stale = await amendments.amend(contract, Amendment.PRICE, fee=money("90"))
        other = await amendments.agree(contract, Amendment.PRICE, fee=money("95"))
        await amendments.settled(other)
        refused = await refusal(amendments.approve(stale))
        assert (refused.reason, refused.metadata["changed"]) == ("AMENDMENT_STALE", "fee")
        assert (await amendments.get(stale)).state == Amendment.DRAFT

    async def test_of_two_that_are_approved_at_once_for_the_same_term_one_wins(
        self, contracts: ContractApi, amendments: AmendmentApi, contract: Contract
    ) -> None:
        drafts = [await amendments.amend(contract, seats=seats) for seats in (20, 30)]
        outcomes = await asyncio.gather(*map(amendments.approve, drafts), return_exceptions=True)
        settled = []
        for draft, outcome in zip(drafts, outcomes, strict=True):
            if not isinstance(outcome, BaseException):
                settled.append(await amendments.settled(draft))
        (applied,) = [each for each in settled if each.state == Amendment.APPLIED]
        assert (await contracts.get(contract)).seats == applied.after.seats

    async def test_numbers_have_no_gap(self, amendments: AmendmentApi, contract: Contract) -> None:
        made = await asyncio.gather(*(amendments.amend(contract, seats=20 + number) for number in range(8)))
        assert sorted(amendment.number for amendment in made) == list(range(1, 9))
