"""Exchange rates of the European Central Bank, out of its file into the entities service, over REST like anybody's.

`python -m deploy.rates eurofxref-hist.csv [--since DATE] [--address URL] [--tenant NAME]`. The token is taken from the
variable TOKEN; without it, one of the local stack is made for the tenant. What is there already stays as it is, so a
file can be loaded again at any time, and again after it was cut off.
"""

import argparse
import csv
import datetime as dt
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

import httpx

from kit import money

BASE: Final = "EUR"
SOURCE: Final = "ECB"
_ROUTE: Final = "/api/enterprise-billing/exchange-rates"
_BATCH: Final = 1000
"""Most rates of one request."""
_RATE: Final = re.compile(r"[0-9]+(\.[0-9]+)?")
_MISSING: Final = frozenset({"", "N/A"})


class FileInvalid(ValueError):
    """The file is not in the bank's format; the text says where."""


class Rate(NamedTuple):
    """What one euro costs in a currency from a day on."""

    day: dt.date
    currency: str
    rate: str


class Loaded(NamedTuple):
    """How many rates are new, were replaced, and were there already."""

    created: int
    replaced: int
    unchanged: int


def parse(lines: Iterable[str], *, since: dt.date = dt.date.min) -> Iterator[Rate]:
    """The rates of the file from `since` on, in its order: a line for each day, a column for each currency.

    Currencies that ISO 4217 no longer lists, such as those that the euro replaced, are left out: no money is in them.
    Raises FileInvalid.
    """
    rows = csv.reader(lines)
    head = [cell.strip() for cell in next(rows, [])]
    if head[:1] != ["Date"]:
        raise FileInvalid('line 1: the first column must be "Date", as in eurofxref-hist.csv')
    for row in rows:
        cells = [cell.strip() for cell in row]
        if any(cells):
            yield from _of_day(head, cells, f"line {rows.line_num}", since)


def _of_day(head: Sequence[str], cells: Sequence[str], place: str, since: dt.date) -> Iterator[Rate]:
    if len(cells) != len(head):
        raise FileInvalid(f"{place}: {len(cells)} columns; the first line has {len(head)}")
    try:
        day = dt.date.fromisoformat(cells[0])
    except ValueError:
        raise FileInvalid(f"{place}: {cells[0]!r} is no day as YYYY-MM-DD") from None
    if day < since:
        return
    for currency, rate in zip(head[1:], cells[1:], strict=True):
        if rate in _MISSING or not is_listed(currency):
            continue
        if not _RATE.fullmatch(rate):
            raise FileInvalid(f"{place}, {currency}: {rate!r} is neither a rate nor N/A")
        yield Rate(day, currency, rate)


def is_listed(currency: str) -> bool:
    """Whether there is money in the currency today."""
    return money.exponent(currency) is not None


def load(client: httpx.Client, rates: Iterable[Rate]) -> Loaded:
    """Record the rates, a thousand at a time; raises httpx.HTTPError."""
    totals = Loaded(0, 0, 0)
    remaining = iter(rates)
    while batch := list(islice(remaining, _BATCH)):
        body = {"rates": [_input(rate) for rate in batch]}
        answer = client.put(_ROUTE, json=body)
        if answer.is_error:
            raise httpx.HTTPStatusError(answer.text[:1000], request=answer.request, response=answer)
        said = answer.json()
        totals = Loaded(*(total + said[name] for name, total in totals._asdict().items()))
    return totals


def _input(rate: Rate) -> dict[str, str]:
    return {
        "base_currency": BASE,
        "quote_currency": rate.currency,
        "effective_date": rate.day.isoformat(),
        "rate": rate.rate,
        "source": SOURCE,
    }


def _address() -> str:
    """Where REST is served: by the local stack."""
    from deploy.local.processes import layout

    return f"http://127.0.0.1:{layout(running=True).gateway_port}"


def _token(tenant: str) -> str:
    """What TOKEN says, or one of the local stack."""
    from deploy.local import keys

    return os.environ.get("TOKEN") or keys.token(tenant=tenant, subject="rates", roles=["finance"])


def main() -> int:
    """The command line; gives the exit code."""
    parser = argparse.ArgumentParser(prog="python -m deploy.rates", description=__doc__)
    parser.add_argument("file", type=Path, help="eurofxref-hist.csv, as the bank offers it in a zip file")
    parser.add_argument("--since", type=dt.date.fromisoformat, default=dt.date.min, help="only rates from this day on")
    parser.add_argument("--address", help="where REST is served; usually by the local stack")
    parser.add_argument("--tenant", default="acme", help="for which tenant of the local stack; TOKEN names its own")
    given = parser.parse_args()
    headers = {"Authorization": f"Bearer {_token(given.tenant)}"}
    try:
        with (
            given.file.open(encoding="utf-8-sig", newline="") as lines,
            httpx.Client(base_url=given.address or _address(), headers=headers, timeout=30.0) as client,
        ):
            rates = list(parse(lines, since=given.since))  # all of it, so that of a bad file nothing is loaded
            done = load(client, rates)
    except (OSError, FileInvalid, httpx.HTTPError) as failure:
        print(failure, file=sys.stderr)
        return 1
    print(f"exchange rates: {done.created} created, {done.replaced} replaced, {done.unchanged} there already")
    return 0


if __name__ == "__main__":
    sys.exit(main())
