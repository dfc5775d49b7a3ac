"""The gRPC side of exchange rates."""

from dataclasses import asdict

from billing.entities.v1 import exchange_rate_service_pb2 as rates_pb

from contract.values import date_from_text
from kit.db import Database
from kit.origin import Call
from services.entities import convert, service, store
from serving.pages import Pages


class ExchangeRateServicer:
    """billing.entities.v1.ExchangeRateService."""

    service = rates_pb.DESCRIPTOR.services_by_name["ExchangeRateService"]

    def __init__(self, db: Database, pages: Pages) -> None:
        self._db = db
        self._pages = pages

    async def SetExchangeRates(
        self, request: rates_pb.SetExchangeRatesRequest, call: Call
    ) -> rates_pb.SetExchangeRatesResponse:
        drafts = convert.rates.drafts_from_proto(request)
        async with self._db.write(call) as tx:
            done = await service.rates.record(tx, drafts)
            return await tx.answer(rates_pb.SetExchangeRatesResponse(**asdict(done)))

    async def ListExchangeRates(
        self, request: rates_pb.ListExchangeRatesRequest, call: Call
    ) -> rates_pb.ListExchangeRatesResponse:
        page = self._pages.read(request, call)
        async with self._db.read(call) as tx:
            found = await store.rates.list_page(
                tx,
                page,
                base_currency=request.base_currency,
                quote_currency=request.quote_currency,
                start=date_from_text(request.start_date),
                end=date_from_text(request.end_date),
            )
        rates = map(convert.rates.to_proto, found.rows)
        return rates_pb.ListExchangeRatesResponse(exchange_rates=rates, next_page_token=found.next_page_token)

    async def GetRates(self, request: rates_pb.GetRatesRequest, call: Call) -> rates_pb.GetRatesResponse:
        conversions = convert.rates.conversions_from_proto(request)
        async with self._db.read(call) as tx:
            found = await service.rates.find(tx, conversions)
        return rates_pb.GetRatesResponse(rates=map(convert.rates.conversion_to_proto, conversions, found))
