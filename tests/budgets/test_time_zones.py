"""The time zone of a budget: its default, and periods below those of another zone."""

from tests.budgets.budgets_api import BudgetsApi
from tests.harness.callers import refusal


class TestTimeZone:
    async def test_time_zone_defaults_to_that_of_the_entity(self, api: BudgetsApi) -> None:
        entity = await api.company("TOKYO", time_zone="Asia/Tokyo")
        assert (await api.open(entity_id=entity)).time_zone == "Asia/Tokyo"
        assert (await api.open(entity_id=entity, time_zone="UTC")).time_zone == "UTC"

    async def test_time_zone_defaults_to_that_of_the_parent(self, api: BudgetsApi) -> None:
        group = await api.open(period_start_date="2026-01-01", time_zone="Europe/Berlin")
        subsidiary = await api.company("TOKYO", time_zone="Asia/Tokyo")
        for entity in (group.entity_id, subsidiary):
            child = await api.open(parent_id=group.id, entity_id=entity, period_start_date="2026-01-01")
            assert child.time_zone == "Europe/Berlin"

    async def test_same_year_in_another_time_zone_than_the_parent_is_refused_with_both_zones(
        self, api: BudgetsApi
    ) -> None:
        group = await api.open(period_start_date="2026-01-01", time_zone="Europe/Berlin")
        refused = await refusal(api.open(parent_id=group.id, period_start_date="2026-01-01", time_zone="Asia/Tokyo"))
        assert refused.reason == "PERIOD_OUTSIDE_PARENT"
        assert (refused.metadata["time_zone"], refused.metadata["parent_time_zone"]) == ("Asia/Tokyo", "Europe/Berlin")
        for text in ("Asia/Tokyo", "Europe/Berlin", "leave time_zone out"):
            assert text in refused.message
