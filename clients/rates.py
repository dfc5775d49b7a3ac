"""Exchange rates, as the entities service has them; remembered until they change."""

import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from typing import Final, Generic, TypeVar
from uuid import UUID

from billing.entities.v1.events_pb2 import ExchangeRatesChanged
from billing.entities.v1.exchange_rate_service_pb2 import Conversion, GetRatesRequest
from billing.entities.v1.exchange_rate_service_pb2_grpc import ExchangeRateServiceStub

from eventing.bus import Bus
from kit.origin import Origin
from serving.clients import ServiceClient

_REMEMBERED_S: Final = 300.0
"""Rates are forgotten when they change; this is for the change that was not heard of."""
_REMEMBERED_MAX: Final = 50_000

RateT = TypeVar("RateT")

Asked = tuple[str, str, date]
"""From a currency to a currency on a day."""


class Rates(Generic[RateT]):
    """Exchange rates; remembered until they change."""

    def __init__(self, entities: ServiceClient, bus: Bus, make: Callable[[Decimal, date], RateT]) -> None:
        """`make` makes what the service calls a rate, of what one unit costs and the day from which it does."""
        self._peer = entities
        self._stub = ExchangeRateServiceStub(entities.channel)
        self._bus = bus
        self._make = make
        self._known: OrderedDict[tuple[UUID, Asked], tuple[float, RateT]] = OrderedDict()
        self._changes = 0

    async def find(self, origin: Origin, asked: list[Asked]) -> list[RateT | None]:
        """The rate of each that is asked for, None where there is none; all that are not known in one call."""
        now = time.monotonic()
        known: dict[Asked, RateT] = {}
        for one in asked:
            until, rate = self._known.get((origin.tenant_id, one), (0.0, None))
            if rate is not None and until > now:
                known[one] = rate
        missing = [one for one in dict.fromkeys(asked) if one not in known]
        if missing:
            known |= await self._ask(origin, missing)
        return [known.get(one) for one in asked]

    async def _ask(self, origin: Origin, asked: list[Asked]) -> dict[Asked, RateT]:
        wanted = [
            Conversion(from_currency=given, to_currency=to, conversion_date=on.isoformat()) for given, to, on in asked
        ]
        changes = self._changes
        reply = await self._peer.call(self._stub.GetRates, GetRatesRequest(conversions=wanted), origin)
        found = {
            one: self._make(Decimal(rate.rate), date.fromisoformat(rate.rate_date))
            for one, rate in zip(asked, reply.rates, strict=True)
            if rate.rate
        }
        for one, rate in found.items() if changes == self._changes else ():  # what changed meanwhile is not remembered
            self._known[origin.tenant_id, one] = time.monotonic() + _REMEMBERED_S, rate
            while len(self._known) > _REMEMBERED_MAX:
                self._known.popitem(last=False)
        return found

    async def evict_changed(self) -> None:
        """Forget the rates of a tenant whenever they change, until cancelled."""
        async for message in self._bus.listen(f"{ExchangeRatesChanged.DESCRIPTOR.full_name}.*"):
            self._changes += 1
            tenant_id = UUID(message.subject.rpartition(".")[2])
            for key in [key for key in self._known if key[0] == tenant_id]:
                del self._known[key]
