"""ExchangeRateService."""

from dataclasses import asdict

from billing.entities.v1 import exchange_rate_service_pb2 as pb
from billing.entities.v1.exchange_rate_pb2 import ConversionRate

from kit.db import Database
from kit.origin import Call
from services.entities import convert, service, store
from serving.pages import Pages


class ExchangeRateServicer:
    """billing.entities.v1.ExchangeRateService."""

    service = pb.DESCRIPTOR.services_by_name["ExchangeRateService"]

    def __init__(self, db: Database, pages: Pages) -> None:
        self._db = db
        self._pages = pages

    async def SetExchangeRates(self, request: pb.SetExchangeRatesRequest, call: Call) -> pb.SetExchangeRatesResponse:
        drafts = convert.rates.drafts_from_proto(request)
        async with self._db.write(call) as tx:
            counts = await service.rates.record(tx, drafts, confirmed=request.confirm_large_change)
            return await tx.answer(pb.SetExchangeRatesResponse(**asdict(counts)))

    async def ListExchangeRates(self, request: pb.ListExchangeRatesRequest, call: Call) -> pb.ListExchangeRatesResponse:
        page, filters = self._pages.read(request, call), convert.rates.filter_from_proto(request)
        async with self._db.read(call) as tx:
            listed = await store.rates.list_page(tx, page, filters)
        rates = map(convert.rates.to_proto, listed.rows)
        return pb.ListExchangeRatesResponse(exchange_rates=rates, next_page_token=listed.next_page_token)

    async def GetConversionRate(self, request: pb.GetConversionRateRequest, call: Call) -> ConversionRate:
        conversion = convert.rates.conversion_from_proto(request)
        async with self._db.read(call) as tx:
            (rate,) = await service.rates.find(tx, [conversion])
        return convert.rates.conversion_to_proto(conversion, rate)

    async def GetRates(self, request: pb.GetRatesRequest, call: Call) -> pb.GetRatesResponse:
        conversions = convert.rates.conversions_from_proto(request)
        async with self._db.read(call) as tx:
            rates = await service.rates.find(tx, conversions)
        return pb.GetRatesResponse(rates=map(convert.rates.conversion_to_proto, conversions, rates))
