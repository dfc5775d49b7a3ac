"""SQL for exchange rates."""

from collections.abc import Collection, Mapping, Sequence
from datetime import date
from typing import Any, Final

from sqlalchemy import (
    ARRAY,
    CHAR,
    Date,
    DateTime,
    Integer,
    Numeric,
    String,
    Subquery,
    Uuid,
    bindparam,
    literal,
    or_,
    select,
    text,
    true,
    tuple_,
    union_all,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.types import TypeEngine

from kit import clock, ids
from kit.db import ReadSession, WriteSession
from kit.rates import RATE_AGE_DAYS_MAX
from services.entities import store
from services.entities.domain.rates import Conversion, Pair, Quote, RateDraft, RateFilter
from services.entities.models.rates import ExchangeRateRow
from serving.pages import Page, Slice


async def lock(tx: WriteSession) -> None:
    """Lock the rates of the tenant until the transaction ends, so that rates are checked against each other."""
    await tx.lock("exchange rates")


async def find_nearest(tx: WriteSession, drafts: Collection[RateDraft]) -> Mapping[Pair, Sequence[Quote]]:
    """Return the stored rates nearest to each draft, of its pair and of the opposite one: of the day, before, after."""
    keys = {(pair, draft.effective_date) for draft in drafts for pair in (draft.pair, draft.opposite_pair)}
    wanted = store.bulk.rows_as_table(
        base_currency=(CHAR(3), [pair[0] for pair, _ in keys]),
        quote_currency=(CHAR(3), [pair[1] for pair, _ in keys]),
        effective_date=(Date, [day for _, day in keys]),
    )
    own = select(ExchangeRateRow.effective_date, ExchangeRateRow.rate).where(
        ExchangeRateRow.base_currency == wanted.c.base_currency,
        ExchangeRateRow.quote_currency == wanted.c.quote_currency,
    )
    day = ExchangeRateRow.effective_date
    # Days as ranges of rows, so that only the key can be used, not the index by date.
    row, wanted_row = (
        tuple_(ExchangeRateRow.quote_currency, day),
        tuple_(wanted.c.quote_currency, wanted.c.effective_date),
    )
    nearest = union_all(
        own.where(row <= wanted_row).order_by(day.desc()).limit(2),  # of the day and before
        own.where(row > wanted_row).order_by(day).limit(1),
    ).lateral("nearest")
    query = select(wanted.c.base_currency, wanted.c.quote_currency, nearest.c.effective_date, nearest.c.rate)
    quotes: dict[Pair, list[Quote]] = {}
    for base, quote, effective_date, rate in await tx.rows(query.select_from(wanted.join(nearest, true())).distinct()):
        quotes.setdefault((base, quote), []).append(Quote(rate, effective_date))
    return quotes


async def upsert(tx: WriteSession, drafts: Collection[RateDraft]) -> Sequence[ExchangeRateRow]:
    """Insert or update the rates; return the rows that are new or have another rate or source than before."""
    # Always in the same order, so that concurrent calls don't deadlock.
    ordered = sorted(drafts, key=lambda draft: (draft.base_currency, draft.quote_currency, draft.effective_date))
    rows = store.bulk.rows_as_table(
        id=(Uuid, [ids.new() for _ in ordered]),
        base_currency=(CHAR(3), [draft.base_currency for draft in ordered]),
        quote_currency=(CHAR(3), [draft.quote_currency for draft in ordered]),
        effective_date=(Date, [draft.effective_date for draft in ordered]),
        rate=(Numeric(24, 12), [draft.rate for draft in ordered]),
        source=(String, [draft.source for draft in ordered]),
    )
    now = literal(clock.now(), DateTime(timezone=True))
    columns = {
        "tenant_id": literal(tx.tenant_id), **rows.columns, "version": literal(1), "create_time": now,
        "update_time": now,
    }  # fmt: skip
    statement = insert(ExchangeRateRow).from_select(list(columns), select(*columns.values()))
    new = statement.excluded
    statement = statement.on_conflict_do_update(
        constraint="exchange_rates_day_key",
        set_={
            "rate": new.rate,
            "source": new.source,
            "version": ExchangeRateRow.version + 1,
            "update_time": new.update_time,
        },
        where=or_(ExchangeRateRow.rate != new.rate, ExchangeRateRow.source != new.source),
    )
    return await tx.returning(statement.returning(ExchangeRateRow))


async def list_page(tx: ReadSession, page: Page, filters: RateFilter) -> Slice[ExchangeRateRow]:
    """Return one page of the rates that match all filters, in the order in which they were first recorded."""
    query = select(ExchangeRateRow)
    if filters.base_currency:
        query = query.where(ExchangeRateRow.base_currency == filters.base_currency)
    if filters.quote_currency:
        query = query.where(ExchangeRateRow.quote_currency == filters.quote_currency)
    if filters.start is not None:
        query = query.where(ExchangeRateRow.effective_date >= filters.start)
    if filters.end is not None:
        query = query.where(ExchangeRateRow.effective_date < filters.end)
    return await page.fetch(tx, query, ExchangeRateRow.id)


_PAIRS: Final = """pairs as (  -- skip scan over the key, since a pair has thousands of days
        (select base_currency, quote_currency from exchange_rates order by 1, 2 limit 1)
        union all
        select next.* from pairs cross join lateral (
            select each.base_currency, each.quote_currency from exchange_rates each
            where (each.base_currency, each.quote_currency) > (pairs.base_currency, pairs.quote_currency)
            order by 1, 2 limit 1
        ) next
    )"""
_EFFECTIVE_QUOTES: Final = """
    select needed.day, needed.base_currency, needed.quote_currency, quote.effective_date, quote.rate
    from needed cross join lateral (  -- days as ranges of rows, so that only the key can be used, not the index by date
        select effective_date, rate from exchange_rates each
        where each.base_currency = needed.base_currency and each.quote_currency = needed.quote_currency
        and (each.quote_currency, each.effective_date) >= (needed.quote_currency, needed.day - :days_max)
        and (each.quote_currency, each.effective_date) <= (needed.quote_currency, needed.day)
        order by each.effective_date desc limit 1
    ) quote"""


def _quotes(needed: str, **parameters: TypeEngine[Any]) -> Subquery:
    """Select the rates that are effective for the days and pairs of the common table expression `needed`."""
    statement = text(f"with recursive {needed} {_EFFECTIVE_QUOTES}")
    types = [bindparam(name, type_=type_) for name, type_ in parameters.items()]
    return (
        statement.bindparams(*types, bindparam("days_max", RATE_AGE_DAYS_MAX, Integer))
        .columns(day=Date, base_currency=CHAR(3), quote_currency=CHAR(3), effective_date=Date, rate=Numeric(24, 12))
        .subquery("quotes")
    )


_QUOTES: Final = _quotes(
    f"""conversions as (
        select * from unnest(:sources, :targets, :days) as each(source, target, day)
    ), {_PAIRS}, legs as (
        select base_currency as source, quote_currency as target, * from pairs
        union all select quote_currency, base_currency, * from pairs
    ), needed as (  -- the pair, its inverse, and both legs of every cross rate
        select day, base_currency, quote_currency from conversions join legs using (source, target)
        union
        select day, unnest(array[first.base_currency, second.base_currency]),
            unnest(array[first.quote_currency, second.quote_currency])
        from conversions join legs first using (source) join legs second on second.source = first.target
        where second.target = conversions.target
    )""",
    sources=ARRAY(CHAR(3)),
    targets=ARRAY(CHAR(3)),
    days=ARRAY(Date),
)
"""The rates that conversions can be derived from, directly or through one currency.

As text, since its performance depends on the exact plan.
"""
_ALL_QUOTES: Final = _quotes(
    f"{_PAIRS}, needed as (select day, pairs.* from unnest(:days) as each(day) cross join pairs)", days=ARRAY(Date)
)
"""The rates of all pairs."""


async def find_quotes(tx: ReadSession, conversions: Collection[Conversion]) -> Mapping[date, Mapping[Pair, Quote]]:
    """Return, by day, the quotes that the conversions can be derived from, directly or through one more currency."""
    parameters = {
        "sources": [conversion.source for conversion in conversions],
        "targets": [conversion.target for conversion in conversions],
        "days": [conversion.day for conversion in conversions],
    }
    return await _read_quotes(tx, _QUOTES, parameters)


async def find_all_quotes(tx: ReadSession, days: Collection[date]) -> Mapping[date, Mapping[Pair, Quote]]:
    """Return, by day, the quotes of all pairs."""
    return await _read_quotes(tx, _ALL_QUOTES, {"days": list(days)})


async def _read_quotes(
    tx: ReadSession, statement: Subquery, parameters: Mapping[str, object]
) -> Mapping[date, Mapping[Pair, Quote]]:
    quotes: dict[date, dict[Pair, Quote]] = {}
    for day, base, quote, effective_date, rate in await tx.rows(select(*statement.columns).params(parameters)):
        quotes.setdefault(day, {})[base, quote] = Quote(rate, effective_date)
    return quotes
