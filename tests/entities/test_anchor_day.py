"""Anchor day: renewals and billing periods return to it after shorter months."""

from datetime import date

from billing.entities.v1.entity_pb2 import Entity
from hypothesis import given
from hypothesis import strategies as st

from kit.dates import months_later
from services.entities import domain
from services.entities.domain.fees import Fee
from services.entities.domain.proration import DateRange
from tests.entities.contract_api import ContractApi
from tests.entities.test_renewals import eur, terms


class TestAnchorDay:
    def test_monthly_renewals_keep_the_31st(self) -> None:
        contract, ends = terms("2026-10-31", "2026-11-30", renewal_term_months=1), []
        fees_due: list[Fee] = []
        for _ in range(4):
            contract = domain.renewals.renewal_terms(contract)
            fees_due += domain.fees.fees_due(domain.fees.build_plan(contract), DateRange(date.min, date.max))
            ends.append(str(contract.end_date))
        assert ends == ["2026-12-31", "2027-01-31", "2027-02-28", "2027-03-31"]
        assert [str(fee.due_date) for fee in fees_due] == ["2026-11-30", "2026-12-31", "2027-01-31", "2027-02-28"]
        assert [fee.amount for fee in fees_due] == [eur("1200.00")] * 4

    def test_periods_of_a_longer_successor_begin_on_the_anchor_day(self) -> None:
        renewed = domain.renewals.renewal_terms(terms("2026-08-31", "2026-11-30", renewal_term_months=3))
        periods = list(domain.fees.periods_from(domain.fees.build_plan(renewed), renewed.start_date))
        assert [str(period.dates.start) for period in periods] == ["2026-11-30", "2026-12-31", "2027-01-31"]
        assert str(renewed.end_date) == "2027-02-28"
        assert renewed.total_value == eur("1200.00")

    def test_annual_renewals_return_to_the_leap_day(self) -> None:
        contract, ends = terms("2028-02-29", "2029-02-28"), []
        for _ in range(3):
            contract = domain.renewals.renewal_terms(contract)
            ends.append(str(contract.end_date))
        assert ends == ["2030-02-28", "2031-02-28", "2032-02-29"]

    def test_end_on_another_day_sets_the_anchor_day_anew(self) -> None:
        renewed = domain.renewals.renewal_terms(terms("2026-10-31", "2026-11-29", renewal_term_months=1))
        assert str(renewed.end_date) == "2026-12-29"

    @given(st.dates(date(2026, 1, 1), date(2035, 12, 31)), st.integers(1, 12), st.integers(1, 30))
    def test_renewals_end_where_one_long_contract_would(self, start: date, months: int, count: int) -> None:
        contract = terms(str(start), str(months_later(start, months)), renewal_term_months=months)
        for number in range(2, count + 2):
            contract = domain.renewals.renewal_terms(contract)
            assert contract.end_date == months_later(start, number * months)

    async def test_draft_of_a_renewal_keeps_the_anchor_day_until_its_start_changes(
        self, contracts: ContractApi, acme: Entity
    ) -> None:
        start, end = date.fromisoformat("2027-10-31"), "2027-11-30"
        active = await contracts.create_active(
            acme, start_date=str(start), end_date=end, renewal_term_months=1, renewal_notice_days=10
        )
        assert active.anchor_day == 31
        draft = await contracts.renew(active)
        assert (draft.start_date, draft.end_date, draft.anchor_day) == (end, "2027-12-31", 31)
        assert (await contracts.get(draft)).anchor_day == 31
        assert (await contracts.update(draft, start_date="2027-12-01")).anchor_day == 1
        assert (await contracts.update(draft, start_date=end)).anchor_day == 30
