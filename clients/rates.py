"""Exchange rates of the entities service, cached until they change."""

from collections.abc import Mapping, Sequence
from datetime import date
from decimal import Decimal
from typing import Final, NamedTuple
from uuid import UUID

from billing.entities.v1.events_pb2 import ExchangeRatesChanged
from billing.entities.v1.exchange_rate_service_pb2 import Conversion, GetRatesRequest
from billing.entities.v1.exchange_rate_service_pb2_grpc import ExchangeRateServiceStub

from eventing.bus import EventBus
from kit.cache import TtlCache
from kit.origin import Origin
from kit.rates import Rate
from serving.clients import ServiceClient

_CACHE_SIZE: Final = 50_000
_CACHE_TTL_S: Final = 300.0
"""Bounds how long a change of rates goes unnoticed if its event is lost."""


class RateQuery(NamedTuple):
    """The rate from a currency to another one that is effective on a day."""

    from_currency: str
    to_currency: str
    on: date


class Rates:
    """Client of the exchange rates; run `evict_changed` as a job, so that changed rates are not used."""

    def __init__(self, entities: ServiceClient, bus: EventBus) -> None:
        self._client = entities
        self._stub = ExchangeRateServiceStub(entities.channel)
        self._bus = bus
        self._cache: TtlCache[tuple[UUID, RateQuery], Rate] = TtlCache(_CACHE_SIZE, _CACHE_TTL_S)
        self._changes = 0

    async def find(self, origin: Origin, queries: Sequence[RateQuery]) -> list[Rate | None]:
        """Return the rate of each query, None where there is none; reads all that are not cached in one call."""
        rates: dict[RateQuery, Rate] = {}
        for query in queries:
            rate = self._cache.get((origin.tenant_id, query))
            if rate is not None:
                rates[query] = rate
        missing = [query for query in dict.fromkeys(queries) if query not in rates]
        if missing:
            rates |= await self._read(origin, missing)
        return [rates.get(query) for query in queries]

    async def _read(self, origin: Origin, queries: Sequence[RateQuery]) -> Mapping[RateQuery, Rate]:
        conversions = [
            Conversion(
                from_currency=query.from_currency, to_currency=query.to_currency, conversion_date=query.on.isoformat()
            )
            for query in queries
        ]
        changes = self._changes
        reply = await self._client.call(self._stub.GetRates, GetRatesRequest(conversions=conversions), origin)
        rates = {
            query: Rate(Decimal(rate.rate), date.fromisoformat(rate.rate_date))
            for query, rate in zip(queries, reply.rates, strict=True)
            if rate.rate
        }
        if changes == self._changes:  # rates that changed during the call may be stale
            for query, rate in rates.items():
                self._cache.set((origin.tenant_id, query), rate)
        return rates

    async def evict_changed(self) -> None:
        """Evict the rates of a tenant from the cache when they change, until cancelled."""
        async for message in self._bus.subscribe(f"{ExchangeRatesChanged.DESCRIPTOR.full_name}.*"):
            self._changes += 1
            self._evict(UUID(message.subject.rpartition(".")[2]))

    def _evict(self, tenant_id: UUID) -> None:
        self._cache.discard_if(lambda key: key[0] == tenant_id)
