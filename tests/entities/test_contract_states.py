"""State changes of contracts: every action in every state, suspension, termination; lists and access."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeAlias
from uuid import UUID

import asyncpg
import pytest
from billing.entities.v1.contract_pb2 import Contract
from billing.entities.v1.entity_pb2 import Entity
from billing.entities.v1.events_pb2 import ContractResumed, ContractSuspended
from grpc import StatusCode

from kit import ids
from services.entities.domain import contracts as rules
from services.entities.domain.contracts import ContractAction, ContractState
from services.entities.errors.contracts import ContractStateForbids
from tests.entities.contract_api import ContractApi, contract_timers, day
from tests.entities.entities_api import EntitiesApi
from tests.harness.callers import Caller, Refusal, refusal
from tests.harness.observe import PublishedEvents, eventually

S, A = ContractState, ContractAction
Admin: TypeAlias = "asyncpg.Pool[asyncpg.Record]"

TRANSITIONS: Final[Mapping[ContractState, Mapping[ContractAction, ContractState]]] = {
    S.DRAFT: {
        A.CHANGE: S.DRAFT, A.SUBMIT: S.PENDING_SIGNATURE, A.REQUEST_APPROVAL: S.PENDING_APPROVAL,
        A.TERMINATE: S.TERMINATED,
    },
    S.PENDING_APPROVAL: {A.APPROVE: S.PENDING_SIGNATURE, A.REJECT: S.DRAFT, A.TERMINATE: S.TERMINATED},
    S.PENDING_SIGNATURE: {A.SIGN: S.PENDING_SIGNATURE, A.ACTIVATE: S.ACTIVE, A.TERMINATE: S.TERMINATED},
    S.ACTIVE: {
        A.SUSPEND: S.SUSPENDED, A.RENEW: S.ACTIVE, A.SUCCEED: S.RENEWED, A.EXPIRE: S.EXPIRED,
        A.SCHEDULE_TERMINATION: S.ACTIVE, A.TERMINATE: S.TERMINATED, A.AMEND: S.ACTIVE,
        A.WITHDRAW_TERMINATION: S.ACTIVE,
    },
    S.SUSPENDED: {
        A.RESUME: S.ACTIVE, A.SUCCEED: S.RENEWED, A.EXPIRE: S.EXPIRED, A.SCHEDULE_TERMINATION: S.SUSPENDED,
        A.TERMINATE: S.TERMINATED, A.AMEND: S.SUSPENDED, A.WITHDRAW_TERMINATION: S.SUSPENDED,
    },
    S.EXPIRED: {},
    S.TERMINATED: {},
    S.RENEWED: {},
}  # fmt: skip

RPCS: Final[Mapping[ContractAction, Callable[[ContractApi, str], Awaitable[Contract]]]] = {
    A.CHANGE: lambda api, id: api.update(id, name="Other"),
    A.SUBMIT: lambda api, id: api.submit(id),
    A.SIGN: lambda api, id: api.sign(id),
    A.ACTIVATE: lambda api, id: api.activate(id),
    A.SUSPEND: lambda api, id: api.suspend(id),
    A.RESUME: lambda api, id: api.resume(id),
    A.RENEW: lambda api, id: api.renew(id),
    A.TERMINATE: lambda api, id: api.terminate(id, for_cause=True),
}
"""The actions that callers perform; approvals, amendments and timers perform the others."""


@pytest.mark.parametrize("action", ContractAction)
@pytest.mark.parametrize("state", ContractState)
def test_every_action_in_every_state(state: ContractState, action: ContractAction) -> None:
    expected = TRANSITIONS[state].get(action)
    if expected:
        assert rules.advance(UUID(int=7), state, action) is expected
        return
    with pytest.raises(ContractStateForbids) as error:
        rules.advance(UUID(int=7), state, action)
    allowed = [before for before, actions in TRANSITIONS.items() if action in actions]
    assert error.value.metadata["state"] == state
    assert error.value.metadata["allowed"] == ", ".join(allowed)


def test_every_action_is_allowed_in_some_state() -> None:
    assert {action for _, action in rules.CONTRACT_TRANSITIONS} == set(ContractAction)


@pytest.mark.parametrize("state", ContractState)
async def test_every_rpc_in_every_state(
    contracts: ContractApi, acme: Entity, admin: Admin, state: ContractState
) -> None:
    for action, do in RPCS.items():
        contract = await in_state(contracts, acme, admin, state)
        expected = TRANSITIONS[state].get(action)
        if expected:
            done = await do(contracts, contract.id)
            assert done.state == Contract.State.Value(S.DRAFT if action is A.RENEW else expected), action
            continue
        error = await refusal(do(contracts, contract.id))
        assert (error.code, error.reason) == (StatusCode.FAILED_PRECONDITION, "CONTRACT_STATE"), action
        allowed = ", ".join(before for before, actions in TRANSITIONS.items() if action in actions)
        assert error.metadata == {"contract_id": contract.id, "state": state, "allowed": allowed}
        assert await contracts.get(contract) == contract


async def in_state(contracts: ContractApi, acme: Entity, admin: Admin, state: ContractState) -> Contract:
    """Create a subscription in this state; states that only timers and approvals lead to are set by SQL."""
    draft = await contracts.create(acme, contract_type=Contract.SUBSCRIPTION)
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


@pytest.mark.parametrize("action", RPCS)
async def test_stale_etag_is_rejected(
    contracts: ContractApi, acme: Entity, admin: Admin, action: ContractAction
) -> None:
    state = next(state for state, actions in TRANSITIONS.items() if action in actions)
    contract = await in_state(contracts, acme, admin, state)
    methods: dict[ContractAction, Callable[..., Awaitable[Contract]]] = {
        A.CHANGE: contracts.update, A.SUBMIT: contracts.submit, A.SIGN: contracts.sign, A.ACTIVATE: contracts.activate,
        A.SUSPEND: contracts.suspend, A.RESUME: contracts.resume, A.RENEW: contracts.renew,
        A.TERMINATE: contracts.terminate,
    }  # fmt: skip
    error = await refusal(methods[action](contract, etag="99"))
    assert (error.code, error.reason) == (StatusCode.ABORTED, "ETAG_MISMATCH")
    assert await contracts.get(contract) == contract


class TestSuspension:
    async def test_reason_and_time_are_set_only_while_suspended(
        self, contracts: ContractApi, acme: Entity, admin: Admin, published_events: PublishedEvents
    ) -> None:
        active = await contracts.create_active(acme)
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


async def wait_for_state(contracts: ContractApi, contract: Contract, state: Contract.State.ValueType) -> Contract:
    """Return the contract as soon as it is in this state."""

    async def in_expected_state() -> list[Contract]:
        current = await contracts.get(contract)
        return [current] if current.state == state else []

    (current,) = await eventually(in_expected_state)
    return current


class TestListContracts:
    async def test_filters(self, api: EntitiesApi, contracts: ContractApi, acme: Entity) -> None:
        other = await api.create_entity("OTHER")
        one = await contracts.create_active(acme, name="Cloud 100%", end_date=day(100))
        await contracts.create(acme, name="Licence", contract_type=Contract.MASTER, end_date=day(200))
        await contracts.create(other, name="Evergreen", end_date="", contract_number="X_1")
        assert await contracts.list_names() == ["Cloud 100%", "Licence", "Evergreen"]
        assert await contracts.list_names(entity_id=acme.id) == ["Cloud 100%", "Licence"]
        assert await contracts.list_names(state=Contract.DRAFT) == ["Licence", "Evergreen"]
        assert await contracts.list_names(state=Contract.ACTIVE) == ["Cloud 100%"]
        assert await contracts.list_names(contract_type=Contract.MASTER) == ["Licence"]
        assert await contracts.list_names(ends_from_date=day(100)) == ["Cloud 100%", "Licence"]
        assert await contracts.list_names(ends_from_date=day(101)) == ["Licence"]
        assert await contracts.list_names(ends_before_date=day(200)) == ["Cloud 100%"]
        assert await contracts.list_names(ends_from_date=day(100), ends_before_date=day(201), entity_id=other.id) == []
        assert await contracts.list_names(q="LICEN") == ["Licence"]
        assert await contracts.list_names(q="100%") == ["Cloud 100%"]
        assert await contracts.list_names(q="_") == ["Evergreen"]
        assert await contracts.list_names(q=one.contract_number.lower()) == ["Cloud 100%"]

    async def test_pages_are_stable_while_contracts_are_created(self, contracts: ContractApi, acme: Entity) -> None:
        names = [f"C{n}" for n in range(5)]
        written = [await contracts.create(acme, name=name) for name in names]
        await contracts.sign(await contracts.submit(written[3]))
        seen: list[Contract] = []
        token = None
        while token != "":
            page = await contracts.list_page(page_size=2, page_token=token or "", entity_id=acme.id)
            seen += page.contracts
            token = page.next_page_token
            if len(seen) == 2:
                await contracts.create(acme, name="LATE")
        assert [contract.name for contract in seen] == [*names, "LATE"]
        assert [len(contract.signatures) for contract in seen] == [0, 0, 0, 1, 0, 0]
        error = await refusal(contracts.list_page(page_size=2, page_token="x"))
        assert error.reason == "PAGE_TOKEN_INVALID"


class TestScopes:
    async def test_scoped_caller_reaches_only_contracts_of_its_entities(
        self,
        api: EntitiesApi,
        contracts: ContractApi,
        api_for: Callable[[Caller], EntitiesApi],
        caller: Callable[..., Caller],
    ) -> None:
        root = await api.create_entity("ROOT")
        child, unrelated = await api.create_entity("BELOW", parent_id=root.id), await api.create_entity("ASIDE")
        theirs, ours = await contracts.create_active(unrelated, name="Theirs"), await contracts.create_active(child)
        scoped = ContractApi(api_for(caller("finance", subject="conny", entity_scope=[root.id])))
        assert await scoped.list_names() == ["Cloud"]
        assert await scoped.list_names(entity_id=unrelated.id) == []
        assert (await scoped.suspend(ours)).state == Contract.SUSPENDED
        assert (await scoped.create(child, name="New")).name == "New"
        assert (await refusal(scoped.create(unrelated))).reason == "ENTITY_NOT_FOUND"
        await check_not_found(scoped, theirs.id)
        assert await contracts.get(theirs) == theirs

    async def test_caller_scoped_to_departments_sees_no_contract(
        self,
        api: EntitiesApi,
        contracts: ContractApi,
        api_for: Callable[[Caller], EntitiesApi],
        caller: Callable[..., Caller],
    ) -> None:
        entity = await api.create_entity()
        contract, department = await contracts.create(entity), await api.create_department(entity)
        manager = ContractApi(api_for(caller("finance", subject="conny", department_scope=[department.id])))
        assert await manager.list_names() == []
        await check_not_found(manager, contract.id)

    async def test_other_tenant_sees_no_contract(
        self,
        contracts: ContractApi,
        acme: Entity,
        api_for: Callable[[Caller], EntitiesApi],
        caller: Callable[..., Caller],
    ) -> None:
        contract = await contracts.create_active(acme)
        other_tenant = ContractApi(api_for(caller("billing_admin", tenant=ids.new())))
        assert await other_tenant.list_names() == []
        await check_not_found(other_tenant, contract.id)
        assert await contracts.get(contract) == contract


async def check_not_found(api: ContractApi, contract_id: str) -> None:
    """Check that every RPC fails as if the contract did not exist."""
    calls: list[Callable[[ContractApi, str], Awaitable[object]]] = [
        *RPCS.values(), lambda api, id: api.get(id), lambda api, id: api.check_renewal(id)
    ]  # fmt: skip
    unknown_id = ids.CONTRACT.format(ids.new())
    for call in calls:
        error: Refusal = await refusal(call(api, contract_id))
        unknown: Refusal = await refusal(call(api, unknown_id))
        assert (error.code, error.reason) == (StatusCode.NOT_FOUND, "CONTRACT_NOT_FOUND")
        assert repr(error).replace(contract_id, "*") == repr(unknown).replace(unknown_id, "*")


class TestPermissions:
    @pytest.mark.parametrize("role", ["viewer", "auditor"])
    async def test_reader_may_not_write(
        self,
        contracts: ContractApi,
        acme: Entity,
        api_for: Callable[[Caller], EntitiesApi],
        caller: Callable[..., Caller],
        role: str,
    ) -> None:
        contract = await contracts.create_active(acme)
        reader = ContractApi(api_for(caller(role)))
        assert await reader.get(contract) == contract
        assert (await reader.check_renewal(contract)).contract_id == contract.id
        calls: list[Any] = [do(reader, contract.id) for do in RPCS.values()]
        for call in [*calls, reader.create(acme), reader.summarize()]:
            assert (await refusal(call)).code == StatusCode.PERMISSION_DENIED
