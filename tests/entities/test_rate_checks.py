"""Implausible exchange rates are refused: large unconfirmed changes, and contradictions of the opposite pair."""

import asyncio
from datetime import date
from decimal import Decimal

import pytest
from grpc import StatusCode
from grpc.aio import AioRpcError
from hypothesis import given
from hypothesis import strategies as st

from services.entities import domain
from services.entities.domain.rates import Quote, RateDraft
from services.entities.errors.rates import RateChangeTooLarge
from tests.entities.entities_api import EntitiesApi
from tests.harness.callers import Refusal, refusal


class TestLargeChange:
    async def test_is_refused_with_both_rates_and_the_flag_that_accepts_it(self, api: EntitiesApi) -> None:
        await api.set_rates("2026-03-01 CHF/EUR 1.05")
        error = await refusal(api.set_rates("2026-03-02 CHF/GBP 0.9", "2026-03-02 CHF/EUR 999999999999"))
        assert (error.code, error.reason) == (StatusCode.FAILED_PRECONDITION, "RATE_CHANGE_TOO_LARGE")
        assert error.metadata == {
            "base_currency": "CHF", "quote_currency": "EUR", "effective_date": "2026-03-02", "rate": "999999999999",
            "last_effective_date": "2026-03-01", "last_rate": "1.05",
        }  # fmt: skip
        assert error.message == (
            "The rate CHF/EUR 999999999999 of 2026-03-02 is more than 10 times the rate 1.05 of 2026-03-01. Correct it,"
            " or set confirm_large_change to true to store it."
        )
        assert await api.rates() == ["2026-03-01 CHF/EUR 1.05"]

    async def test_is_stored_when_confirmed_and_can_then_be_repeated(self, api: EntitiesApi) -> None:
        await api.set_rates("2026-03-01 CHF/EUR 1.05")
        await api.set_rates("2026-03-02 CHF/EUR 999999999999", confirm_large_change=True)
        repeated = await api.set_rates("2026-03-01 CHF/EUR 1.05", "2026-03-02 CHF/EUR 999999999999")
        assert (repeated.created, repeated.replaced, repeated.unchanged) == (0, 0, 2)

    @pytest.mark.parametrize(
        ("stored", "rates", "refused"),
        [
            (["03-01 1"], ["03-02 10"], ""),
            (["03-01 1"], ["03-02 10.0001"], "10.0001 of 2026-03-02 is more than 10 times the rate 1 of 2026-03-01"),
            (["03-01 1"], ["03-02 0.1"], ""),
            (["03-01 1"], ["03-02 0.099"], "0.099 of 2026-03-02 is less than 1/10 of the rate 1 of 2026-03-01"),
            # However old the last rate is, and also within one request.
            (["01-01 1"], ["06-02 11"], "11 of 2026-06-02 is more than 10 times the rate 1 of 2026-01-01"),
            ([], ["03-02 1", "03-03 11"], "11 of 2026-03-03 is more than 10 times the rate 1 of 2026-03-02"),
            (["03-01 1"], ["03-03 30", "03-02 5"], ""),
            # Without an earlier rate: the one that is replaced, else the next.
            (["03-02 1"], ["03-02 11"], "11 of 2026-03-02 is more than 10 times the rate 1 of 2026-03-02"),
            (["03-02 1"], ["03-01 11"], "11 of 2026-03-01 is more than 10 times the rate 1 of 2026-03-02"),
            # A typing error can be corrected.
            (["03-01 1.08", "03-02 9"], ["03-02 1.09"], ""),
            (["03-02 1090"], ["03-01 1.08", "03-02 1.09"], ""),
            ([], ["03-01 999999999999"], ""),
        ],
    )  # fmt: skip
    async def test_is_measured_against_the_last_rate_of_the_pair(
        self, api: EntitiesApi, stored: list[str], rates: list[str], refused: str
    ) -> None:
        def of_pair(texts: list[str]) -> list[str]:
            return [f"2026-{day} EUR/USD {rate}" for day, rate in map(str.split, texts)]

        for rate in of_pair(stored):
            await api.set_rates(rate)
        if refused:
            error = await refusal(api.set_rates(*of_pair(rates)))
            assert error.message.startswith(f"The rate EUR/USD {refused}. Correct it")
        else:
            await api.set_rates(*of_pair(rates))

    async def test_other_pairs_and_the_opposite_pair_are_not_compared(self, api: EntitiesApi) -> None:
        await api.set_rates("2026-03-01 EUR/JPY 160", "2026-03-01 EUR/USD 1.1")
        await api.set_rates("2026-03-02 JPY/EUR 0.00625", "2026-03-02 EUR/GBP 0.8")


class TestContradiction:
    @pytest.mark.parametrize(
        ("stored", "rates"),
        [
            ([], ["03-02 EUR/USD 1.09", "03-02 USD/EUR 1.09"]),
            (["03-02 EUR/USD 1.09"], ["03-02 USD/EUR 1.09"]),
            ([], ["03-02 EUR/CHF 0.95", "03-02 CHF/EUR 0.95"]),
            # Against the rate that is in force on the day, and on later days of the new rate.
            (["03-01 EUR/USD 1.09"], ["03-20 USD/EUR 1.09"]),
            (["03-20 USD/EUR 1.09"], ["03-02 EUR/USD 1.09"]),
        ],
    )
    async def test_is_refused_with_both_rates(self, api: EntitiesApi, stored: list[str], rates: list[str]) -> None:
        for rate in stored:
            await api.set_rates(f"2026-{rate}")
        error = await refusal(api.set_rates(*(f"2026-{rate}" for rate in rates), confirm_large_change=True))
        assert (error.code, error.reason) == (StatusCode.FAILED_PRECONDITION, "RATES_CONTRADICT")
        assert (error.metadata["rate"], error.metadata["opposite_rate"]) == (
            error.metadata["opposite_rate"],
            rates[0].split()[-1],
        )
        assert "contradict each other: their product must be 1, with a tolerance of" in error.message
        assert len(await api.rates()) == len(stored)

    @pytest.mark.parametrize(
        ("stored", "rates"),
        [
            ([], ["03-02 EUR/USD 1.09", "03-02 USD/EUR 0.917"]),
            ([], ["03-02 EUR/USD 1.25", "03-02 USD/EUR 0.84"]),
            # Never in force on the same day: one of them is too old, or was replaced.
            (["01-01 EUR/USD 1.09"], ["02-06 USD/EUR 1.09"]),
            (["03-02 EUR/USD 1.09", "03-03 EUR/USD 0.92"], ["03-03 USD/EUR 1.09"]),
            (["03-03 EUR/USD 0.92", "03-03 USD/EUR 1.09"], ["03-02 EUR/USD 1.09"]),
            # Within the tolerance.
            (["03-01 EUR/USD 1.09"], ["03-20 USD/EUR 1"]),
            # A large move of the market: both directions in one request.
            (["03-01 EUR/TRY 50", "03-01 TRY/EUR 0.02"], ["03-20 EUR/TRY 60", "03-20 TRY/EUR 0.0167"]),
        ],
    )
    async def test_consistent_rates_of_both_directions_are_stored(
        self, api: EntitiesApi, stored: list[str], rates: list[str]
    ) -> None:
        for rate in stored:
            await api.set_rates(f"2026-{rate}")
        await api.set_rates(*(f"2026-{rate}" for rate in rates))

    async def test_of_two_concurrent_requests_only_one_is_accepted(self, api: EntitiesApi) -> None:
        results = await asyncio.gather(
            *(api.set_rates(f"2026-03-02 {pair} 1.09") for pair in ("EUR/USD", "USD/EUR") for _ in range(4)),
            return_exceptions=True,
        )
        assert len(await api.rates()) == 1
        refused = [Refusal.of(each) for each in results if isinstance(each, AioRpcError)]
        assert {each.reason for each in refused} == {"RATES_CONTRADICT"}
        assert len(refused) == 4


PAIR = ("EUR", "USD")
rate_values = st.decimals("0.0001", "10000", places=4)
histories = st.lists(st.builds(Quote, rate_values, st.dates(date(2026, 3, 1), date(2026, 3, 9))), max_size=6)


@given(histories, rate_values, st.dates(date(2026, 3, 1), date(2026, 3, 9)))
def test_rate_is_refused_exactly_when_it_is_more_than_ten_times_off(
    history: list[Quote], rate: Decimal, day: date
) -> None:
    stored = {quote.effective_date: quote.rate for quote in history}
    draft = RateDraft(base_currency="EUR", quote_currency="USD", effective_date=day, rate=rate, source="")
    earlier = [each for each in stored if each < day]
    later = [each for each in stored if each > day]
    last = max(earlier) if earlier else day if day in stored else min(later) if later else None
    large = last is not None and stored.get(day) != rate and not stored[last] / 10 <= rate <= stored[last] * 10
    quotes = {PAIR: [Quote(each, at) for at, each in stored.items()]}
    if large:
        with pytest.raises(RateChangeTooLarge):
            domain.rate_checks.check([draft], quotes, confirmed=False)
    else:
        domain.rate_checks.check([draft], quotes, confirmed=False)
    domain.rate_checks.check([draft], quotes, confirmed=True)
