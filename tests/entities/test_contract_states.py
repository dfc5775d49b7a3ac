"""State changes of contracts: every action in every state, suspension, termination; lists and access."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import date, timedelta
from typing import Any, Final, TypeAlias
from uuid import UUID

import asyncpg
import pytest
from billing.entities.v1.contract_pb2 import Contract
from billing.entities.v1.entity_pb2 import Entity
from billing.entities.v1.events_pb2 import ContractResumed, ContractSuspended, ContractTerminated
from grpc import StatusCode
from hypothesis import given
from hypothesis import strategies as st

from kit import ids
from services.entities.domain import contracts as rules
from services.entities.domain.contracts import ContractAction, ContractState, TerminationRequest
from services.entities.errors.contracts import ContractNoticeOver, ContractStateForbids
from tests.entities.conftest import EntitiesApi
from tests.entities.contract_api import ContractApi, contract_timers, day, let_days_pass
from tests.entities.test_fees import terms
from tests.harness.callers import Caller, Refusal, refusal
from tests.harness.observe import OutboxEvent, PublishedEvents, eventually

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
    },
    S.SUSPENDED: {
        A.RESUME: S.ACTIVE, A.SUCCEED: S.RENEWED, A.EXPIRE: S.EXPIRED, A.SCHEDULE_TERMINATION: S.SUSPENDED,
        A.TERMINATE: S.TERMINATED, A.AMEND: S.SUSPENDED,
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


@pytest.fixture
def contracts(api: EntitiesApi) -> ContractApi:
    return ContractApi(api)


@pytest.fixture
async def acme(api: EntitiesApi) -> Entity:
    return await api.create_entity("ACME")


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


class TestTermination:
    async def test_termination_for_cause_is_immediate(
        self, contracts: ContractApi, acme: Entity, admin: Admin, published_events: PublishedEvents
    ) -> None:
        active = await contracts.create_active(acme)
        ended = await contracts.terminate(active, reason="breach", for_cause=True)
        assert (ended.state, ended.termination_date, ended.termination_reason, ended.terminated_for_cause) == (
            Contract.TERMINATED, day(), "breach", True,
        )  # fmt: skip
        assert await published_events.first(ContractTerminated) == ContractTerminated(
            contract_id=active.id, entity_id=acme.id, termination_date=day(), reason="breach", for_cause=True
        )
        assert await contract_timers(admin, active) == {}

    async def test_termination_before_the_notice_period_is_rejected(self, contracts: ContractApi, acme: Entity) -> None:
        active = await contracts.create_active(acme, renewal_notice_days=60)
        error = await refusal(contracts.terminate(active, effective_date=day(59)))
        assert (error.code, error.reason) == (StatusCode.FAILED_PRECONDITION, "CONTRACT_NOTICE_TOO_SHORT")
        assert error.metadata == {
            "contract_id": active.id, "effective_date": day(59), "earliest_date": day(60), "notice_days": "60",
        }  # fmt: skip
        assert await contracts.get(active) == active
        ended = await contracts.terminate(active, effective_date=day(60))
        assert (ended.state, ended.termination_date) == (Contract.ACTIVE, day(60))

    async def test_contract_is_terminated_on_its_effective_date(
        self, contracts: ContractApi, acme: Entity, admin: Admin, published_events: PublishedEvents
    ) -> None:
        active = await contracts.create_active(acme)
        scheduled = await contracts.terminate(active)
        assert (scheduled.state, scheduled.termination_date) == (Contract.ACTIVE, day(30))
        assert set(await contract_timers(admin, active)) == {"contract-end"}
        assert published_events.of(ContractTerminated) == []
        await let_days_pass(admin, 30, active)
        event = await published_events.first(ContractTerminated)
        assert (event.contract_id, event.termination_date) == (active.id, day())
        assert (await contracts.get(active)).state == Contract.TERMINATED
        assert await contract_timers(admin, active) == {}

    async def test_suspended_contract_is_terminated_on_its_effective_date(
        self, contracts: ContractApi, acme: Entity, admin: Admin
    ) -> None:
        active = await contracts.create_active(acme)
        await contracts.suspend(active)
        assert (await contracts.terminate(active)).state == Contract.SUSPENDED
        await let_days_pass(admin, 30, active)
        ended = await wait_for_state(contracts, active, Contract.TERMINATED)
        assert not ended.HasField("suspend_time")

    async def test_later_call_replaces_the_effective_date(
        self, contracts: ContractApi, acme: Entity, admin: Admin
    ) -> None:
        active = await contracts.create_active(acme)
        await contracts.terminate(active, effective_date=day(40))
        first = await contract_timers(admin, active)
        moved = await contracts.terminate(active, effective_date=day(50), reason="later")
        assert (moved.termination_date, moved.termination_reason) == (day(50), "later")
        assert (await contract_timers(admin, active))["contract-end"] > first["contract-end"]

    @pytest.mark.parametrize(("days", "text"), [(-1, "today"), (364, "end_date")])
    async def test_effective_date_outside_the_remaining_term_is_rejected(
        self, contracts: ContractApi, acme: Entity, days: int, text: str
    ) -> None:
        active = await contracts.create_active(acme)
        effective = day(days)
        error = await refusal(contracts.terminate(active, effective_date=effective, for_cause=True))
        assert (error.reason, set(error.fields)) == ("INVALID_FIELDS", {"effective_date"})
        assert text in error.fields["effective_date"]

    async def test_termination_without_cause_is_rejected_when_the_term_ends_sooner(
        self, contracts: ContractApi, acme: Entity, admin: Admin
    ) -> None:
        active = await contracts.create_active(acme)
        await let_days_pass(admin, 353, active)
        for effective in ("", day(10), day(30)):
            error = await refusal(contracts.terminate(active, effective_date=effective))
            assert (error.code, error.reason) == (StatusCode.FAILED_PRECONDITION, "CONTRACT_NOTICE_OVER")
            assert error.metadata == {
                "contract_id": active.id, "notice_date": day(-20), "end_date": day(10), "auto_renew": "false",
            }  # fmt: skip
            assert f"it ends on {day(10)}" in error.message
        assert (await contracts.terminate(active, for_cause=True)).state == Contract.TERMINATED

    def test_termination_after_the_notice_date_says_when_the_contract_renews(self) -> None:
        agreed = replace(terms("2026-01-15", "2027-01-15"), renewal_notice_days=60, auto_renew=True)
        rules.check_notice_date(UUID(int=7), agreed, S.ACTIVE, date(2026, 11, 16))
        with pytest.raises(ContractNoticeOver) as error:
            rules.check_notice_date(UUID(int=7), agreed, S.ACTIVE, date(2026, 11, 28))
        assert error.value.metadata["notice_date"] == "2026-11-16"
        assert error.value.metadata["auto_renew"] == "true"
        assert "it renews automatically on 2027-01-15" in error.value.message
        assert "earliest_date" not in error.value.metadata

    @given(st.integers(0, 400), st.integers(0, 365))
    def test_earliest_date_of_a_refusal_is_accepted(self, days_left: int, notice_days: int) -> None:
        today = date(2026, 11, 28)
        end = today + timedelta(days_left)
        agreed = replace(terms("2025-01-15", str(end)), renewal_notice_days=notice_days, auto_renew=True)
        try:
            rules.check_notice_date(UUID(int=7), agreed, S.ACTIVE, today)
        except ContractNoticeOver:
            assert today + timedelta(notice_days) > end
            return
        earliest = rules.resolve_termination_date(
            TerminationRequest(effective_date=None, reason="", for_cause=False), agreed, today
        )
        assert list(rules.termination_violations(earliest, agreed, today)) == []
        rules.check_notice_period(UUID(int=7), earliest, today, notice_days)
        assert earliest == today + timedelta(notice_days)

    async def test_evergreen_contract_is_terminated_with_notice(
        self, contracts: ContractApi, acme: Entity, admin: Admin
    ) -> None:
        active = await contracts.create_active(acme, end_date="")
        assert await contract_timers(admin, active) == {}
        await contracts.terminate(active)
        await let_days_pass(admin, 30, active)
        assert (await wait_for_state(contracts, active, Contract.TERMINATED)).end_date == ""

    async def test_draft_is_withdrawn_at_once_without_an_event(
        self,
        contracts: ContractApi,
        acme: Entity,
        outbox_events: Callable[[str], Awaitable[list[OutboxEvent]]],
    ) -> None:
        draft = await contracts.create(acme)
        withdrawn = await contracts.terminate(draft, effective_date=day(100))
        assert (withdrawn.state, withdrawn.termination_date) == (Contract.TERMINATED, day())
        assert [event.type for event in await outbox_events("entities")] == ["billing.entities.v1.EntityCreated"]

    async def test_key_replays_the_response(
        self,
        contracts: ContractApi,
        acme: Entity,
        outbox_events: Callable[[str], Awaitable[list[OutboxEvent]]],
    ) -> None:
        active = await contracts.create_active(acme)
        first = await contracts.terminate(active, for_cause=True, request_id="key-1")
        assert await contracts.terminate(active, for_cause=True, request_id="key-1") == first
        types = [event.type for event in await outbox_events("entities")]
        assert types.count("billing.entities.v1.ContractTerminated") == 1


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
