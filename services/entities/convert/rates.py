"""Exchange rates."""

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import date
from decimal import Decimal

from billing.entities.v1 import exchange_rate_service_pb2
from billing.entities.v1.exchange_rate_pb2 import ConversionRate, ExchangeRate

from contract.values import time_to_proto
from kit import money
from kit.errors import InvalidFields, Violation
from services.entities import convert
from services.entities.domain.rates import Derivation, DerivedRate, RateDraft
from services.entities.models.rates import ExchangeRateRow
from services.entities.service.rates import Conversion


def to_proto(row: ExchangeRateRow) -> ExchangeRate:
    """An exchange rate."""
    return ExchangeRate(
        base_currency=row.base_currency,
        quote_currency=row.quote_currency,
        effective_date=row.effective_date.isoformat(),
        rate=convert.numbers.decimal_text(row.rate),
        source=row.source,
        create_time=time_to_proto(row.create_time),
        update_time=time_to_proto(row.update_time),
    )


def drafts_from_proto(request: exchange_rate_service_pb2.SetExchangeRatesRequest) -> Sequence[RateDraft]:
    """The rates that SetExchangeRates asks for; raises InvalidFields."""
    violations = list(_rate_violations(request))
    if violations:
        raise InvalidFields(violations)
    return [
        RateDraft(
            base_currency=given.base_currency,
            quote_currency=given.quote_currency,
            effective_date=date.fromisoformat(given.effective_date),
            rate=Decimal(given.rate),
            source=given.source,
        )
        for given in request.rates
    ]


def _rate_violations(request: exchange_rate_service_pb2.SetExchangeRatesRequest) -> Iterator[Violation]:
    """What the rules of the proto can't tell: whether the currencies exist, and each pair and day is there once."""
    times = Counter(map(_pair_and_day, request.rates))
    for place, given in enumerate(request.rates):
        for field in ("base_currency", "quote_currency"):
            code: str = getattr(given, field)
            if money.exponent(code) is None:
                text = f"must be an ISO 4217 currency code such as EUR, not {code!r}"
                yield Violation(f"rates[{place}].{field}", text, "known.currency_code")
        if times[_pair_and_day(given)] > 1:
            yield Violation(f"rates[{place}]", "stands for a pair and day that is there more than once", "rate.once")


def _pair_and_day(given: exchange_rate_service_pb2.ExchangeRateInput) -> tuple[str, str, str]:
    return given.base_currency, given.quote_currency, given.effective_date


def conversions_from_proto(request: exchange_rate_service_pb2.GetRatesRequest) -> Sequence[Conversion]:
    """What GetRates asks for."""
    return [
        Conversion(wanted.from_currency, wanted.to_currency, date.fromisoformat(wanted.conversion_date))
        for wanted in request.conversions
    ]


def conversion_to_proto(wanted: Conversion, found: DerivedRate | None) -> ConversionRate:
    """The rate that was found for a conversion, or that there is none."""
    derivation = found.derivation if found else Derivation.MISSING
    return ConversionRate(
        from_currency=wanted.source,
        to_currency=wanted.target,
        conversion_date=wanted.day.isoformat(),
        derivation=ConversionRate.Derivation.Value(derivation),
        rate=convert.numbers.decimal_text(found.rate) if found else "",
        rate_date=found.effective_date.isoformat() if found else "",
        via_currency=found.via if found else "",
    )
