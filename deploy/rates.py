"""Load exchange rates of the European Central Bank from its CSV file into the entities service, over REST.

`python -m deploy.rates eurofxref-hist.csv [--since DATE] [--confirm-large-change] [--address URL] [--tenant NAME]`. The
token is read from the variable TOKEN; without it, a token of the local stack is created for the tenant. Equal rates are
left unchanged, so a file can be loaded again at any time, also after an interruption.
"""

import argparse
import csv
import datetime as dt
import io
import os
import re
import sys
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

import httpx

from kit import money

BASE: Final = "EUR"
SOURCE: Final = "ECB"
_ROUTE: Final = "/api/enterprise-billing/exchange-rates"
_BATCH: Final = 1000
"""Maximum number of rates in a request."""
_RATE: Final = re.compile(r"[0-9]+(\.[0-9]+)?")
_MISSING: Final = frozenset({"", "N/A"})


class FileInvalid(ValueError):
    """The file is not in the format of the bank; the message names the line."""


class Rate(NamedTuple):
    """Price of one euro in a currency, effective from a day on."""

    day: dt.date
    currency: str
    rate: str


class LoadResult(NamedTuple):
    """Number of rates that were created, replaced and unchanged."""

    created: int
    replaced: int
    unchanged: int


def parse(lines: Iterable[str], *, since: dt.date = dt.date.min) -> Iterator[Rate]:
    """Parse the rates from `since` on: a line for each day, a column for each currency.

    Skips currencies that ISO 4217 no longer lists, such as those that the euro replaced. Raises FileInvalid.
    """
    rows = csv.reader(lines)
    head = [cell.strip() for cell in next(rows, [])]
    if head[:1] != ["Date"]:
        raise FileInvalid('line 1: the first column must be "Date", as in eurofxref-hist.csv')
    for row in rows:
        cells = [cell.strip() for cell in row]
        if any(cells):
            yield from _parse_day(head, cells, f"line {rows.line_num}", since)


def _parse_day(head: Sequence[str], cells: Sequence[str], place: str, since: dt.date) -> Iterator[Rate]:
    if len(cells) != len(head):
        raise FileInvalid(f"{place}: {len(cells)} columns; the first line has {len(head)}")
    try:
        day = dt.date.fromisoformat(cells[0])
    except ValueError:
        raise FileInvalid(f"{place}: {cells[0]!r} is not a date (YYYY-MM-DD)") from None
    if day < since:
        return
    for currency, rate in zip(head[1:], cells[1:], strict=True):
        if rate in _MISSING or not is_listed(currency):
            continue
        if not _RATE.fullmatch(rate):
            raise FileInvalid(f"{place}, {currency}: {rate!r} is neither a rate nor N/A")
        yield Rate(day, currency, rate)


def is_listed(currency: str) -> bool:
    """True if ISO 4217 lists the currency today."""
    return money.exponent(currency) is not None


@contextmanager
def open_file(path: Path) -> Iterator[Iterable[str]]:
    """Open the file of the bank, as downloaded (.zip) or unpacked (.csv). Raises FileInvalid or OSError."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                members = [name for name in archive.namelist() if name.lower().endswith(".csv")]
                if len(members) != 1:
                    raise FileInvalid(f"{path}: the archive must have one .csv file, not {len(members)}")
                with archive.open(members[0]) as packed:
                    yield io.TextIOWrapper(packed, encoding="utf-8-sig", newline="")
        else:
            with path.open(encoding="utf-8-sig", newline="") as lines:
                yield lines
    except (UnicodeDecodeError, csv.Error, zipfile.BadZipFile):
        raise FileInvalid(f"{path}: is neither eurofxref-hist.csv nor the zip file with it") from None


def load(client: httpx.Client, rates: Iterable[Rate], *, confirm_large_change: bool = False) -> LoadResult:
    """Store the rates in requests of a thousand each. Raises httpx.HTTPError."""
    totals = LoadResult(0, 0, 0)
    remaining = iter(rates)
    while batch := list(islice(remaining, _BATCH)):
        body = {"rates": [_to_json(rate) for rate in batch], "confirm_large_change": confirm_large_change}
        response = client.put(_ROUTE, json=body)
        if response.is_error:
            raise httpx.HTTPStatusError(response.text[:1000], request=response.request, response=response)
        counts = response.json()
        totals = LoadResult(*(total + counts[name] for name, total in totals._asdict().items()))
    return totals


def _to_json(rate: Rate) -> dict[str, str]:
    return {
        "base_currency": BASE,
        "quote_currency": rate.currency,
        "effective_date": rate.day.isoformat(),
        "rate": rate.rate,
        "source": SOURCE,
    }


def _address() -> str:
    """Return the REST address of the local stack."""
    from deploy.local.processes import choose_layout

    return f"http://127.0.0.1:{choose_layout(running=True).gateway_port}"


def _token(tenant: str) -> str:
    """Return TOKEN, or a token of the local stack."""
    from deploy.local import keys

    return os.environ.get("TOKEN") or keys.token(tenant=tenant, subject="rates", roles=["finance"])


def main() -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m deploy.rates", description=__doc__)
    parser.add_argument(
        "file", nargs="?", default="", help="eurofxref-hist.zip as downloaded from the bank, or the .csv in it"
    )
    parser.add_argument("--since", default=dt.date.min.isoformat(), help="only rates from this date on (YYYY-MM-DD)")
    parser.add_argument(
        "--confirm-large-change", action="store_true", help="also store rates more than 10 times off the last one"
    )
    parser.add_argument("--address", help="REST address; by default that of the local stack")
    parser.add_argument("--tenant", default="acme", help="tenant of the local stack; ignored with TOKEN")
    arguments = parser.parse_args()
    if not arguments.file:
        print("FILE is missing; for example: make rates FILE=eurofxref-hist.zip", file=sys.stderr)
        return 1
    try:
        since = dt.date.fromisoformat(arguments.since)
    except ValueError:
        print(f"SINCE={arguments.since}: is not a date (YYYY-MM-DD)", file=sys.stderr)
        return 1
    headers = {"Authorization": f"Bearer {_token(arguments.tenant)}"}
    try:
        with (
            open_file(Path(arguments.file)) as lines,
            httpx.Client(base_url=arguments.address or _address(), headers=headers, timeout=30.0) as client,
        ):
            rates = list(parse(lines, since=since))  # the whole file first: an invalid one is not loaded
            result = load(client, rates, confirm_large_change=arguments.confirm_large_change)
    except httpx.ConnectError:
        print(f"nothing listens at {client.base_url}; `make up` starts the local stack", file=sys.stderr)
        return 1
    except OSError as failure:
        print(f"FILE={arguments.file}: {failure.strerror or failure}", file=sys.stderr)
        return 1
    except (FileInvalid, httpx.HTTPError) as failure:
        print(failure, file=sys.stderr)
        return 1
    print(f"exchange rates: {result.created} created, {result.replaced} replaced, {result.unchanged} unchanged")
    return 0


if __name__ == "__main__":
    sys.exit(main())
