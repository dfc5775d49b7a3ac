"""Conversion of exchange rates."""

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import date
from decimal import Decimal

from billing.entities.v1 import exchange_rate_service_pb2 as pb
from billing.entities.v1.exchange_rate_pb2 import ConversionRate, ExchangeRate

from contract.values import date_from_text, date_text, decimal_text, time_to_proto
from kit.errors import InvalidFields, Violation
from services.entities.domain.rates import Conversion, Derivation, DerivedRate, RateDraft, RateFilter
from services.entities.models.rates import ExchangeRateRow


def to_proto(row: ExchangeRateRow) -> ExchangeRate:
    """Convert an exchange rate."""
    return ExchangeRate(
        base_currency=row.base_currency,
        quote_currency=row.quote_currency,
        effective_date=row.effective_date.isoformat(),
        rate=decimal_text(row.rate),
        source=row.source,
        create_time=time_to_proto(row.create_time),
        update_time=time_to_proto(row.update_time),
    )


def drafts_from_proto(request: pb.SetExchangeRatesRequest) -> Sequence[RateDraft]:
    """Parse SetExchangeRatesRequest. Raises InvalidFields for unknown currencies and repeated pairs."""
    violations = list(_rate_violations(request))
    if violations:
        raise InvalidFields(violations)
    return [
        RateDraft(
            base_currency=rate.base_currency,
            quote_currency=rate.quote_currency,
            effective_date=date.fromisoformat(rate.effective_date),
            rate=Decimal(rate.rate),
            source=rate.source,
        )
        for rate in request.rates
    ]


def _rate_violations(request: pb.SetExchangeRatesRequest) -> Iterator[Violation]:
    """Yield the violations that proto rules can't express: pairs that occur twice for a day."""
    occurrences = Counter(map(_pair_and_day, request.rates))
    for index, rate in enumerate(request.rates):
        if occurrences[_pair_and_day(rate)] > 1:
            yield Violation(f"rates[{index}]", "has a pair and day that occurs more than once", "rate.once")


def _pair_and_day(rate: pb.ExchangeRateInput) -> tuple[str, str, str]:
    return rate.base_currency, rate.quote_currency, rate.effective_date


def filter_from_proto(request: pb.ListExchangeRatesRequest) -> RateFilter:
    """Return the filters of ListExchangeRatesRequest."""
    return RateFilter(
        base_currency=request.base_currency,
        quote_currency=request.quote_currency,
        start=date_from_text(request.start_date),
        end=date_from_text(request.end_date),
    )


def conversions_from_proto(request: pb.GetRatesRequest) -> Sequence[Conversion]:
    """Parse GetRatesRequest."""
    return [
        Conversion(each.from_currency, each.to_currency, date.fromisoformat(each.conversion_date))
        for each in request.conversions
    ]


def conversion_from_proto(request: pb.GetConversionRateRequest) -> Conversion:
    """Parse GetConversionRateRequest."""
    return Conversion(request.from_currency, request.to_currency, date.fromisoformat(request.conversion_date))


def conversion_to_proto(conversion: Conversion, rate: DerivedRate | None) -> ConversionRate:
    """Convert the rate of a conversion; None becomes the derivation MISSING."""
    derivation = rate.derivation if rate else Derivation.MISSING
    return ConversionRate(
        from_currency=conversion.source,
        to_currency=conversion.target,
        conversion_date=conversion.day.isoformat(),
        derivation=ConversionRate.Derivation.Value(derivation),
        rate=decimal_text(rate.rate) if rate else "",
        rate_date=date_text(rate.effective_date if rate else None),
        via_currency=rate.via[0] if rate and rate.via else "",
        via_currencies=rate.via if rate else (),
    )
