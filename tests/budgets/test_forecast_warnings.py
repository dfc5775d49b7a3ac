"""Forecast warnings: raised only above the budget, only after enough days, and explained in words."""

from datetime import date
from decimal import Decimal

import pytest

from services.budgets import domain
from services.budgets.domain.balances import Balance
from services.budgets.domain.forecast import Forecast, ForecastInput, Method
from services.budgets.domain.forecast_warnings import WARNING_DAYS_MIN, ForecastResult
from tests.budgets.test_domain import CENT, balance

JUNE = ForecastInput(date(2027, 6, 1), date(2027, 7, 1), date(2027, 6, 16), limit=Decimal(100), currency="EUR")


def forecast(expected: str, days: int = WARNING_DAYS_MIN, runs_out_on: date | None = None) -> Forecast:
    """A forecast of this spend."""
    amount = Decimal(expected)
    return Forecast(amount, amount - CENT, amount + CENT, runs_out_on, Method.LEVEL, days)


class TestWarns:
    def test_spend_equal_to_the_budget_raises_no_warning(self) -> None:
        assert not domain.forecast_warnings.warns(balance("100"), forecast("100"))

    def test_spend_a_cent_above_the_budget_raises_a_warning(self) -> None:
        assert domain.forecast_warnings.warns(balance("100"), forecast("100.01"))

    def test_carried_forward_counts(self) -> None:
        budget = balance("100")._replace(carried=Decimal(20))
        assert not domain.forecast_warnings.warns(budget, forecast("120"))
        assert domain.forecast_warnings.warns(budget, forecast("120.01"))

    @pytest.mark.parametrize("carried", ["-100", "-150"])
    def test_no_spend_raises_no_warning_however_much_was_overspent_before(self, carried: str) -> None:
        budget = balance("100")._replace(carried=Decimal(carried))
        assert not domain.forecast_warnings.warns(budget, forecast("0"))
        assert domain.forecast_warnings.warns(budget, forecast("0.01"))

    def test_fewer_days_than_a_week_raise_no_warning(self) -> None:
        assert not domain.forecast_warnings.warns(balance("100"), forecast("500", WARNING_DAYS_MIN - 1))
        assert domain.forecast_warnings.warns(balance("100"), forecast("500", WARNING_DAYS_MIN))


class TestExplanation:
    @staticmethod
    def explain(budget: Balance, of: Forecast) -> str:
        return domain.forecast_warnings.explain(ForecastResult(budget, JUNE, of))

    def test_day_of_exhaustion_is_named(self) -> None:
        text = self.explain(balance("100"), forecast("125.50", runs_out_on=date(2027, 6, 24)))
        assert text.startswith("125.50 EUR are expected to be spent until 2027-06-30, 125.5 % of 100.00 EUR.")
        assert "With a probability of 80 % it is between 125.49 EUR and 125.51 EUR." in text
        assert "The budget will be exhausted on 2027-06-24." in text

    def test_past_overspending_is_named(self) -> None:
        text = self.explain(balance("100"), forecast("125.50", runs_out_on=date(2027, 6, 15)))
        assert "The budget has been overspent since 2027-06-15." in text

    def test_sufficient_budget(self) -> None:
        assert "The budget is sufficient." in self.explain(balance("100"), forecast("80"))
