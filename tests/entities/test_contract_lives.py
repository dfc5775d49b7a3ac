"""The life of a contract: every action in every state, suspension, and how it is terminated."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeAlias
from uuid import UUID

import asyncpg
import pytest
from billing.entities.v1.contract_pb2 import Contract
from billing.entities.v1.entity_pb2 import Entity
from billing.entities.v1.events_pb2 import ContractResumed, ContractSuspended, ContractTerminated
from grpc import StatusCode

from kit import ids
from services.entities.domain import contracts as rules
from services.entities.domain.contracts import ContractAction, ContractState
from services.entities.errors.contracts import ContractStateForbids
from tests.entities.conftest import EntitiesApi
from tests.entities.contract_api import ContractApi, contract_timers, day, days_pass
from tests.harness.callers import Caller, Refusal, refusal
from tests.harness.observe import OutboxEvent, PublishedEvents, eventually

S, A = ContractState, ContractAction
Admin: TypeAlias = "asyncpg.Pool[asyncpg.Record]"

LIFE: Final[Mapping[ContractState, Mapping[ContractAction, ContractState]]] = {
    S.DRAFT: {
        A.CHANGE: S.DRAFT, A.SUBMIT: S.PENDING_SIGNATURE, A.REQUEST_APPROVAL: S.PENDING_APPROVAL,
        A.TERMINATE: S.TERMINATED,
    },
    S.PENDING_APPROVAL: {A.APPROVE: S.PENDING_SIGNATURE, A.REJECT: S.DRAFT, A.TERMINATE: S.TERMINATED},
    S.PENDING_SIGNATURE: {A.SIGN: S.PENDING_SIGNATURE, A.ACTIVATE: S.ACTIVE, A.TERMINATE: S.TERMINATED},
    S.ACTIVE: {
        A.SUSPEND: S.SUSPENDED, A.RENEW: S.ACTIVE, A.SUCCEED: S.RENEWED, A.EXPIRE: S.EXPIRED,
        A.SCHEDULE_TERMINATION: S.ACTIVE, A.TERMINATE: S.TERMINATED, A.AMEND: S.ACTIVE,
    },
    S.SUSPENDED: {
        A.RESUME: S.ACTIVE, A.SUCCEED: S.RENEWED, A.EXPIRE: S.EXPIRED, A.SCHEDULE_TERMINATION: S.SUSPENDED,
        A.TERMINATE: S.TERMINATED, A.AMEND: S.SUSPENDED,
    },
    S.EXPIRED: {},
    S.TERMINATED: {},
    S.RENEWED: {},
}  # fmt: skip

VERBS: Final[Mapping[ContractAction, Callable[[ContractApi, str], Awaitable[Contract]]]] = {
    A.CHANGE: lambda api, id: api.update(id, name="Other"),
    A.SUBMIT: lambda api, id: api.submit(id),
    A.SIGN: lambda api, id: api.sign(id),
    A.ACTIVATE: lambda api, id: api.activate(id),
    A.SUSPEND: lambda api, id: api.suspend(id),
    A.RESUME: lambda api, id: api.resume(id),
    A.RENEW: lambda api, id: api.renew(id),
    A.TERMINATE: lambda api, id: api.terminate(id, for_cause=True),
}
"""What callers do to a contract itself; the rest is done by approvals, amendments and the clock."""


@pytest.fixture
def contracts(api: EntitiesApi) -> ContractApi:
    return ContractApi(api)


@pytest.fixture
async def acme(api: EntitiesApi) -> Entity:
    return await api.found("ACME")


@pytest.mark.parametrize("action", ContractAction)
@pytest.mark.parametrize("state", ContractState)
def test_every_action_in_every_state(state: ContractState, action: ContractAction) -> None:
    expected = LIFE[state].get(action)
    if expected:
        assert rules.advance(UUID(int=7), state, action) is expected
        return
    with pytest.raises(ContractStateForbids) as refused:
        rules.advance(UUID(int=7), state, action)
    allowed = [before for before, actions in LIFE.items() if action in actions]
    assert refused.value.metadata["state"] == state
    assert refused.value.metadata["allowed"] == ", ".join(allowed)


def test_every_action_is_allowed_somewhere() -> None:
    assert {action for _, action in rules.CONTRACT_TRANSITIONS} == set(ContractAction)


@pytest.mark.parametrize("state", ContractState)
async def test_every_verb_in_every_state(
    contracts: ContractApi, acme: Entity, admin: Admin, state: ContractState
) -> None:
    for action, do in VERBS.items():
        contract = await in_state(contracts, acme, admin, state)
        expected = LIFE[state].get(action)
        if expected:
            done = await do(contracts, contract.id)
            assert done.state == Contract.State.Value(S.DRAFT if action is A.RENEW else expected), action
            continue
        refused = await refusal(do(contracts, contract.id))
        assert (refused.code, refused.reason) == (StatusCode.FAILED_PRECONDITION, "CONTRACT_STATE"), action
        allowed = ", ".join(before for before, actions in LIFE.items() if action in actions)
        assert refused.metadata == {"contract_id": contract.id, "state": state, "allowed": allowed}
        assert await contracts.get(contract) == contract


async def in_state(contracts: ContractApi, acme: Entity, admin: Admin, state: ContractState) -> Contract:
    """A contract that needs no signatures; put by hand into a state that only the clock or approvals bring about."""
    draft = await contracts.write(acme, contract_type=Contract.SUBSCRIPTION)
    if state is not S.DRAFT:
        await contracts.submit(draft)
    if state in {S.ACTIVE, S.SUSPENDED}:
        await contracts.activate(draft)
    if state is S.SUSPENDED:
        await contracts.suspend(draft)
    if state is S.TERMINATED:
        await contracts.terminate(draft)
    if state in {S.PENDING_APPROVAL, S.EXPIRED, S.RENEWED}:
        query = "update entities.billing_contracts set state = $1 where id = $2"
        await admin.execute(query, state.value, ids.CONTRACT.parse(draft.id))
    return await contracts.get(draft)


@pytest.mark.parametrize("action", VERBS)
async def test_a_stale_etag_does_nothing(
    contracts: ContractApi, acme: Entity, admin: Admin, action: ContractAction
) -> None:
    state = next(state for state, actions in LIFE.items() if action in actions)
    contract = await in_state(contracts, acme, admin, state)
    methods: dict[ContractAction, Callable[..., Awaitable[Contract]]] = {
        A.CHANGE: contracts.update, A.SUBMIT: contracts.submit, A.SIGN: contracts.sign, A.ACTIVATE: contracts.activate,
        A.SUSPEND: contracts.suspend, A.RESUME: contracts.resume, A.RENEW: contracts.renew,
        A.TERMINATE: contracts.terminate,
    }  # fmt: skip
    refused = await refusal(methods[action](contract, etag="99"))
    assert (refused.code, refused.reason) == (StatusCode.ABORTED, "ETAG_MISMATCH")
    assert await contracts.get(contract) == contract


class TestSuspension:
    async def test_it_says_why_and_since_when_and_goes_without_a_trace(
        self, contracts: ContractApi, acme: Entity, admin: Admin, published_events: PublishedEvents
    ) -> None:
        active = await contracts.put_in_force(acme)
        timers = await contract_timers(admin, active)
        suspended = await contracts.suspend(active, reason="three invoices open")
        assert (suspended.state, suspended.suspension_reason) == (Contract.SUSPENDED, "three invoices open")
        assert suspended.HasField("suspend_time")
        assert await contract_timers(admin, active) == timers
        resumed = await contracts.resume(active)
        assert (resumed.state, resumed.suspension_reason) == (Contract.ACTIVE, "")
        assert not resumed.HasField("suspend_time")
        names = {"contract_id": active.id, "entity_id": acme.id}
        assert await published_events.first(ContractSuspended) == ContractSuspended(
            **names, reason="three invoices open"
        )
        assert await published_events.first(ContractResumed) == ContractResumed(**names)


class TestTermination:
    async def test_for_cause_at_once(
        self, contracts: ContractApi, acme: Entity, admin: Admin, published_events: PublishedEvents
    ) -> None:
        active = await contracts.put_in_force(acme)
        ended = await contracts.terminate(active, reason="breach", for_cause=True)
        assert (ended.state, ended.termination_date, ended.termination_reason, ended.terminated_for_cause) == (
            Contract.TERMINATED, day(), "breach", True,
        )  # fmt: skip
        assert await published_events.first(ContractTerminated) == ContractTerminated(
            contract_id=active.id, entity_id=acme.id, termination_date=day(), reason="breach", for_cause=True
        )
        assert await contract_timers(admin, active) == {}

    async def test_not_sooner_than_the_notice(self, contracts: ContractApi, acme: Entity) -> None:
        active = await contracts.put_in_force(acme, renewal_notice_days=60)
        refused = await refusal(contracts.terminate(active, effective_date=day(59)))
        assert (refused.code, refused.reason) == (StatusCode.FAILED_PRECONDITION, "CONTRACT_NOTICE_TOO_SHORT")
        assert refused.metadata == {
            "contract_id": active.id, "effective_date": day(59), "earliest_date": day(60), "notice_days": "60",
        }  # fmt: skip
        assert await contracts.get(active) == active
        ended = await contracts.terminate(active, effective_date=day(60))
        assert (ended.state, ended.termination_date) == (Contract.ACTIVE, day(60))

    async def test_a_later_day_comes_by_itself(
        self, contracts: ContractApi, acme: Entity, admin: Admin, published_events: PublishedEvents
    ) -> None:
        active = await contracts.put_in_force(acme)
        announced = await contracts.terminate(active)
        assert (announced.state, announced.termination_date) == (Contract.ACTIVE, day(30))
        assert set(await contract_timers(admin, active)) == {"contract-end"}
        assert published_events.of(ContractTerminated) == []
        await days_pass(admin, 30, active)
        told = await published_events.first(ContractTerminated)
        assert (told.contract_id, told.termination_date) == (active.id, day())
        assert (await contracts.get(active)).state == Contract.TERMINATED
        assert await contract_timers(admin, active) == {}

    async def test_a_suspended_one_ends_as_well(self, contracts: ContractApi, acme: Entity, admin: Admin) -> None:
        active = await contracts.put_in_force(acme)
        await contracts.suspend(active)
        assert (await contracts.terminate(active)).state == Contract.SUSPENDED
        await days_pass(admin, 30, active)
        ended = await becomes(contracts, active, Contract.TERMINATED)
        assert not ended.HasField("suspend_time")

    async def test_another_day_takes_its_place(self, contracts: ContractApi, acme: Entity, admin: Admin) -> None:
        active = await contracts.put_in_force(acme)
        await contracts.terminate(active, effective_date=day(40))
        first = await contract_timers(admin, active)
        moved = await contracts.terminate(active, effective_date=day(50), reason="later")
        assert (moved.termination_date, moved.termination_reason) == (day(50), "later")
        assert (await contract_timers(admin, active))["contract-end"] > first["contract-end"]

    @pytest.mark.parametrize(("given", "told"), [({"effective_date": -1}, "today"), ({"effective_date": 364}, "end")])
    async def test_the_day_lies_in_what_is_left_of_the_term(
        self, contracts: ContractApi, acme: Entity, given: dict[str, int], told: str
    ) -> None:
        active = await contracts.put_in_force(acme)
        effective = day(given["effective_date"])
        refused = await refusal(contracts.terminate(active, effective_date=effective, for_cause=True))
        assert (refused.reason, set(refused.fields)) == ("INVALID_FIELDS", {"effective_date"})
        assert told in refused.fields["effective_date"]

    async def test_when_less_is_left_than_the_notice_it_ends_for_cause_only(
        self, contracts: ContractApi, acme: Entity, admin: Admin
    ) -> None:
        active = await contracts.put_in_force(acme)
        await days_pass(admin, 353, active)
        refused = await refusal(contracts.terminate(active))
        assert (refused.reason, refused.metadata["effective_date"]) == ("CONTRACT_NOTICE_TOO_SHORT", day(10))
        assert (await contracts.terminate(active, for_cause=True)).state == Contract.TERMINATED

    async def test_an_evergreen_one_ends_with_notice(self, contracts: ContractApi, acme: Entity, admin: Admin) -> None:
        active = await contracts.put_in_force(acme, end_date="")
        assert await contract_timers(admin, active) == {}
        await contracts.terminate(active)
        await days_pass(admin, 30, active)
        assert (await becomes(contracts, active, Contract.TERMINATED)).end_date == ""

    async def test_what_was_never_active_is_withdrawn_and_nobody_is_told(
        self,
        contracts: ContractApi,
        acme: Entity,
        outbox_events: Callable[[str], Awaitable[list[OutboxEvent]]],
    ) -> None:
        draft = await contracts.write(acme)
        withdrawn = await contracts.terminate(draft, effective_date=day(100))
        assert (withdrawn.state, withdrawn.termination_date) == (Contract.TERMINATED, day())
        assert [event.type for event in await outbox_events("entities")] == ["billing.entities.v1.EntityCreated"]

    async def test_done_twice_by_key_it_is_done_once(
        self,
        contracts: ContractApi,
        acme: Entity,
        outbox_events: Callable[[str], Awaitable[list[OutboxEvent]]],
    ) -> None:
        active = await contracts.put_in_force(acme)
        first = await contracts.terminate(active, for_cause=True, request_id="key-1")
        assert await contracts.terminate(active, for_cause=True, request_id="key-1") == first
        said = [event.type for event in await outbox_events("entities")]
        assert said.count("billing.entities.v1.ContractTerminated") == 1


async def becomes(contracts: ContractApi, contract: Contract, state: Contract.State.ValueType) -> Contract:
    """The contract, as soon as it is in this state."""

    async def there() -> list[Contract]:
        found = await contracts.get(contract)
        return [found] if found.state == state else []

    (found,) = await eventually(there)
    return found


class TestListContracts:
    async def test_every_filter(self, api: EntitiesApi, contracts: ContractApi, acme: Entity) -> None:
        other = await api.found("OTHER")
        one = await contracts.put_in_force(acme, name="Cloud 100%", end_date=day(100))
        await contracts.write(acme, name="Licence", contract_type=Contract.MASTER, end_date=day(200))
        await contracts.write(other, name="Evergreen", end_date="", contract_number="X_1")
        assert await contracts.names() == ["Cloud 100%", "Licence", "Evergreen"]
        assert await contracts.names(entity_id=acme.id) == ["Cloud 100%", "Licence"]
        assert await contracts.names(state=Contract.DRAFT) == ["Licence", "Evergreen"]
        assert await contracts.names(state=Contract.ACTIVE) == ["Cloud 100%"]
        assert await contracts.names(contract_type=Contract.MASTER) == ["Licence"]
        assert await contracts.names(ends_from_date=day(100)) == ["Cloud 100%", "Licence"]
        assert await contracts.names(ends_from_date=day(101)) == ["Licence"]
        assert await contracts.names(ends_before_date=day(200)) == ["Cloud 100%"]
        assert await contracts.names(ends_from_date=day(100), ends_before_date=day(201), entity_id=other.id) == []
        assert await contracts.names(q="LICEN") == ["Licence"]
        assert await contracts.names(q="100%") == ["Cloud 100%"]
        assert await contracts.names(q="_") == ["Evergreen"]
        assert await contracts.names(q=one.contract_number.lower()) == ["Cloud 100%"]

    async def test_page_by_page_with_signatures_while_others_are_written(
        self, contracts: ContractApi, acme: Entity
    ) -> None:
        names = [f"C{n}" for n in range(5)]
        written = [await contracts.write(acme, name=name) for name in names]
        await contracts.sign(await contracts.submit(written[3]))
        seen: list[Contract] = []
        token = None
        while token != "":
            page = await contracts.page(page_size=2, page_token=token or "", entity_id=acme.id)
            seen += page.contracts
            token = page.next_page_token
            if len(seen) == 2:
                await contracts.write(acme, name="LATE")
        assert [contract.name for contract in seen] == [*names, "LATE"]
        assert [len(contract.signatures) for contract in seen] == [0, 0, 0, 1, 0, 0]
        refused = await refusal(contracts.page(page_size=2, page_token="x"))
        assert refused.reason == "PAGE_TOKEN_INVALID"


class TestScopes:
    async def test_a_confined_caller_sees_and_moves_what_is_of_its_entities(
        self,
        api: EntitiesApi,
        contracts: ContractApi,
        api_for: Callable[[Caller], EntitiesApi],
        caller: Callable[..., Caller],
    ) -> None:
        root = await api.found("ROOT")
        below, aside = await api.found("BELOW", parent_id=root.id), await api.found("ASIDE")
        theirs, ours = await contracts.put_in_force(aside, name="Theirs"), await contracts.put_in_force(below)
        conny = ContractApi(api_for(caller("finance", subject="conny", entity_scope=[root.id])))
        assert await conny.names() == ["Cloud"]
        assert await conny.names(entity_id=aside.id) == []
        assert (await conny.suspend(ours)).state == Contract.SUSPENDED
        assert (await conny.write(below, name="New")).name == "New"
        assert (await refusal(conny.write(aside))).reason == "ENTITY_NOT_FOUND"
        await refuses_as_unknown(conny, theirs.id)
        assert await contracts.get(theirs) == theirs

    async def test_who_is_confined_to_departments_sees_none(
        self,
        api: EntitiesApi,
        contracts: ContractApi,
        api_for: Callable[[Caller], EntitiesApi],
        caller: Callable[..., Caller],
    ) -> None:
        entity = await api.found()
        contract, department = await contracts.write(entity), await api.set_up(entity)
        manager = ContractApi(api_for(caller("finance", subject="conny", department_scope=[department.id])))
        assert await manager.names() == []
        await refuses_as_unknown(manager, contract.id)

    async def test_another_tenant_finds_nothing(
        self,
        contracts: ContractApi,
        acme: Entity,
        api_for: Callable[[Caller], EntitiesApi],
        caller: Callable[..., Caller],
    ) -> None:
        contract = await contracts.put_in_force(acme)
        stranger = ContractApi(api_for(caller("billing_admin", tenant=ids.new())))
        assert await stranger.names() == []
        await refuses_as_unknown(stranger, contract.id)
        assert await contracts.get(contract) == contract


async def refuses_as_unknown(api: ContractApi, contract_id: str) -> None:
    """Whatever is done, it is as if there were no such contract."""
    calls: list[Callable[[ContractApi, str], Awaitable[object]]] = [
        *VERBS.values(), lambda api, id: api.get(id), lambda api, id: api.check(id)
    ]  # fmt: skip
    nobody = ids.CONTRACT.format(ids.new())
    for call in calls:
        refused: Refusal = await refusal(call(api, contract_id))
        unknown: Refusal = await refusal(call(api, nobody))
        assert (refused.code, refused.reason) == (StatusCode.NOT_FOUND, "CONTRACT_NOT_FOUND")
        assert repr(refused).replace(contract_id, "*") == repr(unknown).replace(nobody, "*")


class TestPermissions:
    @pytest.mark.parametrize("role", ["viewer", "auditor"])
    async def test_who_reads_does_not_write(
        self,
        contracts: ContractApi,
        acme: Entity,
        api_for: Callable[[Caller], EntitiesApi],
        caller: Callable[..., Caller],
        role: str,
    ) -> None:
        contract = await contracts.put_in_force(acme)
        reader = ContractApi(api_for(caller(role)))
        assert await reader.get(contract) == contract
        assert (await reader.check(contract)).contract_id == contract.id
        calls: list[Any] = [do(reader, contract.id) for do in VERBS.values()]
        for call in [*calls, reader.write(acme), reader.summarize()]:
            assert (await refusal(call)).code == StatusCode.PERMISSION_DENIED
