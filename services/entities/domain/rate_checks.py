"""Plausibility of new exchange rates: against the last rate of the pair, and against the rate of the opposite pair."""

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from typing import Final, Self

from kit.rates import RATE_AGE_DAYS_MAX
from services.entities.domain.rates import Pair, Quote, RateDraft
from services.entities.errors.rates import RateChangeTooLarge, RatesContradict

CHANGE_MAX: Final = 10
"""A rate that is more than this many times the last one, or less than that part of it, must be confirmed."""
TOLERANCE_PERCENT: Final = 5
"""How far the product of a rate and the rate of the opposite pair of the same date may be from 1: a usual spread."""
TOLERANCE_PERCENT_BETWEEN_DAYS: Final = 10
"""The same if their dates differ, so that moves of the market since the older rate are accepted."""


@dataclass(frozen=True, slots=True)
class Timeline:
    """Rates of a pair by day."""

    days: Sequence[date]
    rates: Mapping[date, Decimal]

    @classmethod
    def of(cls, quotes: Iterable[Quote]) -> Self:
        """Return the timeline of quotes; of several quotes of a day the last one counts."""
        rates = {quote.effective_date: quote.rate for quote in quotes}
        return cls(sorted(rates), rates)

    def before(self, day: date) -> Quote | None:
        """Return the last rate before `day`."""
        position = bisect_left(self.days, day)
        return self._at(position - 1) if position else None

    def after(self, day: date) -> Quote | None:
        """Return the first rate after `day`."""
        position = bisect_right(self.days, day)
        return self._at(position) if position < len(self.days) else None

    def in_force(self, day: date) -> Quote | None:
        """Return the rate that is effective on `day`."""
        last = self.before(day + timedelta(days=1))
        return last if last and last.effective_date >= day - timedelta(days=RATE_AGE_DAYS_MAX) else None

    def _at(self, position: int) -> Quote:
        day = self.days[position]
        return Quote(self.rates[day], day)


_EMPTY: Final = Timeline((), {})


def check(drafts: Sequence[RateDraft], stored: Mapping[Pair, Sequence[Quote]], *, confirmed: bool) -> None:
    """Raise RateChangeTooLarge, unless `confirmed`, or RatesContradict for the first draft that is implausible.

    `stored` has, for each draft and its opposite pair, the rate of its day and the nearest before and after. A draft
    that is already stored is not checked, so that a request can be repeated.
    """
    new: dict[Pair, list[Quote]] = {}
    for draft in drafts:
        new.setdefault(draft.pair, []).append(Quote(draft.rate, draft.effective_date))
    before = {pair: Timeline.of(quotes) for pair, quotes in stored.items()}
    after = {pair: Timeline.of([*stored.get(pair, ()), *new.get(pair, ())]) for pair in {*stored, *new}}
    new_days = {pair: {quote.effective_date for quote in quotes} for pair, quotes in new.items()}
    for draft in drafts:
        replaced = before.get(draft.pair, _EMPTY).rates.get(draft.effective_date)
        if replaced == draft.rate:
            continue
        own, opposite = after[draft.pair], after.get(draft.opposite_pair, _EMPTY)
        last = _last(draft, own, replaced, new_days[draft.pair])
        if last and not confirmed and _is_large(draft.rate, last.rate):
            raise RateChangeTooLarge(draft.pair, draft, last, CHANGE_MAX)
        for rate, inverse in _in_force_together(draft.effective_date, own, opposite):
            tolerance = _tolerance(rate, inverse)
            if abs(rate.rate * inverse.rate - 1) * 100 > tolerance:
                raise RatesContradict(draft.pair, rate, inverse, tolerance)


def _last(draft: RateDraft, own: Timeline, replaced: Decimal | None, new_days: Collection[date]) -> Quote | None:
    """Return the rate that a draft is compared with: that of the last day before, else the replaced one, else the next.

    A next rate that is new as well is left out, since it is compared with this one. None if there is no such rate.
    """
    earlier, later = own.before(draft.effective_date), own.after(draft.effective_date)
    if earlier:
        return earlier
    if replaced:
        return Quote(replaced, draft.effective_date)
    return later if later and later.effective_date not in new_days else None


def _is_large(rate: Decimal, last: Decimal) -> bool:
    return rate > CHANGE_MAX * last or last > CHANGE_MAX * rate


def _in_force_together(day: date, own: Timeline, opposite: Timeline) -> Iterator[tuple[Quote, Quote]]:
    """Yield the rates of both directions on `day`, and on the next day with another rate of the opposite pair."""
    later = opposite.after(day)
    for each in (day, *([later.effective_date] if later else [])):
        rate, inverse = own.in_force(each), opposite.in_force(each)
        if rate and inverse and rate.effective_date == day:
            yield rate, inverse


def _tolerance(rate: Quote, inverse: Quote) -> int:
    return TOLERANCE_PERCENT if rate.effective_date == inverse.effective_date else TOLERANCE_PERCENT_BETWEEN_DAYS
