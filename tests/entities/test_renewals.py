"""Renewals: terms of the successor, recommendation, renewal check and contract totals."""

from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any, TypeAlias
from uuid import UUID

import asyncpg
import pytest
from billing.entities.v1.contract_pb2 import Contract
from billing.entities.v1.entity_pb2 import Entity
from billing.entities.v1.renewal_pb2 import ContractSummary, RenewalCheck, RenewalReason
from grpc import StatusCode
from hypothesis import given
from hypothesis import strategies as st

from kit import ids
from kit.dates import months_later
from kit.money import Money
from services.entities import domain
from services.entities.domain.contracts import (
    BillingFrequency,
    ContractState,
    ContractTerms,
    ContractType,
    LicenseState,
    Phase,
)
from services.entities.domain.renewals import ReasonKind, Recommendation, RenewalFacts, RenewalRequest
from tests.entities.contract_api import ContractApi, day, money, phase
from tests.entities.entities_api import EntitiesApi
from tests.harness.callers import Caller, refusal

Admin: TypeAlias = "asyncpg.Pool[asyncpg.Record]"
R, K = Recommendation, ReasonKind
ID = ids.new()


def eur(amount: str) -> Money:
    return Money(Decimal(amount), "EUR")


def terms(start: str = "2026-01-01", end: str | None = "2027-01-01", **changed: Any) -> ContractTerms:
    """Terms of a year for 1,200 EUR."""
    base = ContractTerms(
        contract_number="C-1", name="Cloud", contract_type=ContractType.SERVICES, start_date=date.fromisoformat(start),
        end_date=date.fromisoformat(end) if end else None, total_value=eur("1200"),
        billing_frequency=BillingFrequency.MONTHLY, phases=(), minimum_commitment=None, license_tier="", seats=0,
        payment_terms_days=30, purchase_order_number="", purchase_order_limit=None, auto_renew=False,
        renewal_term_months=12, renewal_notice_days=30, renewal_uplift_bp=0, sla_terms=None,
    )  # fmt: skip
    return replace(base, **changed)


class TestRenewalTerms:
    def test_successor_starts_at_the_end_date_with_uplifted_value(self) -> None:
        renewed = domain.renewals.renewal_terms(terms(renewal_uplift_bp=350))
        assert (renewed.start_date, renewed.end_date) == (date(2027, 1, 1), date(2028, 1, 1))
        assert (renewed.total_value, renewed.contract_number) == (eur("1242.00"), "")
        assert renewed == replace(
            terms(renewal_uplift_bp=350), contract_number="", start_date=renewed.start_date, end_date=renewed.end_date,
            total_value=renewed.total_value,
        )  # fmt: skip

    @pytest.mark.parametrize(
        ("months", "value", "commitment"), [(24, "2400", "600"), (6, "600", "150"), (1, "100", "25")]
    )
    def test_amounts_are_scaled_to_the_length_of_the_term(self, months: int, value: str, commitment: str) -> None:
        agreed = terms(renewal_term_months=months, minimum_commitment=eur("300"))
        renewed = domain.renewals.renewal_terms(agreed)
        assert (renewed.total_value, renewed.minimum_commitment) == (eur(value), eur(commitment))

    def test_last_phase_continues(self) -> None:
        phases = (Phase(date(2026, 1, 1), eur("50")), Phase(date(2026, 7, 1), eur("100")))
        renewed = domain.renewals.renewal_terms(terms(phases=phases, renewal_uplift_bp=1000))
        assert renewed.phases == (Phase(date(2027, 1, 1), eur("110.00")),)
        assert renewed.total_value == eur("1320.00")

    def test_request_may_set_number_end_date_and_uplift(self) -> None:
        renewed = domain.renewals.renewal_terms(
            terms(), RenewalRequest(contract_number="N", end_date=date(2027, 7, 1), uplift_bp=5000)
        )
        assert (renewed.contract_number, renewed.end_date, renewed.total_value) == ("N", date(2027, 7, 1), eur("900"))

    def test_last_day_of_a_month_stays_the_last_day(self) -> None:
        renewed = domain.renewals.renewal_terms(terms("2026-02-28", "2027-01-31", renewal_term_months=1))
        assert renewed.end_date == date(2027, 2, 28)

    def test_evergreen_contract_has_no_renewal_terms(self) -> None:
        with pytest.raises(ValueError, match="no end"):
            domain.renewals.renewal_terms(terms(end=None))

    @given(
        st.dates(date(2000, 1, 1), date(2100, 1, 1)), st.integers(1, 3000), st.integers(1, 120), st.integers(0, 10_000),
        st.decimals(0, 10**9, places=2),
    )  # fmt: skip
    def test_consistent_terms_stay_consistent(
        self, start: date, days: int, months: int, uplift_bp: int, value: Decimal
    ) -> None:
        agreed = replace(
            terms(), start_date=start, end_date=start + timedelta(days=days), renewal_term_months=months,
            renewal_uplift_bp=uplift_bp, total_value=Money(value, "EUR"), auto_renew=True,
            renewal_notice_days=min(28, days),
        )  # fmt: skip
        assert domain.contracts.violations(agreed) == []
        renewed = domain.renewals.renewal_terms(agreed)
        assert domain.contracts.violations(renewed) == []
        assert renewed.start_date == agreed.end_date
        assert renewed.end_date
        assert agreed.end_date
        ratio = domain.renewals.months_between(renewed.start_date, renewed.end_date) / domain.renewals.months_between(
            start, agreed.end_date
        )
        exact = Fraction(value) * ratio * (10_000 + uplift_bp) / 10_000
        assert abs(Fraction(renewed.total_value.amount) - exact) <= Fraction(2, 100)

    @given(st.dates(date(2000, 1, 1), date(2100, 1, 1)), st.integers(0, 200), st.integers(0, 27))
    def test_months_between_dates_are_exact(self, start: date, months: int, days: int) -> None:
        end = months_later(start, months)
        assert domain.renewals.months_between(start, end) == months
        assert months <= domain.renewals.months_between(start, end + timedelta(days=days)) < months + 1


def facts(today: str = "2026-12-01", **changed: Any) -> RenewalFacts:
    defaults = {
        "contract_id": ID, "terms": terms(), "state": ContractState.ACTIVE, "license_state": LicenseState.NONE,
        "successor_id": None, "termination_date": None, "used": None,
    }  # fmt: skip
    return RenewalFacts(**{**defaults, **changed}, today=date.fromisoformat(today))


COMMITTED = terms(minimum_commitment=eur("1000"))
AUTO = terms(auto_renew=True)


class TestPriceReasons:
    def test_dearer_renewal_and_exceeded_purchase_order_are_reasons(self) -> None:
        ramp = (Phase(date(2026, 1, 1), eur("1000")), Phase(date(2026, 7, 1), eur("3000")))
        ramped = terms(
            phases=ramp, total_value=eur("24000"), purchase_order_number="PO-1", purchase_order_limit=eur("30000")
        )
        assessment = domain.renewals.assess(facts(terms=ramped))
        assert assessment.recommendation is R.RENEGOTIATE
        dearer, exceeded = assessment.reasons
        assert (dearer.kind, exceeded.kind) == (K.FEE_RISES, K.PURCHASE_ORDER_EXCEEDED)
        assert dearer.text == (
            "The renewal costs 50 % more than the current term for the same time: 36000.00 EUR instead of 24000.00 EUR."
        )
        assert exceeded.text == (
            "The fees of the renewal, 36000.00 EUR, exceed the limit of the purchase order PO-1, 30000.00 EUR."
        )

    def test_exceeded_purchase_order_of_the_current_term_is_a_reason(self) -> None:
        ordered = terms(purchase_order_number="PO-1", purchase_order_limit=eur("1199.99"))
        (reason,) = domain.renewals.assess(facts(terms=ordered)).reasons
        assert (reason.kind, reason.recommendation) == (K.PURCHASE_ORDER_EXCEEDED, R.RENEGOTIATE)
        assert reason.text.startswith("The fees of the current term, 1200.00 EUR, exceed")

    def test_longer_renewal_at_the_same_fee_is_no_reason(self) -> None:
        level = terms(phases=(Phase(date(2026, 1, 1), eur("100")),), renewal_term_months=36)
        assert [reason.kind for reason in domain.renewals.assess(facts(terms=level)).reasons] == [K.AS_AGREED]


class TestRecommendation:
    @pytest.mark.parametrize(
        ("changed", "recommended", "expected_reasons"),
        [
            ({}, R.RENEW, [K.AS_AGREED]),
            ({"state": ContractState.DRAFT}, R.NONE, [K.NOT_IN_FORCE]),
            ({"state": ContractState.EXPIRED}, R.NONE, [K.NOT_IN_FORCE]),
            ({"terms": terms(end=None)}, R.NONE, [K.EVERGREEN]),
            ({"successor_id": ID}, R.NONE, [K.RENEWED]),
            ({"termination_date": date(2026, 12, 24)}, R.NONE, [K.TERMINATED]),
            ({"today": "2026-09-02"}, R.NONE, [K.NOT_YET]),
            ({"today": "2026-09-03"}, R.RENEW, [K.AS_AGREED]),
            ({"terms": terms(renewal_uplift_bp=999)}, R.RENEW, [K.AS_AGREED]),
            ({"terms": terms(renewal_uplift_bp=1000)}, R.RENEGOTIATE, [K.UPLIFT_HIGH]),
            ({"state": ContractState.SUSPENDED}, R.RENEGOTIATE, [K.SUSPENDED]),
            ({"license_state": LicenseState.FAILED}, R.RENEGOTIATE, [K.LICENSE_FAILED]),
            ({"terms": COMMITTED}, R.RENEW, [K.USAGE_UNKNOWN]),
            ({"terms": COMMITTED, "used": eur("0")}, R.TERMINATE, [K.COMMITMENT_UNUSED]),
            ({"terms": COMMITTED, "used": eur("457")}, R.TERMINATE, [K.COMMITMENT_UNUSED]),
            ({"terms": COMMITTED, "used": eur("458")}, R.RENEGOTIATE, [K.COMMITMENT_UNDERUSED]),
            ({"terms": COMMITTED, "used": eur("732")}, R.RENEGOTIATE, [K.COMMITMENT_UNDERUSED]),
            ({"terms": COMMITTED, "used": eur("733")}, R.RENEW, [K.COMMITMENT_FITS]),
            ({"terms": COMMITTED, "used": eur("1098")}, R.RENEW, [K.COMMITMENT_FITS]),
            ({"terms": COMMITTED, "used": eur("1099")}, R.RENEGOTIATE, [K.COMMITMENT_EXCEEDED]),
            (
                {"terms": replace(COMMITTED, renewal_uplift_bp=2000), "used": eur("100")},
                R.TERMINATE, [K.COMMITMENT_UNUSED, K.UPLIFT_HIGH],
            ),
            (
                {"terms": replace(COMMITTED, renewal_uplift_bp=2000), "used": eur("1000")},
                R.RENEGOTIATE, [K.UPLIFT_HIGH, K.COMMITMENT_FITS],
            ),
            ({"terms": AUTO, "today": "2026-12-02"}, R.RENEW, [K.AS_AGREED]),
            ({"terms": AUTO, "today": "2026-12-03"}, R.RENEW, [K.AS_AGREED, K.NOTICE_OVER]),
            ({"terms": AUTO, "state": ContractState.SUSPENDED, "today": "2026-12-03"}, R.RENEGOTIATE, [K.SUSPENDED]),
            (
                {"terms": replace(COMMITTED, auto_renew=True), "used": eur("1"), "today": "2026-12-03"},
                R.RENEGOTIATE, [K.COMMITMENT_UNUSED, K.NOTICE_OVER],
            ),
        ],
    )  # fmt: skip
    def test_recommendation_and_reasons(
        self, changed: dict[str, Any], recommended: Recommendation, expected_reasons: list[ReasonKind]
    ) -> None:
        assessment = domain.renewals.assess(facts(**changed))
        assert (assessment.recommendation, [reason.kind for reason in assessment.reasons]) == (
            recommended,
            expected_reasons,
        )
        assert all(reason.text.endswith(".") for reason in assessment.reasons)

    def test_utilisation_before_the_start_date_is_zero(self) -> None:
        early = facts("2025-12-31", terms=COMMITTED, used=eur("5"))
        assert early.expected_utilisation_bp == 0

    def test_basis_points_are_formatted_as_percentage(self) -> None:
        assert [domain.renewals.percent_text(bp) for bp in (0, 5, 50, 1250, 1000, 10_000)] == [
            "0 %", "0.05 %", "0.5 %", "12.5 %", "10 %", "100 %",
        ]  # fmt: skip


class TestRenewContract:
    async def test_successor_is_a_draft_that_starts_at_the_end_date(self, contracts: ContractApi, acme: Entity) -> None:
        active = await contracts.create_active(
            acme, start_date="2026-01-01", end_date="2199-01-01", renewal_uplift_bp=300, renewal_term_months=6,
            phases=[phase("2026-01-01", "100")],
            total_value=money("207600"),
        )  # fmt: skip
        draft = await contracts.renew(active)
        assert (draft.state, draft.renewed_from_id, list(draft.signatures)) == (Contract.DRAFT, active.id, [])
        assert (draft.start_date, draft.end_date) == ("2199-01-01", "2199-07-01")
        assert (draft.total_value, draft.phases[0].fee) == (money("618.00"), money("103.00"))
        assert await contracts.get(draft) == draft
        old = await contracts.get(active)
        assert (old.state, old.renewed_to_id) == (Contract.ACTIVE, draft.id)

    async def test_request_sets_number_end_date_and_uplift(self, contracts: ContractApi, acme: Entity) -> None:
        active = await contracts.create_active(acme)
        draft = await contracts.renew(active, contract_number="NEXT", end_date="2190-01-01", uplift_bp=0)
        assert (draft.contract_number, draft.end_date) == ("NEXT", "2190-01-01")
        error = await refusal(contracts.renew(await contracts.create_active(acme), contract_number="NEXT"))
        assert error.reason == "CONTRACT_NUMBER_TAKEN"

    async def test_contract_is_renewed_once(self, contracts: ContractApi, acme: Entity) -> None:
        active = await contracts.create_active(acme)
        draft = await contracts.renew(active, request_id="key-1")
        assert await contracts.renew(active, request_id="key-1") == draft
        error = await refusal(contracts.renew(active))
        assert (error.code, error.reason) == (StatusCode.FAILED_PRECONDITION, "CONTRACT_ALREADY_RENEWED")
        assert error.metadata == {"contract_id": active.id, "renewed_to_id": draft.id}
        assert len(await contracts.list_names()) == 2

    async def test_contract_is_renewed_again_after_its_successor_was_withdrawn(
        self, contracts: ContractApi, acme: Entity
    ) -> None:
        active = await contracts.create_active(acme)
        await contracts.terminate(await contracts.renew(active))
        draft = await contracts.renew(active)
        assert (await contracts.get(active)).renewed_to_id == draft.id

    async def test_evergreen_contract_is_rejected(self, contracts: ContractApi, acme: Entity) -> None:
        error = await refusal(contracts.renew(await contracts.create_active(acme, end_date="")))
        assert (error.code, error.reason) == (StatusCode.FAILED_PRECONDITION, "CONTRACT_EVERGREEN")

    async def test_end_date_before_the_start_is_rejected(self, contracts: ContractApi, acme: Entity) -> None:
        active = await contracts.create_active(acme)
        error = await refusal(contracts.renew(active, end_date=active.end_date))
        assert (error.reason, set(error.fields)) == ("INVALID_FIELDS", {"end_date"})

    async def test_database_rejects_a_second_successor(
        self, contracts: ContractApi, acme: Entity, admin: Admin
    ) -> None:
        active = await contracts.create_active(acme)
        await contracts.renew(active)
        other = await contracts.create(acme)
        query = "update entities.billing_contracts set renewed_from_id = $1 where id = $2"
        with pytest.raises(asyncpg.UniqueViolationError):
            await admin.execute(query, ids.CONTRACT.parse(active.id), ids.CONTRACT.parse(other.id))


async def insert_allocation(
    admin: Admin, tenant_id: UUID, entity: Entity, on: str, amount: str, source: str = "USAGE"
) -> None:
    """Insert an allocation, for example of "12.50 EUR" of usage; amounts in other currencies are booked as half."""
    number, currency = amount.split()
    await admin.execute(
        "insert into entities.cost_allocations (tenant_id, id, entity_id, department_path, category, source,"
        " source_ref, amount, currency_code, entity_amount, entity_currency_code, rate, rate_date, unit, gl_code,"
        " allocation_date, description, actor, create_time)"
        " select $1, $2, $3, '{}', '', $4, '', $5, currency, coalesce(rate, 1) * $5, 'EUR', rate,"
        " case when currency <> 'EUR' then $7::date end, '', '', $7, '', 'a', now()"
        " from (select $6::char(3) as currency, case when $6 <> 'EUR' then 0.5 end as rate) parameters",
        tenant_id,
        ids.new(),
        ids.ENTITY.parse(entity.id),
        source,
        Decimal(number),
        currency,
        date.fromisoformat(on),
    )


class TestCheckRenewal:
    async def test_check_has_all_facts(
        self, api: EntitiesApi, contracts: ContractApi, acme: Entity, admin: Admin, tenant: UUID
    ) -> None:
        active = await contracts.create_active(
            acme, start_date=day(-100), end_date=day(100), minimum_commitment=money("1000"), auto_renew=True,
            renewal_uplift_bp=500, renewal_term_months=12, billing_frequency=Contract.ONE_TIME,
        )  # fmt: skip
        other = await api.create_entity("OTHER")
        for entity, on, amount, source in (
            (acme, day(-100), "300 EUR", "USAGE"), (acme, day(), "100 USD", "USAGE"), (acme, day(), "77 EUR", "MANUAL"),
            (acme, day(-101), "77 EUR", "USAGE"), (other, day(), "77 EUR", "USAGE"),
        ):  # fmt: skip
            await insert_allocation(admin, tenant, entity, on, amount, source)
        check = await contracts.check_renewal(active)
        assert check == RenewalCheck(
            contract_id=active.id, end_date=day(100), days_to_end=100, notice_date=day(70), auto_renew=True,
            recommendation=RenewalCheck.RENEGOTIATE,
            reasons=[
                RenewalReason(
                    kind=RenewalReason.COMMITMENT_UNDERUSED,
                    text="70 % of the commitment of 1000.00 EUR will be used by the end of the term.",
                )
            ],
            current_value=money("1200.00"), renewal_value=check.renewal_value, renewal_start_date=day(100),
            renewal_end_date=months_later(date.fromisoformat(day(100)), 12).isoformat(), committed=money("1000.00"),
            used=money("350.00"), expected_utilisation_bp=7000,
        )  # fmt: skip
        assert Decimal(check.renewal_value.amount) > 1260

    async def test_usage_is_unknown_without_an_exchange_rate(
        self, contracts: ContractApi, acme: Entity, admin: Admin, tenant: UUID
    ) -> None:
        active = await contracts.create_active(
            acme, start_date=day(-100), end_date=day(50), minimum_commitment=money("1000", "USD"),
            total_value=money("1200", "USD"),
        )  # fmt: skip
        await insert_allocation(admin, tenant, acme, day(), "1 GBP")
        check = await contracts.check_renewal(active)
        assert not check.HasField("used")
        assert [reason.kind for reason in check.reasons] == [RenewalReason.USAGE_UNKNOWN]

    async def test_no_decision_is_due_in_these_cases(self, contracts: ContractApi, acme: Entity) -> None:
        draft = await contracts.check_renewal(await contracts.create(acme))
        evergreen = await contracts.check_renewal(await contracts.create_active(acme, end_date=""))
        active = await contracts.create_active(acme)
        successor = await contracts.renew(active)
        renewed = await contracts.check_renewal(active)
        for check, kind in (
            (draft, RenewalReason.NOT_IN_FORCE), (evergreen, RenewalReason.EVERGREEN), (renewed, RenewalReason.RENEWED),
        ):  # fmt: skip
            assert (check.recommendation, [reason.kind for reason in check.reasons]) == (RenewalCheck.NONE, [kind])
        assert (evergreen.end_date, evergreen.days_to_end, evergreen.notice_date) == ("", 0, "")
        assert not evergreen.HasField("renewal_value")
        assert renewed.renewed_to_id == successor.id


class TestSummarizeContracts:
    @pytest.fixture
    def service(self, service_api: EntitiesApi) -> ContractApi:
        return ContractApi(service_api)

    async def test_totals_by_entity_and_currency(
        self, api: EntitiesApi, contracts: ContractApi, service: ContractApi, acme: Entity
    ) -> None:
        other = await api.create_entity("OTHER")
        for end in (day(30), day(31), day(60), day(90), day(91), ""):
            await contracts.create_active(acme, start_date=day(-100), end_date=end, total_value=money("100.50"))
        await contracts.suspend(await contracts.create_active(acme, start_date=day(-100), end_date=day(5)))
        renewed = await contracts.create_active(acme, start_date=day(-100), end_date=day(7), total_value=money("1"))
        await contracts.activate_draft(await contracts.renew(renewed, uplift_bp=0, end_date=day(500)))
        ending = await contracts.create_active(acme, start_date=day(-100), end_date=day(40), total_value=money("1"))
        await contracts.terminate(ending, effective_date=day(40))
        await contracts.create_active(acme, total_value=money("7", "JPY"))
        await contracts.create_active(other)
        await contracts.create(acme)
        await contracts.terminate(await contracts.create_active(acme), for_cause=True)
        first, yen, third = await service.summarize()
        assert (first.entity_id, yen.entity_id, third.entity_id) == (acme.id, acme.id, other.id)
        total = Decimal(first.active_value.amount)
        assert first == ContractSummary(
            entity_id=acme.id, currency_code="EUR", active_contracts=9, active_value=first.active_value,
            suspended_contracts=1, renewals_due_30_days=2, renewals_due_60_days=4, renewals_due_90_days=5,
        )  # fmt: skip
        assert total > Decimal(604)
        assert (yen.currency_code, yen.active_contracts, yen.active_value) == ("JPY", 1, money("7", "JPY"))
        assert third.active_value == money("1200.00")
        assert await service.summarize(other) == [third]

    async def test_only_services_can_call(
        self, api_for: Callable[[Caller], EntitiesApi], caller: Callable[..., Caller]
    ) -> None:
        error = await refusal(ContractApi(api_for(caller("billing_admin"))).summarize())
        assert (error.code, error.metadata) == (StatusCode.PERMISSION_DENIED, {"permission": "service"})
