"""Amendments: preview, changed terms and fees, rejected requests, lists and permissions."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import asyncpg
import pytest
from billing.entities.v1.amendment_pb2 import AmendedTerms, Amendment
from billing.entities.v1.contract_pb2 import Contract, SlaTerms
from billing.entities.v1.entity_pb2 import Entity
from billing.entities.v1.events_pb2 import ContractAmended
from grpc import StatusCode

from kit import ids
from services.entities.domain.amendments import AmendmentState
from tests.entities.amendment_api import AmendmentApi, create_in_state, days_after
from tests.entities.contract_api import ContractApi, day, money, phase, value_of_phases
from tests.entities.entities_api import EntitiesApi
from tests.harness.callers import Caller, refusal
from tests.harness.observe import AuditRow, PublishedEvents

Admin: TypeAlias = "asyncpg.Pool[asyncpg.Record]"
UNKNOWN_AMENDMENT = "amd_" + "0" * 32
UNKNOWN_CONTRACT = "con_" + "0" * 32
FEE = money("1")


@pytest.fixture
async def contract(contracts: ContractApi, acme: Entity) -> Contract:
    """An active contract for 365 days since the day before yesterday: 1,200 EUR, 10 gold seats."""
    return await contracts.create_active(acme, seats=10, license_tier="gold")


class TestPreview:
    async def test_preview_has_the_fees_of_each_period_and_the_prorated_difference(
        self, contracts: ContractApi, amendments: AmendmentApi, acme: Entity
    ) -> None:
        contract = await contracts.create_active(
            acme, start_date="2090-10-01", end_date="2091-04-01", total_value=money("1860"),
            phases=[phase("2090-10-01", "310")],
        )  # fmt: skip
        preview = await amendments.preview(contract, Amendment.PRICE, effective_date="2091-01-11", fee=money("403"))
        assert [(fee.number, fee.start_date, fee.old_fee.amount, fee.new_fee.amount, fee.difference.amount)
                for fee in preview.effect.fees] == [
            (4, "2091-01-01", "310.00", "373.00", "63.00"),
            (5, "2091-02-01", "310.00", "403.00", "93.00"),
            (6, "2091-03-01", "310.00", "403.00", "93.00"),
        ]  # fmt: skip
        effect = preview.effect
        assert (effect.period_start_date, effect.period_end_date) == ("2091-01-01", "2091-02-01")
        assert (effect.old_part.amount, effect.new_part.amount, effect.difference.amount) == (
            "210.00",
            "273.00",
            "63.00",
        )
        assert (effect.old_total_value.amount, effect.new_total_value.amount) == ("1860.00", "2109.00")

    async def test_preview_stores_nothing(
        self, contracts: ContractApi, amendments: AmendmentApi, contract: Contract
    ) -> None:
        preview = await amendments.preview(contract, Amendment.SEATS, seats=20, request_id="key-1")
        assert (preview.id, preview.etag, preview.state) == ("", "", Amendment.DRAFT)
        assert not (await amendments.list_page(contract)).amendments
        assert await contracts.get(contract) == contract
        assert (await amendments.create(contract, request_id="key-1")).number == 1

    async def test_amendment_has_the_effect_of_its_preview(
        self, contracts: ContractApi, amendments: AmendmentApi, contract: Contract
    ) -> None:
        terms = {"fee": money("150"), "phases": [phase(day(90), "175")], "seats": 12}
        preview = await amendments.preview(contract, Amendment.PRICE, effective_date=day(-1), **terms)
        created = await amendments.create_approved(contract, Amendment.PRICE, effective_date=day(-1), **terms)
        applied = await amendments.wait_until_finished(created)
        assert applied.state == Amendment.APPLIED
        assert (applied.before, applied.after, applied.effect) == (preview.before, preview.after, preview.effect)
        current = await contracts.get(contract)
        assert current.total_value == preview.effect.new_total_value
        assert list(current.phases) == [
            phase(contract.start_date, "100.00"), phase(day(-1), "150.00"), phase(day(90), "175.00")
        ]  # fmt: skip

    async def test_preview_of_an_evergreen_contract_covers_a_year(
        self, contracts: ContractApi, amendments: AmendmentApi, acme: Entity
    ) -> None:
        evergreen = await contracts.create_active(acme, start_date="2026-01-31", end_date="")
        preview = await amendments.preview(evergreen, Amendment.PRICE, effective_date="2026-12-31", fee=money("200"))
        assert [fee.start_date for fee in preview.effect.fees][:3] == ["2026-12-31", "2027-01-31", "2027-02-28"]
        assert len(preview.effect.fees) == 12
        assert preview.effect.new_total_value == money("2400.00")

    async def test_one_time_fee_is_not_prorated(
        self, contracts: ContractApi, amendments: AmendmentApi, acme: Entity
    ) -> None:
        once = await contracts.create_active(acme, billing_frequency=Contract.ONE_TIME, end_date="")
        effect = (await amendments.preview(once, Amendment.PRICE, fee=money("1500"))).effect
        assert (effect.old_part.amount, effect.new_part.amount, effect.difference.amount) == (
            "1200.00", "1500.00", "300.00"
        )  # fmt: skip
        assert [fee.end_date for fee in effect.fees] == [""]
        assert (effect.period_end_date, effect.new_total_value) == ("", money("1500.00"))

    async def test_preview_covers_at_most_sixty_periods(
        self, contracts: ContractApi, amendments: AmendmentApi, acme: Entity
    ) -> None:
        long = await contracts.create_active(acme, start_date="2090-01-01", end_date="2100-01-01")
        preview = await amendments.preview(long, Amendment.PRICE, effective_date="2090-03-01", fee=money("20"))
        assert len(preview.effect.fees) == 60


class TestChangedTerms:
    async def test_only_the_given_terms_change(
        self, contracts: ContractApi, amendments: AmendmentApi, contract: Contract, published_events: PublishedEvents
    ) -> None:
        end = days_after(contract.end_date, 100)
        terms: dict[str, Any] = {
            "fee": money("110.00"), "end_date": end, "seats": 30, "license_tier": "platinum",
            "minimum_commitment": money("500.00"), "payment_terms_days": 0, "purchase_order_number": "PO-7",
            "purchase_order_limit": money("9000.00"), "auto_renew": True, "renewal_term_months": 24,
            "renewal_notice_days": 60, "renewal_uplift_bp": 250, "sla_terms": SlaTerms(uptime_bp=9990),
        }  # fmt: skip
        created = await amendments.create(contract, Amendment.SCOPE, **terms)
        assert created.after == AmendedTerms(**terms)
        assert created.before == AmendedTerms(
            fee=money("100.00"), end_date=contract.end_date, seats=10, license_tier="gold", payment_terms_days=30,
            purchase_order_number="", auto_renew=False, renewal_term_months=12, renewal_notice_days=30,
            renewal_uplift_bp=0,
        )  # fmt: skip
        await amendments.approve(created)
        applied = await amendments.wait_until_finished(created)
        current = await contracts.get(contract)
        for name, value in terms.items():
            if name != "fee":
                assert getattr(current, name) == value, name
        unchanged = ("contract_number", "name", "contract_type", "start_date", "billing_frequency", "state")
        assert all(getattr(current, name) == getattr(contract, name) for name in unchanged)
        assert current.license_state == Contract.REQUESTED
        assert current.etag != contract.etag
        (event,) = await published_events.at_least(1, ContractAmended)
        assert event == ContractAmended(
            contract_id=contract.id, entity_id=contract.entity_id, contract_number=contract.contract_number,
            amendment_id=created.id, number=1, amendment_type="SCOPE", effective_date=day(), changed=sorted(terms),
            license_tier="platinum", seats=30, fee=money("110.00"), prorated_difference=applied.effect.difference,
            end_date=end, total_value=current.total_value,
        )  # fmt: skip

    async def test_new_end_date_leaves_the_fees_unchanged(
        self, contracts: ContractApi, amendments: AmendmentApi, acme: Entity
    ) -> None:
        start = day(-2)
        terms = {"start_date": start, "end_date": days_after(start, 70), "phases": [phase(start, "100")]}
        contract = await contracts.create_active(acme, **terms, total_value=value_of_phases(**terms))
        created = await amendments.create_approved(contract, Amendment.TERM, end_date="")
        await amendments.wait_until_finished(created)
        current = await contracts.get(contract)
        assert (current.end_date, list(current.phases)) == ("", [phase(start, "100.00")])
        assert current.total_value == money("1200.00")  # of an evergreen contract, a year of it

    async def test_shorter_term_reduces_the_value_and_drops_later_phases(
        self, contracts: ContractApi, amendments: AmendmentApi, acme: Entity
    ) -> None:
        contract = await contracts.create_active(
            acme, start_date="2090-11-01", end_date="2091-05-01", total_value=money("800"),
            phases=[phase("2090-11-01", "100"), phase("2091-03-01", "200")],
        )  # fmt: skip
        preview = await amendments.preview(contract, Amendment.TERM, effective_date="2091-01-01", end_date="2091-02-15")
        assert [
            (fee.start_date, fee.end_date, fee.old_fee.amount, fee.new_fee.amount) for fee in preview.effect.fees
        ] == [
            ("2091-01-01", "2091-02-01", "100.00", "100.00"),
            ("2091-02-01", "2091-03-01", "100.00", "50.00"),
            ("2091-03-01", "2091-04-01", "200.00", "0.00"),
            ("2091-04-01", "2091-05-01", "200.00", "0.00"),
        ]
        assert preview.effect.new_total_value == money("350.00")

    async def test_new_fee_replaces_later_phases(
        self, contracts: ContractApi, amendments: AmendmentApi, acme: Entity
    ) -> None:
        ramp = [phase(day(-2), "100.00"), phase(day(100), "200.00"), phase(day(200), "300.00")]
        contract = await contracts.create_active(acme, phases=ramp, total_value=value_of_phases(phases=ramp))
        created = await amendments.create_approved(contract, Amendment.PRICE, effective_date=day(), fee=money("120"))
        assert list(created.before.phases) == ramp[1:]
        await amendments.wait_until_finished(created)
        assert list((await contracts.get(contract)).phases) == [ramp[0], phase(day(), "120.00")]

    async def test_audit_log_records_each_actor(
        self, amendments: AmendmentApi, contract: Contract, audit_rows: Callable[..., Awaitable[list[AuditRow]]]
    ) -> None:
        created = await amendments.create_approved(contract)
        await amendments.wait_until_finished(created)
        rows = [row for row in await audit_rows("entities") if row.table == "contract_amendments"]
        assert [(row.action, row.actor) for row in rows] == [
            ("insert", "alice"), ("update", "alice"), ("update", "service:entities")
        ]  # fmt: skip


class TestRejectedRequests:
    @pytest.mark.parametrize(
        ("kind", "changes", "fields"),
        [
            (Amendment.PRICE, {"seats": 20}, {"after.fee"}),
            (Amendment.TERM, {"seats": 20}, {"after.end_date"}),
            (Amendment.SEATS, {"license_tier": "silver"}, {"after.seats"}),
            (Amendment.SCOPE, {"seats": 20}, {"after.license_tier"}),
            (Amendment.OTHER, {"after": AmendedTerms()}, {"after"}),
            (Amendment.SEATS, {"seats": 10}, {"after"}),
            (Amendment.SEATS, {"seats": 10, "license_tier": "gold"}, {"after"}),
            (Amendment.PRICE, {"fee": money("-1")}, {"after.fee.amount"}),
            (Amendment.PRICE, {"fee": money("10", "USD")}, {"after.fee.currency_code"}),
            (Amendment.PRICE, {"fee": money("1.001")}, {"after.fee.amount"}),
            (Amendment.PRICE, {"fee": money("9999999999999")}, {"after.fee.amount"}),
            (Amendment.OTHER, {"phases": [phase(day(5), "1")]}, {"after.phases"}),
            (Amendment.PRICE, {"fee": FEE, "phases": [phase(day(5), "1", "USD")]}, {"after.phases[0].fee.currency_code"}),  # noqa: E501
            (Amendment.PRICE, {"fee": FEE, "phases": [phase(day(5), "-1")]}, {"after.phases[0].fee.amount"}),
            (Amendment.PRICE, {"fee": FEE, "phases": [phase(day(), "2")]}, {"after.phases"}),
            (Amendment.PRICE, {"fee": FEE, "phases": [phase(day(9), "2"), phase(day(5), "2")]}, {"after.phases"}),
            (Amendment.PRICE, {"fee": FEE, "phases": [phase(day(5000), "2")]}, {"after.phases"}),
            (Amendment.OTHER, {"minimum_commitment": money("5", "USD")}, {"after.minimum_commitment.currency_code"}),
            (Amendment.OTHER, {"purchase_order_limit": money("5")}, {"after.purchase_order_number"}),
            (Amendment.TERM, {"end_date": "", "auto_renew": True}, {"after.auto_renew"}),
            (Amendment.TERM, {"end_date": day(10)}, {"after.renewal_notice_days"}),
        ],
    )  # fmt: skip
    async def test_inconsistent_changes_are_rejected(
        self,
        amendments: AmendmentApi,
        contract: Contract,
        kind: Amendment.Type.ValueType,
        changes: dict[str, object],
        fields: set[str],
    ) -> None:
        error = await refusal(amendments.create(contract, kind, **changes))
        assert (error.code, set(error.fields)) == (StatusCode.INVALID_ARGUMENT, fields)
        assert await refusal(amendments.preview(contract, kind, **changes)) == error

    async def test_phases_are_rejected_for_a_one_time_fee(
        self, contracts: ContractApi, amendments: AmendmentApi, acme: Entity
    ) -> None:
        once = await contracts.create_active(acme, billing_frequency=Contract.ONE_TIME)
        later_phase = [phase(day(5), "1")]
        error = await refusal(amendments.create(once, Amendment.PRICE, fee=money("1"), phases=later_phase))
        assert set(error.fields) == {"after.phases"}

    async def test_effective_date_outside_the_term_is_rejected(
        self, contracts: ContractApi, amendments: AmendmentApi, contract: Contract
    ) -> None:
        for effective in (day(-3), contract.end_date):
            error = await refusal(amendments.create(contract, effective_date=effective))
            assert (error.code, error.reason) == (StatusCode.FAILED_PRECONDITION, "AMENDMENT_OUTSIDE_TERM")
            assert error.metadata == {
                "contract_id": contract.id, "effective_date": effective, "start_date": contract.start_date,
                "end_date": contract.end_date,
            }  # fmt: skip
        error = await refusal(
            amendments.create(contract, Amendment.TERM, effective_date=day(50), end_date=day(50), renewal_notice_days=0)
        )
        assert error.reason == "AMENDMENT_OUTSIDE_TERM"
        await contracts.terminate(contract, for_cause=True, effective_date=day(20))
        assert (await refusal(amendments.create(contract, effective_date=day(20)))).metadata["end_date"] == day(20)
        assert (await amendments.create(contract, effective_date=day(19))).number == 1

    async def test_terminated_contract_is_not_extended(
        self, contracts: ContractApi, amendments: AmendmentApi, contract: Contract
    ) -> None:
        longer = days_after(contract.end_date, 30)
        planned = await amendments.create(contract, Amendment.TERM, end_date=longer)
        terminated = await contracts.terminate(contract, effective_date=day(100))
        for call in (
            amendments.create(contract, Amendment.TERM, end_date=longer),
            amendments.create(contract, Amendment.TERM, end_date=day(101)),
            amendments.approve(planned),
        ):
            error = await refusal(call)
            assert (error.code, error.reason) == (StatusCode.FAILED_PRECONDITION, "CONTRACT_IS_TERMINATED")
            assert error.metadata == {"contract_id": contract.id, "termination_date": day(100)}
        assert await contracts.get(contract) == terminated
        assert (await amendments.create(contract, Amendment.TERM, end_date=day(90))).number == 2

    async def test_new_end_date_is_rejected_if_a_successor_exists(
        self, contracts: ContractApi, amendments: AmendmentApi, contract: Contract
    ) -> None:
        end = days_after(contract.end_date, 30)
        planned = await amendments.create(contract, Amendment.TERM, end_date=end)
        successor = await contracts.renew(contract)
        for call in (amendments.create(contract, Amendment.TERM, end_date=end), amendments.approve(planned)):
            error = await refusal(call)
            assert (error.reason, error.metadata["renewed_to_id"]) == ("CONTRACT_ALREADY_RENEWED", successor.id)
        assert (await amendments.create(contract)).number == 2
        await contracts.terminate(successor)
        assert (await amendments.create(contract, Amendment.TERM, end_date=end)).number == 3

    async def test_unknown_amendment_or_contract_is_not_found(
        self, contracts: ContractApi, amendments: AmendmentApi, acme: Entity, contract: Contract
    ) -> None:
        elsewhere = await amendments.create(await contracts.create_active(acme))
        unknown = Amendment(id=UNKNOWN_AMENDMENT, contract_id=contract.id)
        of_other = Amendment(id=elsewhere.id, contract_id=contract.id)
        for amendment in (unknown, of_other):
            for call in (amendments.get, amendments.approve, amendments.reject, amendments.apply):
                error = await refusal(call(amendment))
                assert (error.reason, error.metadata) == ("AMENDMENT_NOT_FOUND", {"amendment_id": amendment.id})
        of_unknown_contract = Amendment(id=elsewhere.id, contract_id=UNKNOWN_CONTRACT)
        for call in (amendments.get, amendments.approve, amendments.reject, amendments.apply):
            assert (await refusal(call(of_unknown_contract))).reason == "CONTRACT_NOT_FOUND"
        assert (await refusal(amendments.list_page(UNKNOWN_CONTRACT))).reason == "CONTRACT_NOT_FOUND"
        assert (await refusal(amendments.create(UNKNOWN_CONTRACT))).reason == "CONTRACT_NOT_FOUND"


class TestKeysAndEtags:
    async def test_key_replays_the_response_and_rejects_another_request(
        self, contracts: ContractApi, amendments: AmendmentApi, contract: Contract
    ) -> None:
        created = await amendments.create(contract, request_id="key-1")
        assert await amendments.create(contract, request_id="key-1") == created
        other = await refusal(amendments.create(contract, request_id="key-1", seats=21))
        assert other.reason == "IDEMPOTENCY_MISMATCH"
        approved = await amendments.approve(created, request_id="key-2")
        await amendments.wait_until_finished(created)
        assert await amendments.approve(created, request_id="key-2") == approved
        assert (await amendments.list_page(contract)).amendments[0].id == created.id
        rejected = await amendments.create(contract, seats=99)
        first = await amendments.reject(rejected, request_id="key-3")
        assert await amendments.reject(rejected, request_id="key-3") == first
        assert (await contracts.get(contract)).seats == 20

    async def test_amendment_is_applied_once_per_key(
        self, contracts: ContractApi, amendments: AmendmentApi, contract: Contract, admin: Admin
    ) -> None:
        waiting = await create_in_state(amendments, contract, admin, AmendmentState.APPROVED, seats=14)
        first = await amendments.apply(waiting, request_id="key-1")
        assert await amendments.apply(waiting, request_id="key-1") == first
        assert (await contracts.get(contract)).seats == 14

    async def test_stale_etag_is_rejected(self, amendments: AmendmentApi, contract: Contract) -> None:
        error = await refusal(amendments.create(contract, etag="1"))
        assert (error.code, error.reason) == (StatusCode.ABORTED, "ETAG_MISMATCH")
        created = await amendments.create(contract, etag=contract.etag)
        for call in (amendments.approve, amendments.reject, amendments.apply):
            assert (await refusal(call(created, etag="7"))).reason == "ETAG_MISMATCH"
        assert (await amendments.approve(created, etag=created.etag)).etag != created.etag


class TestList:
    async def test_pages_are_stable_while_amendments_are_created(
        self, amendments: AmendmentApi, contract: Contract
    ) -> None:
        created = [(await amendments.create(contract, seats=20 + number)).id for number in range(5)]
        seen: list[str] = []
        token = ""
        while True:
            page = await amendments.list_page(contract, page_size=2, page_token=token)
            seen += [amendment.id for amendment in page.amendments]
            token = page.next_page_token
            if not token:
                break
            if len(seen) == 2:
                created.append((await amendments.create(contract, seats=50)).id)
        assert seen == created

    async def test_filters(self, contracts: ContractApi, amendments: AmendmentApi, contract: Contract) -> None:
        seats = await amendments.create(contract)
        price = await amendments.reject(await amendments.create(contract, Amendment.PRICE, fee=money("1")))
        await amendments.create(await contracts.create_active(contract.entity_id), seats=7)

        async def list_ids(**filters: object) -> list[str]:
            return [amendment.id for amendment in (await amendments.list_page(contract, **filters)).amendments]

        assert await list_ids() == [seats.id, price.id]
        assert await list_ids(state=Amendment.REJECTED) == [price.id]
        assert await list_ids(amendment_type=Amendment.SEATS) == [seats.id]
        assert await list_ids(amendment_type=Amendment.SEATS, state=Amendment.REJECTED) == []

    async def test_list_omits_the_fees_of_periods(self, amendments: AmendmentApi, contract: Contract) -> None:
        created = await amendments.create(contract)
        (list_ids,) = (await amendments.list_page(contract)).amendments
        assert len(created.effect.fees) == 12
        assert not list_ids.effect.fees
        created.effect.ClearField("fees")
        assert list_ids == created


class TestAccess:
    async def test_callers_without_access_see_no_amendment(
        self, amendments: AmendmentApi, contract: Contract, api: EntitiesApi, api_for: Callable[[Caller], EntitiesApi],
        caller: Callable[..., Caller],
    ) -> None:  # fmt: skip
        created = await amendments.create(contract)
        elsewhere = await api.create_entity("OTHER")
        other_tenant = caller("finance", tenant=ids.new())
        confined = caller("billing_admin", entity_scope=[elsewhere.id])
        for who in (other_tenant, confined):
            others = AmendmentApi(api_for(who))
            for call in (
                others.get(created), others.approve(created), others.reject(created), others.apply(created),
                others.list_page(contract),
                others.create(contract), others.preview(contract, Amendment.SEATS),
            ):  # fmt: skip
                error = await refusal(call)
                assert (error.code, error.reason) == (StatusCode.NOT_FOUND, "CONTRACT_NOT_FOUND")
        covered = AmendmentApi(api_for(caller("billing_admin", entity_scope=[contract.entity_id])))
        assert (await covered.approve(await covered.get(created))).state == Amendment.APPROVED

    async def test_approval_requires_the_permission_to_sign(
        self, amendments: AmendmentApi, contract: Contract, api_for: Callable[[Caller], EntitiesApi],
        caller: Callable[..., Caller],
    ) -> None:  # fmt: skip
        created = await amendments.create(contract)
        viewer = AmendmentApi(api_for(caller("viewer")))
        assert (await viewer.get(created)).id == created.id
        assert (await refusal(viewer.approve(created))).metadata == {"permission": "contracts.sign"}
        for call in (viewer.reject(created), viewer.apply(created), viewer.create(contract)):
            assert (await refusal(call)).metadata == {"permission": "contracts.write"}
