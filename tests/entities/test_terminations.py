"""Terminations of contracts: notice, effective date and withdrawal."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import date, timedelta
from typing import TypeAlias
from uuid import UUID

import asyncpg
import pytest
from billing.entities.v1.contract_pb2 import Contract
from billing.entities.v1.entity_pb2 import Entity
from billing.entities.v1.events_pb2 import ContractTerminated
from grpc import StatusCode
from hypothesis import given
from hypothesis import strategies as st

from services.entities.domain import contracts as rules
from services.entities.domain.contracts import ContractState, TerminationRequest
from services.entities.errors.contracts import ContractNoticeOver, ContractNotTerminated
from tests.entities.contract_api import ContractApi, contract_timers, day, let_days_pass
from tests.entities.test_contract_states import wait_for_state
from tests.entities.test_fees import terms
from tests.harness.callers import refusal
from tests.harness.observe import OutboxEvent, PublishedEvents

S = ContractState
Admin: TypeAlias = "asyncpg.Pool[asyncpg.Record]"
OutboxEvents: TypeAlias = Callable[[str], Awaitable[list[OutboxEvent]]]


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

    def test_refusal_after_the_notice_date_states_when_the_contract_renews(self) -> None:
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

    async def test_withdrawn_termination_restores_end_and_renewal(
        self, contracts: ContractApi, acme: Entity, admin: Admin
    ) -> None:
        active = await contracts.create_active(acme, auto_renew=True)
        timers = await contract_timers(admin, active)
        terminated = await contracts.terminate(active, effective_date=active.end_date)
        assert (active.renews_automatically, terminated.renews_automatically) == (True, False)
        assert terminated.auto_renew
        assert not (await contracts.check_renewal(active)).auto_renew
        withdrawn = await contracts.withdraw_termination(terminated, etag=terminated.etag)
        assert (withdrawn.state, withdrawn.termination_date, withdrawn.termination_reason) == (Contract.ACTIVE, "", "")
        assert withdrawn.renews_automatically
        assert (await contracts.check_renewal(active)).auto_renew
        assert await contract_timers(admin, active) == timers
        await let_days_pass(admin, 363, active)
        renewed = await wait_for_state(contracts, active, Contract.RENEWED)
        assert renewed.renewed_to_id

    async def test_withdrawal_needs_a_termination_that_has_not_taken_effect(
        self, contracts: ContractApi, acme: Entity, admin: Admin
    ) -> None:
        active = await contracts.create_active(acme)
        error = await refusal(contracts.withdraw_termination(active))
        assert (error.code, error.reason) == (StatusCode.FAILED_PRECONDITION, "CONTRACT_NOT_TERMINATED")
        await contracts.suspend(active)
        await contracts.terminate(active)
        assert (await refusal(contracts.withdraw_termination(active, etag="1"))).reason == "ETAG_MISMATCH"
        assert (await contracts.withdraw_termination(active)).state == Contract.SUSPENDED
        await contracts.terminate(active, for_cause=True)
        for ended in (active, await contracts.create(acme)):
            assert (await refusal(contracts.withdraw_termination(ended))).reason == "CONTRACT_STATE"
        with pytest.raises(ContractNotTerminated, match="took effect on 2026-11-28"):
            rules.check_withdrawal(UUID(int=7), date(2026, 11, 28), date(2026, 11, 28))

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
