"""Use cases of exchange rates."""

from collections.abc import Sequence

from eventing import outbox
from kit.db import ReadSession, WriteSession
from services.entities import domain, events, store
from services.entities.domain.rates import Conversion, DerivedRate, RateCounts, RateDraft


async def record(tx: WriteSession, drafts: Sequence[RateDraft], *, confirmed: bool = False) -> RateCounts:
    """Store rates, replacing those of the same pair and day; publish ExchangeRatesChanged if that changed any.

    `drafts` has each pair and day at most once; `confirmed` accepts large changes. Raises RateChangeTooLarge,
    RatesContradict.
    """
    await store.rates.lock(tx)
    domain.rate_checks.check(drafts, await store.rates.find_nearest(tx, drafts), confirmed=confirmed)
    changed = await store.rates.upsert(tx, drafts)
    if changed:
        outbox.append(tx, events.published.exchange_rates_changed(changed))
    created = sum(row.version == 1 for row in changed)
    return RateCounts(created, len(changed) - created, len(drafts) - len(changed))


async def find(tx: ReadSession, conversions: Sequence[Conversion]) -> Sequence[DerivedRate | None]:
    """Return the rate of each conversion, in their order; None if there is none."""
    foreign = {conversion for conversion in conversions if conversion.source != conversion.target}
    base = await store.entities.find_base_currency(tx) if foreign else ""
    quotes = await store.rates.find_quotes(tx, foreign) if foreign else {}
    rates = {each: domain.rates.derive(each, quotes.get(each.day, {}), base) for each in conversions}
    missing = [conversion for conversion, rate in rates.items() if rate is None]
    if missing:  # rare, so that other conversions don't pay for the quotes of all pairs
        quotes = await store.rates.find_all_quotes(tx, {conversion.day for conversion in missing})
        for each in missing:
            rates[each] = domain.rates.derive_through_two(each, quotes.get(each.day, {}), base)
    return [rates[conversion] for conversion in conversions]
