"""Exchange rates over gRPC: stored, listed, published, and read by other services."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import date, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from billing.entities.v1 import exchange_rate_service_pb2 as pb
from billing.entities.v1.events_pb2 import ExchangeRatesChanged
from billing.entities.v1.exchange_rate_pb2 import ConversionRate, CurrencyPair, ExchangeRate
from grpc import StatusCode
from sqlalchemy import event

from kit import ids
from tests.entities.entities_api import EntitiesApi
from tests.harness.callers import Caller, refusal
from tests.harness.observe import AuditRow, OutboxEvent, PublishedEvents, until_blocked
from tests.harness.services import Entities, Served

AuditRows = Callable[[str], Awaitable[list[AuditRow]]]
OutboxEvents = Callable[[str], Awaitable[list[OutboxEvent]]]


def counts(created: int = 0, replaced: int = 0, unchanged: int = 0) -> pb.SetExchangeRatesResponse:
    return pb.SetExchangeRatesResponse(created=created, replaced=replaced, unchanged=unchanged)


class TestSetExchangeRates:
    async def test_has_the_given_fields(self, api: EntitiesApi) -> None:
        assert await api.set_rates("2026-03-02 EUR/USD 1.0875", source="ECB") == counts(created=1)
        (recorded,) = await api.list_rates()
        assert recorded == ExchangeRate(
            base_currency="EUR",
            quote_currency="USD",
            effective_date="2026-03-02",
            rate="1.0875",
            source="ECB",
            create_time=recorded.create_time,
            update_time=recorded.create_time,
        )

    @pytest.mark.parametrize(
        ("rate", "shown"),
        [
            ("1.10", "1.1"),
            ("0100.00", "100"),
            ("100", "100"),
            ("0.000000000001", "0.000000000001"),
            ("999999999999.999999999999", "999999999999.999999999999"),
        ],
    )
    async def test_rate_is_exact_without_trailing_zeros(self, api: EntitiesApi, rate: str, shown: str) -> None:
        await api.set_rates(f"2026-03-02 EUR/USD {rate}")
        assert await api.rates() == [f"2026-03-02 EUR/USD {shown}"]

    async def test_rate_of_same_pair_and_day_is_replaced(self, api: EntitiesApi) -> None:
        await api.set_rates("2026-03-02 EUR/USD 1.1", "2026-03-03 EUR/USD 1.12", "2026-03-02 USD/EUR 0.9")
        assert await api.set_rates(
            "2026-03-02 EUR/USD 1.15", "2026-03-03 EUR/USD 1.120", "2026-03-04 EUR/USD 1.13"
        ) == counts(created=1, replaced=1, unchanged=1)
        assert await api.rates() == [
            "2026-03-02 EUR/USD 1.15",
            "2026-03-03 EUR/USD 1.12",
            "2026-03-02 USD/EUR 0.9",
            "2026-03-04 EUR/USD 1.13",
        ]

    async def test_other_source_is_a_replacement(self, api: EntitiesApi) -> None:
        await api.set_rates("2026-03-02 EUR/USD 1.1", source="by hand")
        assert await api.set_rates("2026-03-02 EUR/USD 1.1", source="ECB") == counts(replaced=1)
        assert [rate.source for rate in await api.list_rates()] == ["ECB"]

    async def test_a_thousand_rates_are_the_limit(self, api: EntitiesApi) -> None:
        first = date(2024, 1, 1)
        rates = [f"{first + timedelta(n)} EUR/USD 1.{n:04}" for n in range(1001)]
        error = await refusal(api.set_rates(*rates))
        assert (error.reason, set(error.fields)) == ("INVALID_FIELDS", {"rates"})
        assert await api.set_rates(*rates[:1000]) == counts(created=1000)
        assert await api.set_rates(*rates[:1000]) == counts(unchanged=1000)
        assert len(await api.rates()) == 1000

    @pytest.mark.parametrize(
        ("rate", "field", "rule"),
        [
            ("2026-03-02 EUR/USD 0", "rates[0].rate", "rate.positive"),
            ("2026-03-02 EUR/USD 0.000", "rates[0].rate", "rate.positive"),
            ("2026-03-02 EUR/USD -1", "rates[0].rate", "string.pattern"),
            ("2026-03-02 EUR/USD 1e3", "rates[0].rate", "string.pattern"),
            ("2026-03-02 EUR/USD 1.1234567890123", "rates[0].rate", "string.pattern"),
            ("2026-03-02 EUR/USD 1234567890123", "rates[0].rate", "string.pattern"),
            ("2026-02-30 EUR/USD 1", "rates[0].effective_date", "known.effective_date"),
            ("2026-03-02 EUR/EUR 1", "rates[0]", "rate.pair"),
            ("2026-03-02 EUR/Usd 1", "rates[0].quote_currency", "string.pattern"),
            ("2026-03-02 ERU/USD 1", "rates[0].base_currency", "known.base_currency"),
            ("2026-03-02 EUR/SUD 1", "rates[0].quote_currency", "known.quote_currency"),
        ],
    )
    async def test_invalid_rate_is_named_by_its_field(self, api: EntitiesApi, rate: str, field: str, rule: str) -> None:
        error = await refusal(api.set_rates(rate, "2026-03-02 EUR/GBP 0.8"))
        assert (error.code, error.reason) == (StatusCode.INVALID_ARGUMENT, "INVALID_FIELDS")
        assert error.rules[field] == rule
        assert set(error.rules) == {field}
        assert await api.rates() == []

    async def test_unknown_currency_is_refused_in_conversions_and_filters(self, api: EntitiesApi) -> None:
        def convert(**currencies: str) -> Awaitable[ConversionRate]:
            request = pb.GetConversionRateRequest(conversion_date="2026-03-02", **currencies)
            return api.caller.call(api.rates_stub.GetConversionRate, request)

        for call, field in (
            (convert(from_currency="EUR", to_currency="ZZZ"), "to_currency"),
            (convert(from_currency="ZZZ", to_currency="EUR"), "from_currency"),
            (api.list_rates(base_currency="ZZZ"), "base_currency"),
            (api.list_rates(quote_currency="ZZZ"), "quote_currency"),
        ):
            assert (await refusal(call)).rules == {field: f"known.{field}"}

    async def test_pair_and_day_must_be_unique(self, api: EntitiesApi) -> None:
        error = await refusal(
            api.set_rates("2026-03-02 EUR/USD 1.1", "2026-03-02 EUR/GBP 0.8", "2026-03-02 EUR/USD 1.1")
        )
        assert error.rules == {"rates[0]": "rate.once", "rates[2]": "rate.once"}

    async def test_repeated_key_returns_same_response_and_refuses_another_body(self, api: EntitiesApi) -> None:
        assert await api.set_rates("2026-03-02 EUR/USD 1.1", request_id="key-1") == counts(created=1)
        await api.set_rates("2026-03-02 EUR/USD 1.2")
        assert await api.set_rates("2026-03-02 EUR/USD 1.1", request_id="key-1") == counts(created=1)
        error = await refusal(api.set_rates("2026-03-02 EUR/USD 1.3", request_id="key-1"))
        assert error.reason == "IDEMPOTENCY_MISMATCH"
        assert await api.rates() == ["2026-03-02 EUR/USD 1.2"]

    async def test_concurrent_calls_in_opposite_order_both_succeed(
        self, api: EntitiesApi, admin: "asyncpg.Pool[asyncpg.Record]", tenant: UUID
    ) -> None:
        """One waits for the lock of the rate in the middle, the other one for it: they don't deadlock."""
        days = ("2026-03-01", "2026-03-02", "2026-03-03")
        await api.set_rates(*(f"{day} EUR/USD 1" for day in days))
        async with admin.acquire() as holder:
            async with holder.transaction():
                await holder.execute(
                    "select from entities.exchange_rates where tenant_id = $1"
                    " and effective_date = '2026-03-02' for update",
                    tenant,
                )
                one = asyncio.create_task(api.set_rates(*(f"{day} EUR/USD 2" for day in days)))
                two = asyncio.create_task(api.set_rates(*(f"{day} EUR/USD 3" for day in reversed(days))))
                await until_blocked(admin, 2)
            assert list(await asyncio.gather(one, two)) == [counts(replaced=3), counts(replaced=3)]

    async def test_viewer_cannot_set(
        self, api_for: Callable[[Caller], EntitiesApi], caller: Callable[..., Caller]
    ) -> None:
        viewer = api_for(caller("viewer"))
        assert await viewer.rates() == []
        error = await refusal(viewer.set_rates("2026-03-02 EUR/USD 1.1"))
        assert error.metadata == {"permission": "rates.write"}
        approver = api_for(caller("approver"))
        assert (await refusal(approver.rates())).metadata == {"permission": "rates.read"}

    async def test_confined_caller_can_read_but_not_set(
        self, api: EntitiesApi, api_for: Callable[[Caller], EntitiesApi], caller: Callable[..., Caller]
    ) -> None:
        await api.set_rates("2026-03-02 EUR/USD 1.1")
        entity = await api.create_entity()
        scopes: list[dict[str, list[str]]] = [{"entity_scope": [entity.id]}, {"department_scope": []}]
        for scope in scopes:
            confined = api_for(caller("finance", subject="conny", **scope))
            error = await refusal(confined.set_rates("2026-03-02 EUR/USD 9"))
            assert (error.code, error.reason) == (StatusCode.PERMISSION_DENIED, "TENANT_SCOPE_REQUIRED")
            assert await confined.rates() == ["2026-03-02 EUR/USD 1.1"]


class TestAuditAndEvents:
    async def test_audit_log_has_only_changes(self, api: EntitiesApi, audit_rows: AuditRows) -> None:
        await api.set_rates("2026-03-02 EUR/USD 1.1", "2026-03-02 EUR/GBP 0.8")
        await api.set_rates("2026-03-02 EUR/USD 1.2", "2026-03-02 EUR/GBP 0.80")
        rows = await audit_rows("entities")
        assert [(row.table, row.action, row.actor) for row in rows] == [
            ("exchange_rates", "insert", "alice"),
            ("exchange_rates", "insert", "alice"),
            ("exchange_rates", "update", "alice"),
        ]
        before, after = rows[2].before or {}, rows[2].after or {}
        assert (before["rate"], after["rate"], before["version"], after["version"]) == (1.1, 1.2, 1, 2)
        assert {name for name in after if after[name] != before[name]} == {"rate", "version", "update_time"}

    async def test_changes_are_published(
        self, api: EntitiesApi, published_events: PublishedEvents, outbox_events: OutboxEvents
    ) -> None:
        await api.set_rates("2026-03-05 EUR/USD 1.1", "2026-03-02 EUR/GBP 0.8", "2026-03-09 EUR/USD 1.2")
        await api.set_rates("2026-03-05 EUR/USD 1.10", "2026-03-02 EUR/GBP 0.8")
        await api.set_rates("2026-03-01 USD/JPY 150", "2026-03-02 EUR/GBP 0.8", "2026-03-09 EUR/USD 1.3")
        eur_usd = CurrencyPair(base_currency="EUR", quote_currency="USD")
        eur_gbp = CurrencyPair(base_currency="EUR", quote_currency="GBP")
        usd_jpy = CurrencyPair(base_currency="USD", quote_currency="JPY")
        assert await published_events.at_least(2, ExchangeRatesChanged) == [
            ExchangeRatesChanged(pairs=[eur_gbp, eur_usd], earliest_date="2026-03-02"),
            ExchangeRatesChanged(pairs=[eur_usd, usd_jpy], earliest_date="2026-03-01"),
        ]
        assert len(await outbox_events("entities")) == 2


class TestListExchangeRates:
    async def test_pages_list_each_once_despite_new_rates(self, api: EntitiesApi) -> None:
        rates = [f"2026-03-{day:02} EUR/USD 1.{day}1" for day in range(1, 8)]
        await api.set_rates(*rates)
        dates: list[str] = []
        request = pb.ListExchangeRatesRequest(page_size=3)
        while not dates or request.page_token:
            page = await api.caller.call(api.rates_stub.ListExchangeRates, request)
            assert len(page.exchange_rates) <= 3
            dates += [rate.effective_date for rate in page.exchange_rates]
            request.page_token = page.next_page_token
            if len(dates) == 3:
                await api.set_rates("2026-01-01 EUR/USD 1", "2026-03-01 EUR/USD 9")
        assert dates == [rate.split()[0] for rate in rates] + ["2026-01-01"]

    async def test_every_filter(self, api: EntitiesApi) -> None:
        one, two, three, four = (
            "2026-03-01 EUR/USD 1.1", "2026-03-02 EUR/USD 1.2", "2026-03-02 EUR/GBP 0.8", "2026-03-03 GBP/USD 1.4",
        )  # fmt: skip
        for rate in (one, two, three, four):
            await api.set_rates(rate)
        assert await api.rates() == [one, two, three, four]
        assert await api.rates(base_currency="EUR") == [one, two, three]
        assert await api.rates(quote_currency="USD") == [one, two, four]
        assert await api.rates(base_currency="EUR", quote_currency="USD") == [one, two]
        assert await api.rates(start_date="2026-03-02") == [two, three, four]
        assert await api.rates(end_date="2026-03-02") == [one]
        assert await api.rates(start_date="2026-03-02", end_date="2026-03-03", quote_currency="GBP") == [three]
        assert await api.rates(base_currency="JPY") == []

    async def test_token_is_bound_to_filters(self, api: EntitiesApi) -> None:
        await api.set_rates("2026-03-01 EUR/USD 1.1", "2026-03-02 EUR/USD 1.2")
        first = await api.caller.call(api.rates_stub.ListExchangeRates, pb.ListExchangeRatesRequest(page_size=1))
        error = await refusal(api.rates(page_token=first.next_page_token, base_currency="EUR"))
        assert error.reason == "PAGE_TOKEN_INVALID"
        assert await api.rates(page_token=first.next_page_token) == ["2026-03-02 EUR/USD 1.2"]


class TestGetRates:
    async def test_rates_are_in_the_order_of_conversions(self, api: EntitiesApi, service_api: EntitiesApi) -> None:
        await api.set_rates("2026-03-02 EUR/USD 1.25", "2026-03-03 EUR/GBP 0.8")
        answered = await service_api.convert(
            "2026-03-05 USD/GBP", "2026-03-05 EUR/USD", "2026-03-05 USD/EUR", "2026-03-05 CHF/CHF",
            "2026-03-05 USD/CHF", "2026-03-02 EUR/GBP", "2026-03-05 EUR/USD",
        )  # fmt: skip
        kinds = ConversionRate
        assert [
            (rate.from_currency, rate.to_currency, rate.derivation, rate.rate, rate.rate_date, rate.via_currency)
            for rate in answered
        ] == [
            ("USD", "GBP", kinds.CROSS, "0.64", "2026-03-03", "EUR"),
            ("EUR", "USD", kinds.DIRECT, "1.25", "2026-03-02", ""),
            ("USD", "EUR", kinds.INVERSE, "0.8", "2026-03-02", ""),
            ("CHF", "CHF", kinds.SAME, "1", "2026-03-05", ""),
            ("USD", "CHF", kinds.MISSING, "", "", ""),
            ("EUR", "GBP", kinds.MISSING, "", "", ""),
            ("EUR", "USD", kinds.DIRECT, "1.25", "2026-03-02", ""),
        ]
        assert [rate.conversion_date for rate in answered[4:6]] == ["2026-03-05", "2026-03-02"]

    async def test_rate_is_effective_until_the_next_at_most_35_days(
        self, api: EntitiesApi, service_api: EntitiesApi
    ) -> None:
        await api.set_rates("2026-01-10 EUR/USD 1.1", "2026-01-20 EUR/USD 1.2")
        days = ["2026-01-09", "2026-01-10", "2026-01-19", "2026-01-20", "2026-02-24", "2026-02-25"]
        answered = await service_api.convert(*(f"{day} EUR/USD" for day in days))
        assert [rate.rate for rate in answered] == ["", "1.1", "1.1", "1.2", "1.2", ""]
        assert [rate.rate_date for rate in answered[2:4]] == ["2026-01-10", "2026-01-20"]

    async def test_rate_through_two_currencies_states_them(self, api: EntitiesApi, service_api: EntitiesApi) -> None:
        await api.set_rates("2026-03-02 EUR/JPY 160", "2026-03-03 EUR/USD 1.25", "2026-03-01 USD/PEN 4")
        there, back, missing, other = await service_api.convert(
            "2026-03-05 JPY/PEN", "2026-03-05 PEN/JPY", "2026-03-02 JPY/PEN", "2026-03-05 EUR/JPY"
        )
        assert (there.rate, there.rate_date, list(there.via_currencies)) == ("0.03125", "2026-03-03", ["EUR", "USD"])
        assert (back.rate, back.rate_date, list(back.via_currencies)) == ("32", "2026-03-03", ["USD", "EUR"])
        assert (there.derivation, there.via_currency) == (ConversionRate.CROSS, "EUR")
        assert (missing.derivation, other.derivation) == (ConversionRate.MISSING, ConversionRate.DIRECT)

    async def test_base_currency_of_the_tenant_is_the_preferred_intermediate(
        self, api: EntitiesApi, service_api: EntitiesApi
    ) -> None:
        await api.set_rates(*(f"2026-03-01 {rate}" for rate in ("EUR/CHF 1", "EUR/JPY 2", "SEK/CHF 1", "SEK/JPY 5")))
        (by_euro,) = await service_api.convert("2026-03-05 CHF/JPY")
        await api.create_entity("ROOT", currency_code="SEK")
        await api.create_entity("LATER", currency_code="EUR")
        (by_krona,) = await service_api.convert("2026-03-05 CHF/JPY")
        assert [(each.rate, each.via_currency) for each in (by_euro, by_krona)] == [("2", "EUR"), ("5", "SEK")]

    async def test_everyone_who_reads_rates_sees_how_a_rate_is_derived(
        self, api: EntitiesApi, service_api: EntitiesApi, api_for: Callable[[Caller], EntitiesApi],
        caller: Callable[..., Caller],
    ) -> None:  # fmt: skip
        await api.set_rates("2026-03-02 EUR/JPY 160", "2026-03-03 EUR/USD 1.25", "2026-03-01 USD/PEN 4")
        request = pb.GetConversionRateRequest(from_currency="JPY", to_currency="PEN", conversion_date="2026-03-05")
        viewer = caller("viewer")
        assert [await viewer.call(api.rates_stub.GetConversionRate, request)] == await service_api.convert(
            "2026-03-05 JPY/PEN"
        )
        request.to_currency = "CHF"
        unknown = await viewer.call(api.rates_stub.GetConversionRate, request)
        assert (unknown.derivation, unknown.rate) == (ConversionRate.MISSING, "")

    async def test_inverse_or_cross_rate_replaces_an_outdated_rate(
        self, api: EntitiesApi, service_api: EntitiesApi
    ) -> None:
        await api.set_rates("2026-01-01 EUR/USD 1.1", "2026-02-01 USD/EUR 0.9")
        await api.set_rates("2026-03-01 JPY/EUR 0.01", "2026-03-01 JPY/USD 0.04")
        answered = await service_api.convert(*(f"2026-{day} EUR/USD" for day in ("02-05", "02-06", "03-08", "03-09")))
        assert [ConversionRate.Derivation.Name(rate.derivation) for rate in answered] == [
            "DIRECT", "INVERSE", "INVERSE", "CROSS",
        ]  # fmt: skip
        assert (answered[3].rate, answered[3].via_currency) == ("4", "JPY")

    async def test_batch_returns_the_same_as_single_calls(self, api: EntitiesApi, service_api: EntitiesApi) -> None:
        first = date(2026, 3, 1)
        for n, pair in enumerate(["EUR/USD", "EUR/GBP", "CHF/EUR", "USD/JPY", "GBP/JPY", "USD/CHF"]):
            await api.set_rates(*(f"{first + timedelta(3 * k + n)} {pair} 1.{k}{n}7" for k in range(4)))
        currencies = ("EUR", "USD", "GBP", "CHF", "JPY")
        conversions = [f"{first + timedelta(d)} {a}/{b}" for d in (0, 4, 9, 60) for a in currencies for b in currencies]
        together = await service_api.convert(*conversions)
        alone = [rate for one in conversions for rate in await service_api.convert(one)]
        assert together == alone
        assert {rate.derivation for rate in together} == set(ConversionRate.Derivation.values()) - {0}

    async def test_a_thousand_conversions_take_one_query_and_those_without_a_rate_another(
        self, api: EntitiesApi, service_api: EntitiesApi, entities_served: Served[Entities]
    ) -> None:
        await api.set_rates("2026-03-01 EUR/USD 1.25", "2026-03-01 EUR/GBP 0.8")
        statements: list[str] = []
        engine = entities_served.service.db._engine.sync_engine

        def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
            statements.append(statement)

        event.listen(engine, "before_cursor_execute", note)
        try:
            days = [f"{date(2026, 3, 1) + timedelta(n % 50)} USD/{('GBP', 'EUR')[n % 2]}" for n in range(1000)]
            answered = await service_api.convert(*days)
        finally:
            event.remove(engine, "before_cursor_execute", note)
        assert len(answered) == 1000
        assert [rate.derivation for rate in answered].count(ConversionRate.MISSING) > 0
        assert len([text for text in statements if "exchange_rates" in text]) == 2
        error = await refusal(service_api.convert(*days, "2026-03-01 USD/EUR"))
        assert set(error.fields) == {"conversions"}

    async def test_only_services_can_call(self, api: EntitiesApi) -> None:
        error = await refusal(api.convert("2026-03-01 EUR/USD"))
        assert (error.code, error.metadata) == (StatusCode.PERMISSION_DENIED, {"permission": "service"})


class TestOtherTenant:
    async def test_has_its_own_rates(
        self,
        api: EntitiesApi,
        service_api: EntitiesApi,
        api_for: Callable[[Caller], EntitiesApi],
        caller: Callable[..., Caller],
    ) -> None:
        await api.set_rates("2026-03-01 EUR/USD 1.1")
        other_tenant = api_for(caller("billing_admin", tenant=ids.new()))
        assert await other_tenant.rates() == []
        assert await other_tenant.set_rates("2026-03-01 EUR/USD 9", "2026-03-01 EUR/GBP 9") == counts(created=2)
        assert await api.rates() == ["2026-03-01 EUR/USD 1.1"]
        answered = await service_api.convert("2026-03-01 EUR/USD", "2026-03-01 EUR/GBP")
        assert [rate.rate for rate in answered] == ["1.1", ""]

    async def test_row_level_security_hides_rates_of_other_tenants(
        self, api: EntitiesApi, app_connection: Callable[[str], Any], tenant: UUID
    ) -> None:
        await api.set_rates("2026-03-01 EUR/USD 1.1")
        dates = "select count(*) from exchange_rates"
        async with app_connection("entities") as connection:
            assert await connection.fetchval(dates) == 0
            async with connection.transaction():
                await connection.execute("select set_config('app.tenant_id', $1, true)", str(tenant))
                assert await connection.fetchval(dates) == 1


async def test_lookup_uses_indexes_under_row_level_security(
    api: EntitiesApi, service_api: EntitiesApi, entities_served: Served[Entities], app_connection: Callable[[str], Any],
    admin: "asyncpg.Pool[asyncpg.Record]", tenant: UUID,
) -> None:  # fmt: skip
    """Without the key every lookup would read all rates of the tenant, or those of all pairs in 35 days.

    Among many tenants the planner expects few rates of each, and prefers the index by date if it can use that.
    """
    first = date(2000, 1, 1)
    await admin.execute(
        "insert into entities.exchange_rates"
        " select $1, gen_random_uuid(), 'EUR', c, $2::date + d, 1.5, '', 1, now(), now()"
        " from unnest(array['USD','GBP','CHF','JPY']) c, generate_series(0, 4999) d",
        tenant,
        first,
    )
    await admin.execute(
        "insert into entities.exchange_rates"
        " select gen_random_uuid(), gen_random_uuid(), 'EUR', 'USD', $1::date, 1.5, '', 1, now(), now()"
        " from generate_series(1, 200)",
        first,
    )
    await admin.execute("analyze entities.exchange_rates")
    statements: list[tuple[str, Any]] = []
    engine = entities_served.service.db._engine.sync_engine

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_rest: Any) -> None:
        statements.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", note)
    try:
        await service_api.convert("2010-01-01 USD/GBP")
        await api.set_rates("2010-01-01 USD/GBP 1")
    finally:
        event.remove(engine, "before_cursor_execute", note)
    lookups = [each for each in statements if "exchange_rates" in each[0] and "INSERT" not in each[0]]
    plans: list[str] = []
    async with app_connection("entities") as connection, connection.transaction():
        await connection.execute("select set_config('app.tenant_id', $1, true)", str(tenant))
        for statement, parameters in lookups:
            rows = await connection.fetch(f"explain {statement}", *parameters)
            plans.append("\n".join(row[0] for row in rows))
    conversion, nearest = plans
    for plan in plans:
        assert "Seq Scan" not in plan, plan
        assert "exchange_rates_date_idx" not in plan, plan
    conditions = [line for line in conversion.splitlines() if "Index Cond" in line]
    of_pair = ("base_currency =", "quote_currency =", "effective_date) >=", "effective_date) <=")
    assert any(all(part in text for part in of_pair) for text in conditions), conversion
    assert any("ROW(" in text for text in conditions), conversion
    assert nearest.count("exchange_rates_day_key") == 2, nearest
