"""Amendments: what they change, what they cost, who may agree to them, and when they are refused."""

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
from tests.entities.amendment_api import AmendmentApi, in_state, later
from tests.entities.conftest import EntitiesApi
from tests.entities.contract_api import ContractApi, day, money, phase
from tests.harness.callers import Caller, refusal
from tests.harness.observe import AuditRow, PublishedEvents

Admin: TypeAlias = "asyncpg.Pool[asyncpg.Record]"
NOTHING = "amd_" + "0" * 32
NOBODY = "con_" + "0" * 32
FEE = money("1")


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


class TestPreview:
    async def test_it_shows_old_and_new_fee_of_each_period_and_the_difference_of_the_first(
        self, contracts: ContractApi, amendments: AmendmentApi, acme: Entity
    ) -> None:
        given = contracts.put_in_force(
            acme, start_date="2090-10-01", end_date="2091-04-01", total_value=money("1860"),
            phases=[phase("2090-10-01", "310")],
        )  # fmt: skip
        shown = await amendments.preview(await given, Amendment.PRICE, effective_date="2091-01-11", fee=money("403"))
        assert [(fee.number, fee.start_date, fee.old_fee.amount, fee.new_fee.amount, fee.difference.amount)
                for fee in shown.effect.fees] == [
            (4, "2091-01-01", "310.00", "373.00", "63.00"),
            (5, "2091-02-01", "310.00", "403.00", "93.00"),
            (6, "2091-03-01", "310.00", "403.00", "93.00"),
        ]  # fmt: skip
        effect = shown.effect
        assert (effect.period_start_date, effect.period_end_date) == ("2091-01-01", "2091-02-01")
        assert (effect.old_part.amount, effect.new_part.amount, effect.difference.amount) == (
            "210.00",
            "273.00",
            "63.00",
        )
        assert (effect.old_total_value.amount, effect.new_total_value.amount) == ("1860.00", "2109.00")

    async def test_it_keeps_nothing(self, contracts: ContractApi, amendments: AmendmentApi, contract: Contract) -> None:
        shown = await amendments.preview(contract, Amendment.SEATS, seats=20, request_id="key-1")
        assert (shown.id, shown.etag, shown.state) == ("", "", Amendment.DRAFT)
        assert not (await amendments.list(contract)).amendments
        assert await contracts.get(contract) == contract
        assert (await amendments.amend(contract, request_id="key-1")).number == 1

    async def test_what_it_shows_is_what_happens(
        self, contracts: ContractApi, amendments: AmendmentApi, contract: Contract
    ) -> None:
        terms = {"fee": money("150"), "phases": [phase(day(90), "175")], "seats": 12}
        shown = await amendments.preview(contract, Amendment.PRICE, effective_date=day(-1), **terms)
        made = await amendments.agree(contract, Amendment.PRICE, effective_date=day(-1), **terms)
        applied = await amendments.settled(made)
        assert applied.state == Amendment.APPLIED
        assert (applied.before, applied.after, applied.effect) == (shown.before, shown.after, shown.effect)
        found = await contracts.get(contract)
        assert found.total_value == shown.effect.new_total_value
        assert list(found.phases) == [
            phase(contract.start_date, "100.00"), phase(day(-1), "150.00"), phase(day(90), "175.00")
        ]  # fmt: skip

    async def test_of_an_evergreen_contract_it_shows_a_year(
        self, contracts: ContractApi, amendments: AmendmentApi, acme: Entity
    ) -> None:
        evergreen = await contracts.put_in_force(acme, start_date="2026-01-31", end_date="")
        shown = await amendments.preview(evergreen, Amendment.PRICE, effective_date="2026-12-31", fee=money("200"))
        assert [fee.start_date for fee in shown.effect.fees][:3] == ["2026-12-31", "2027-01-31", "2027-02-28"]
        assert len(shown.effect.fees) == 12
        assert shown.effect.new_total_value == money("2400.00")

    async def test_what_is_billed_once_is_not_divided(
        self, contracts: ContractApi, amendments: AmendmentApi, acme: Entity
    ) -> None:
        once = await contracts.put_in_force(acme, billing_frequency=Contract.ONE_TIME, end_date="")
        effect = (await amendments.preview(once, Amendment.PRICE, fee=money("1500"))).effect
        assert (effect.old_part.amount, effect.new_part.amount, effect.difference.amount) == (
            "1200.00", "1500.00", "300.00"
        )  # fmt: skip
        assert [fee.end_date for fee in effect.fees] == [""]
        assert (effect.period_end_date, effect.new_total_value) == ("", money("1500.00"))

    async def test_a_long_contract_shows_sixty_periods(
        self, contracts: ContractApi, amendments: AmendmentApi, acme: Entity
    ) -> None:
        long = await contracts.put_in_force(acme, start_date="2090-01-01", end_date="2100-01-01")
        shown = await amendments.preview(long, Amendment.PRICE, effective_date="2090-03-01", fee=money("20"))
        assert len(shown.effect.fees) == 60


class TestWhatItChanges:
    async def test_all_terms_that_it_names_and_no_others(
        self, contracts: ContractApi, amendments: AmendmentApi, contract: Contract, published_events: PublishedEvents
    ) -> None:
        end = later(contract.end_date, 100)
        terms: dict[str, Any] = {
            "fee": money("110.00"), "end_date": end, "seats": 30, "license_tier": "platinum",
            "minimum_commitment": money("500.00"), "payment_terms_days": 0, "purchase_order_number": "PO-7",
            "purchase_order_limit": money("9000.00"), "auto_renew": True, "renewal_term_months": 24,
            "renewal_notice_days": 60, "renewal_uplift_bp": 250, "sla_terms": SlaTerms(uptime_bp=9990),
        }  # fmt: skip
        made = await amendments.amend(contract, Amendment.SCOPE, **terms)
        assert made.after == AmendedTerms(**terms)
        assert made.before == AmendedTerms(
            fee=money("100.00"), end_date=contract.end_date, seats=10, license_tier="gold", payment_terms_days=30,
            purchase_order_number="", auto_renew=False, renewal_term_months=12, renewal_notice_days=30,
            renewal_uplift_bp=0,
        )  # fmt: skip
        await amendments.approve(made)
        applied = await amendments.settled(made)
        found = await contracts.get(contract)
        for name, value in terms.items():
            if name != "fee":
                assert getattr(found, name) == value, name
        untouched = ("contract_number", "name", "contract_type", "start_date", "billing_frequency", "state")
        assert all(getattr(found, name) == getattr(contract, name) for name in untouched)
        assert found.license_state == Contract.REQUESTED
        assert found.etag != contract.etag
        (said,) = await published_events.at_least(1, ContractAmended)
        assert said == ContractAmended(
            contract_id=contract.id, entity_id=contract.entity_id, contract_number=contract.contract_number,
            amendment_id=made.id, number=1, amendment_type="SCOPE", effective_date=day(), changed=sorted(terms),
            license_tier="platinum", seats=30, fee=money("110.00"), prorated_difference=applied.effect.difference,
            end_date=end, total_value=found.total_value,
        )  # fmt: skip

    async def test_another_end_leaves_the_fees_as_they_are(
        self, contracts: ContractApi, amendments: AmendmentApi, acme: Entity
    ) -> None:
        start = day(-2)
        given = await contracts.put_in_force(
            acme, start_date=start, end_date=later(start, 70), total_value=money("250"), phases=[phase(start, "100")]
        )
        made = await amendments.agree(given, Amendment.TERM, end_date="")
        await amendments.settled(made)
        found = await contracts.get(given)
        assert (found.end_date, list(found.phases)) == ("", [phase(start, "100.00")])
        assert found.total_value == money("1200.00")  # of an evergreen contract, a year of it

    async def test_a_shorter_term_is_worth_less_and_drops_what_came_later(
        self, contracts: ContractApi, amendments: AmendmentApi, acme: Entity
    ) -> None:
        given = await contracts.put_in_force(
            acme, start_date="2090-11-01", end_date="2091-05-01", total_value=money("800"),
            phases=[phase("2090-11-01", "100"), phase("2091-03-01", "200")],
        )  # fmt: skip
        shown = await amendments.preview(given, Amendment.TERM, effective_date="2091-01-01", end_date="2091-02-15")
        assert [
            (fee.start_date, fee.end_date, fee.old_fee.amount, fee.new_fee.amount) for fee in shown.effect.fees
        ] == [
            ("2091-01-01", "2091-02-01", "100.00", "100.00"),
            ("2091-02-01", "2091-03-01", "100.00", "50.00"),
            ("2091-03-01", "2091-04-01", "200.00", "0.00"),
            ("2091-04-01", "2091-05-01", "200.00", "0.00"),
        ]
        assert shown.effect.new_total_value == money("350.00")

    async def test_later_phases_are_replaced_by_a_new_fee(
        self, contracts: ContractApi, amendments: AmendmentApi, acme: Entity
    ) -> None:
        ramp = [phase(day(-2), "100.00"), phase(day(100), "200.00"), phase(day(200), "300.00")]
        given = await contracts.put_in_force(acme, phases=ramp)
        made = await amendments.agree(given, Amendment.PRICE, effective_date=day(), fee=money("120"))
        assert list(made.before.phases) == ramp[1:]
        await amendments.settled(made)
        assert list((await contracts.get(given)).phases) == [ramp[0], phase(day(), "120.00")]

    async def test_who_changed_what_is_in_the_audit_log(
        self, amendments: AmendmentApi, contract: Contract, audit_rows: Callable[..., Awaitable[list[AuditRow]]]
    ) -> None:
        made = await amendments.agree(contract)
        await amendments.settled(made)
        rows = [row for row in await audit_rows("entities") if row.table == "contract_amendments"]
        assert [(row.action, row.actor) for row in rows] == [
            ("insert", "alice"), ("update", "alice"), ("update", "service:entities")
        ]  # fmt: skip


class TestRefused:
    @pytest.mark.parametrize(
        ("kind", "given", "fields"),
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
    async def test_changes_that_do_not_go_together(
        self,
        amendments: AmendmentApi,
        contract: Contract,
        kind: Amendment.Type.ValueType,
        given: dict[str, object],
        fields: set[str],
    ) -> None:
        refused = await refusal(amendments.amend(contract, kind, **given))
        assert (refused.code, set(refused.fields)) == (StatusCode.INVALID_ARGUMENT, fields)
        assert await refusal(amendments.preview(contract, kind, **given)) == refused

    async def test_what_is_billed_once_has_no_phases(
        self, contracts: ContractApi, amendments: AmendmentApi, acme: Entity
    ) -> None:
        once = await contracts.put_in_force(acme, billing_frequency=Contract.ONE_TIME)
        later_phase = [phase(day(5), "1")]
        refused = await refusal(amendments.amend(once, Amendment.PRICE, fee=money("1"), phases=later_phase))
        assert set(refused.fields) == {"after.phases"}

    async def test_a_day_on_which_the_contract_does_not_hold(
        self, contracts: ContractApi, amendments: AmendmentApi, contract: Contract
    ) -> None:
        for effective in (day(-3), contract.end_date):
            refused = await refusal(amendments.amend(contract, effective_date=effective))
            assert (refused.code, refused.reason) == (StatusCode.FAILED_PRECONDITION, "AMENDMENT_OUTSIDE_TERM")
            assert refused.metadata == {
                "contract_id": contract.id, "effective_date": effective, "start_date": contract.start_date,
                "end_date": contract.end_date,
            }  # fmt: skip
        refused = await refusal(
            amendments.amend(contract, Amendment.TERM, effective_date=day(50), end_date=day(50), renewal_notice_days=0)
        )
        assert refused.reason == "AMENDMENT_OUTSIDE_TERM"
        await contracts.terminate(contract, for_cause=True, effective_date=day(20))
        assert (await refusal(amendments.amend(contract, effective_date=day(20)))).metadata["end_date"] == day(20)
        assert (await amendments.amend(contract, effective_date=day(19))).number == 1

    async def test_another_end_where_a_successor_begins(
        self, contracts: ContractApi, amendments: AmendmentApi, contract: Contract
    ) -> None:
        end = later(contract.end_date, 30)
        planned = await amendments.amend(contract, Amendment.TERM, end_date=end)
        successor = await contracts.renew(contract)
        for call in (amendments.amend(contract, Amendment.TERM, end_date=end), amendments.approve(planned)):
            refused = await refusal(call)
            assert (refused.reason, refused.metadata["renewed_to_id"]) == ("CONTRACT_ALREADY_RENEWED", successor.id)
        assert (await amendments.amend(contract)).number == 2
        await contracts.terminate(successor)
        assert (await amendments.amend(contract, Amendment.TERM, end_date=end)).number == 3

    async def test_unknown_ones_are_not_found(
        self, contracts: ContractApi, amendments: AmendmentApi, acme: Entity, contract: Contract
    ) -> None:
        elsewhere = await amendments.amend(await contracts.put_in_force(acme))
        unknown = Amendment(id=NOTHING, contract_id=contract.id)
        of_other = Amendment(id=elsewhere.id, contract_id=contract.id)
        for amendment in (unknown, of_other):
            for call in (amendments.get, amendments.approve, amendments.reject, amendments.apply):
                refused = await refusal(call(amendment))
                assert (refused.reason, refused.metadata) == ("AMENDMENT_NOT_FOUND", {"amendment_id": amendment.id})
        nobodys = Amendment(id=elsewhere.id, contract_id=NOBODY)
        for call in (amendments.get, amendments.approve, amendments.reject, amendments.apply):
            assert (await refusal(call(nobodys))).reason == "CONTRACT_NOT_FOUND"
        assert (await refusal(amendments.list(NOBODY))).reason == "CONTRACT_NOT_FOUND"
        assert (await refusal(amendments.amend(NOBODY))).reason == "CONTRACT_NOT_FOUND"


class TestKeysAndEtags:
    async def test_a_key_is_answered_the_same_and_not_for_another_body(
        self, contracts: ContractApi, amendments: AmendmentApi, contract: Contract
    ) -> None:
        made = await amendments.amend(contract, request_id="key-1")
        assert await amendments.amend(contract, request_id="key-1") == made
        other = await refusal(amendments.amend(contract, request_id="key-1", seats=21))
        assert other.reason == "IDEMPOTENCY_MISMATCH"
        approved = await amendments.approve(made, request_id="key-2")
        await amendments.settled(made)
        assert await amendments.approve(made, request_id="key-2") == approved
        assert (await amendments.list(contract)).amendments[0].id == made.id
        rejected = await amendments.amend(contract, seats=99)
        first = await amendments.reject(rejected, request_id="key-3")
        assert await amendments.reject(rejected, request_id="key-3") == first
        assert (await contracts.get(contract)).seats == 20

    async def test_applying_twice_with_one_key_is_once(
        self, contracts: ContractApi, amendments: AmendmentApi, contract: Contract, admin: Admin
    ) -> None:
        waiting = await in_state(amendments, contract, admin, AmendmentState.APPROVED, seats=14)
        first = await amendments.apply(waiting, request_id="key-1")
        assert await amendments.apply(waiting, request_id="key-1") == first
        assert (await contracts.get(contract)).seats == 14

    async def test_a_stale_etag_changes_nothing(self, amendments: AmendmentApi, contract: Contract) -> None:
        refused = await refusal(amendments.amend(contract, etag="1"))
        assert (refused.code, refused.reason) == (StatusCode.ABORTED, "ETAG_MISMATCH")
        made = await amendments.amend(contract, etag=contract.etag)
        for call in (amendments.approve, amendments.reject, amendments.apply):
            assert (await refusal(call(made, etag="7"))).reason == "ETAG_MISMATCH"
        assert (await amendments.approve(made, etag=made.etag)).etag != made.etag


class TestList:
    async def test_page_by_page_while_others_are_made(self, amendments: AmendmentApi, contract: Contract) -> None:
        made = [(await amendments.amend(contract, seats=20 + number)).id for number in range(5)]
        seen: list[str] = []
        token = ""
        while True:
            page = await amendments.list(contract, page_size=2, page_token=token)
            seen += [amendment.id for amendment in page.amendments]
            token = page.next_page_token
            if not token:
                break
            if len(seen) == 2:
                made.append((await amendments.amend(contract, seats=50)).id)
        assert seen == made

    async def test_filters(self, contracts: ContractApi, amendments: AmendmentApi, contract: Contract) -> None:
        seats = await amendments.amend(contract)
        price = await amendments.reject(await amendments.amend(contract, Amendment.PRICE, fee=money("1")))
        await amendments.amend(await contracts.put_in_force(contract.entity_id), seats=7)

        async def listed(**filters: object) -> list[str]:
            return [amendment.id for amendment in (await amendments.list(contract, **filters)).amendments]

        assert await listed() == [seats.id, price.id]
        assert await listed(state=Amendment.REJECTED) == [price.id]
        assert await listed(amendment_type=Amendment.SEATS) == [seats.id]
        assert await listed(amendment_type=Amendment.SEATS, state=Amendment.REJECTED) == []

    async def test_a_list_leaves_the_single_fees_out(self, amendments: AmendmentApi, contract: Contract) -> None:
        made = await amendments.amend(contract)
        (listed,) = (await amendments.list(contract)).amendments
        assert len(made.effect.fees) == 12
        assert not listed.effect.fees
        made.effect.ClearField("fees")
        assert listed == made


class TestWhoMay:
    async def test_others_see_nothing_of_them(
        self, amendments: AmendmentApi, contract: Contract, api: EntitiesApi, api_for: Callable[[Caller], EntitiesApi],
        caller: Callable[..., Caller],
    ) -> None:  # fmt: skip
        made = await amendments.amend(contract)
        elsewhere = await api.found("OTHER")
        other_tenant = caller("finance", tenant=ids.new())
        confined = caller("billing_admin", entity_scope=[elsewhere.id])
        for who in (other_tenant, confined):
            others = AmendmentApi(api_for(who))
            for call in (
                others.get(made), others.approve(made), others.reject(made), others.apply(made), others.list(contract),
                others.amend(contract), others.preview(contract, Amendment.SEATS),
            ):  # fmt: skip
                refused = await refusal(call)
                assert (refused.code, refused.reason) == (StatusCode.NOT_FOUND, "CONTRACT_NOT_FOUND")
        covered = AmendmentApi(api_for(caller("billing_admin", entity_scope=[contract.entity_id])))
        assert (await covered.approve(await covered.get(made))).state == Amendment.APPROVED

    async def test_only_who_may_sign_contracts_approves(
        self, amendments: AmendmentApi, contract: Contract, api_for: Callable[[Caller], EntitiesApi],
        caller: Callable[..., Caller],
    ) -> None:  # fmt: skip
        made = await amendments.amend(contract)
        viewer = AmendmentApi(api_for(caller("viewer")))
        assert (await viewer.get(made)).id == made.id
        assert (await refusal(viewer.approve(made))).metadata == {"permission": "contracts.sign"}
        for call in (viewer.reject(made), viewer.apply(made), viewer.amend(contract)):
            assert (await refusal(call)).metadata == {"permission": "contracts.write"}
