"""Use cases of exchange rates."""

from collections.abc import Collection, Sequence

from eventing import outbox
from kit.db import ReadSession, WriteSession
from services.entities import domain, events, store
from services.entities.domain.rates import Conversion, DerivedRate, RateCounts, RateDraft
from services.entities.errors.rates import RatesOutOfScope


async def record(tx: WriteSession, drafts: Collection[RateDraft]) -> RateCounts:
    """Store rates, replacing those of the same pair and day; publish ExchangeRatesChanged if that changed any.

    `drafts` has each pair and day at most once. Raises RatesOutOfScope if the caller is confined to a scope.
    """
    if tx.scope is not None:
        raise RatesOutOfScope
    changed = await store.rates.upsert(tx, drafts)
    if changed:
        outbox.append(tx, events.published.exchange_rates_changed(changed))
    created = sum(row.version == 1 for row in changed)
    return RateCounts(created, len(changed) - created, len(drafts) - len(changed))


async def find(tx: ReadSession, conversions: Sequence[Conversion]) -> Sequence[DerivedRate | None]:
    """Return the rate of each conversion, in their order; None if there is none."""
    quotes = await store.rates.find_quotes(tx, set(conversions))
    return [domain.rates.derive(conversion, quotes.get(conversion.day, {})) for conversion in conversions]
