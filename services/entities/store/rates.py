"""Exchange rates."""

from collections.abc import Collection, Mapping, Sequence
from datetime import date
from typing import Final

from sqlalchemy import (
    ARRAY,
    CHAR,
    Date,
    DateTime,
    Integer,
    Numeric,
    String,
    Uuid,
    bindparam,
    literal,
    or_,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import insert

from kit import clock, ids
from kit.db import ReadSession, WriteSession
from services.entities import store
from services.entities.domain.rates import RATE_AGE_DAYS_MAX, Pair, Quote, RateDraft
from services.entities.models.rates import ExchangeRateRow
from serving.pages import Page, Slice


async def upsert(tx: WriteSession, drafts: Collection[RateDraft]) -> Sequence[ExchangeRateRow]:
    """Write the rates, and give the rows that are new or have another rate or source than before."""
    # In one order whoever writes, so that no two wait for each other.
    ordered = sorted(drafts, key=lambda draft: (draft.base_currency, draft.quote_currency, draft.effective_date))
    given = store.unnested.unnested(
        id=(Uuid, [ids.new() for _ in ordered]),
        base_currency=(CHAR(3), [draft.base_currency for draft in ordered]),
        quote_currency=(CHAR(3), [draft.quote_currency for draft in ordered]),
        effective_date=(Date, [draft.effective_date for draft in ordered]),
        rate=(Numeric(24, 12), [draft.rate for draft in ordered]),
        source=(String, [draft.source for draft in ordered]),
    )
    moment = literal(clock.now(), DateTime(timezone=True))
    columns = {
        "tenant_id": literal(tx.tenant_id), **given.columns, "version": literal(1), "create_time": moment,
        "update_time": moment,
    }  # fmt: skip
    recorded = insert(ExchangeRateRow).from_select(list(columns), select(*columns.values()))
    new = recorded.excluded
    recorded = recorded.on_conflict_do_update(
        constraint="exchange_rates_day_key",
        set_={
            "rate": new.rate,
            "source": new.source,
            "version": ExchangeRateRow.version + 1,
            "update_time": new.update_time,
        },
        where=or_(ExchangeRateRow.rate != new.rate, ExchangeRateRow.source != new.source),
    )
    return await tx.returning(recorded.returning(ExchangeRateRow))


async def list_page(
    tx: ReadSession, page: Page, *, base_currency: str, quote_currency: str, start: date | None, end: date | None
) -> Slice[ExchangeRateRow]:
    """One page of the rates that fit all filters given, oldest record first; `end` is the day after the last one."""
    wanted = select(ExchangeRateRow)
    if base_currency:
        wanted = wanted.where(ExchangeRateRow.base_currency == base_currency)
    if quote_currency:
        wanted = wanted.where(ExchangeRateRow.quote_currency == quote_currency)
    if start is not None:
        wanted = wanted.where(ExchangeRateRow.effective_date >= start)
    if end is not None:
        wanted = wanted.where(ExchangeRateRow.effective_date < end)
    return page.slice(await tx.all(page.narrow(wanted, ExchangeRateRow.id)))


_QUOTES: Final = (
    text("""
    with recursive wanted as (
        select * from unnest(:sources, :targets, :days) as each(source, target, day)
    ), pairs as (  -- by leaping from one to the next through the key: a pair has thousands of days
        (select base_currency, quote_currency from exchange_rates order by 1, 2 limit 1)
        union all
        select next.* from pairs cross join lateral (
            select each.base_currency, each.quote_currency from exchange_rates each
            where (each.base_currency, each.quote_currency) > (pairs.base_currency, pairs.quote_currency)
            order by 1, 2 limit 1
        ) next
    ), legs as (
        select base_currency as source, quote_currency as target, * from pairs
        union all select quote_currency, base_currency, * from pairs
    ), needed as (  -- the pair itself and its inverse, and both legs of every way over one currency
        select day, base_currency, quote_currency from wanted join legs using (source, target)
        union
        select day, unnest(array[first.base_currency, second.base_currency]),
            unnest(array[first.quote_currency, second.quote_currency])
        from wanted join legs first using (source) join legs second on second.source = first.target
        where second.target = wanted.target
    )
    select needed.day, needed.base_currency, needed.quote_currency, quote.effective_date, quote.rate
    from needed cross join lateral (
        select effective_date, rate from exchange_rates each
        where each.base_currency = needed.base_currency and each.quote_currency = needed.quote_currency
        and each.effective_date between needed.day - :days_max and needed.day
        order by each.effective_date desc limit 1
    ) quote""")
    .bindparams(
        bindparam("sources", type_=ARRAY(CHAR(3))),
        bindparam("targets", type_=ARRAY(CHAR(3))),
        bindparam("days", type_=ARRAY(Date)),
        bindparam("days_max", RATE_AGE_DAYS_MAX, Integer),
    )
    .columns(day=Date, base_currency=CHAR(3), quote_currency=CHAR(3), effective_date=Date, rate=Numeric(24, 12))
    .subquery("quotes")
)
"""Every rate that can matter for conversions; as text, since what it reads and in which order is all there is to it."""


async def find_quotes(
    tx: ReadSession, conversions: Collection[tuple[str, str, date]]
) -> Mapping[date, Mapping[Pair, Quote]]:
    """What is effective on the days of the conversions between their currencies, or over one more; by day."""
    given = {
        "sources": [source for source, _, _ in conversions],
        "targets": [target for _, target, _ in conversions],
        "days": [day for _, _, day in conversions],
    }
    quotes: dict[date, dict[Pair, Quote]] = {}
    for day, base, quote, effective_date, rate in await tx.rows(select(*_QUOTES.columns).params(given)):
        quotes.setdefault(day, {})[base, quote] = Quote(rate, effective_date)
    return quotes
