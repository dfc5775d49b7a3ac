"""Import of the rates of the European Central Bank: parsing, and loading over REST as `make rates` does."""

import asyncio
import os
import sys
import zipfile
from collections.abc import AsyncIterator, Callable
from datetime import date
from pathlib import Path

import httpx
import pytest

from deploy import rates
from deploy.rates import FileInvalid, Rate
from kit.settings import Settings
from tests.entities.entities_api import EntitiesApi
from tests.gateway import process
from tests.harness.services import Entities, Served

ROOT = Path(__file__).parents[2]
ROUTE = "/api/enterprise-billing/exchange-rates"

FILE = """Date,USD,JPY,CYP,
2026-03-03,1.0875,162.5,N/A,
2026-03-02,1.0912,N/A,,
1999-01-04,1.1789,133.73,0.58231,
"""


class TestParse:
    def test_rates_of_all_days_and_currencies(self) -> None:
        assert list(rates.parse(FILE.splitlines())) == [
            Rate(date(2026, 3, 3), "USD", "1.0875"),
            Rate(date(2026, 3, 3), "JPY", "162.5"),
            Rate(date(2026, 3, 2), "USD", "1.0912"),
            Rate(date(1999, 1, 4), "USD", "1.1789"),
            Rate(date(1999, 1, 4), "JPY", "133.73"),
        ]

    def test_rates_before_the_start_day_are_left_out(self) -> None:
        imported = rates.parse(FILE.splitlines(), since=date(2026, 3, 2))
        assert {rate.day for rate in imported} == {date(2026, 3, 2), date(2026, 3, 3)}

    def test_spaces_and_empty_lines_are_ignored(self) -> None:
        assert list(rates.parse(["Date, USD, ", "", "2026-03-02, 1.5, "])) == [Rate(date(2026, 3, 2), "USD", "1.5")]

    @pytest.mark.parametrize(
        ("lines", "place"),
        [
            ([], "line 1"),
            (["Day,USD"], "line 1"),
            (["Date,USD", "2026-03-02,1.5", "02.03.2026,1.5"], "line 3"),
            (["Date,USD", "2026-03-02,1.5,1.6"], "line 2"),
            (["Date,USD", "2026-03-02,1,5"], "line 2"),
            (["Date,USD,JPY", "2026-03-02,1.5,-"], "line 2, JPY"),
            (["Date,USD", "2026-03-02,1e3"], "line 2, USD"),
        ],
    )
    def test_errors_have_their_position(self, lines: list[str], place: str) -> None:
        with pytest.raises(FileInvalid, match=f"^{place}:"):
            list(rates.parse(lines))


@pytest.fixture(scope="module")
async def url(settings: Callable[..., Settings], entities_served: Served[Entities]) -> AsyncIterator[str]:
    """A gateway in front of the entities service."""
    addresses = dict.fromkeys(("entities", "budgets", "approvals"), entities_served.address)
    async with process.running(settings("gateway", addresses=addresses)) as gateway:
        yield f"http://127.0.0.1:{gateway.port}"


class TestOverRest:
    async def test_rates_are_set_listed_and_refused(self, url: str, token: Callable[..., str]) -> None:
        headers = {"Authorization": f"Bearer {token()}"}
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=20.0) as client:
            rate = {"base_currency": "EUR", "quote_currency": "USD", "effective_date": "2026-03-02", "rate": "1.0875"}
            response = await client.put(ROUTE, json={"rates": [rate]})
            assert (response.status_code, response.json()) == (200, {"created": 1, "replaced": 0, "unchanged": 0})
            page = (await client.get(ROUTE, params={"quote_currency": "USD", "end_date": "2026-03-03"})).json()
            assert page["next_page_token"] == ""
            assert [{name: imported[name] for name in rate} for imported in page["exchange_rates"]] == [rate]
            error = await client.put(ROUTE, json={"rates": [rate, rate | {"rate": 1.1}]})
            assert (error.status_code, error.json()["errors"][0]["field"]) == (400, "rates[1].rate")

    async def test_file_can_be_loaded_twice(
        self, url: str, token: Callable[..., str], api: EntitiesApi, tmp_path: Path
    ) -> None:
        days = [date.fromordinal(date(2024, 1, 1).toordinal() + n) for n in range(1200)]
        lines = [f"{day},1.{n:04},N/A,0.8{n:04}," for n, day in enumerate(days, 1)]
        file = tmp_path / "eurofxref-hist.csv"
        file.write_text("\n".join(["Date,USD,CYP,GBP,", *lines]))
        assert await run(url, token(), file, "--since", "2024-01-02") == (0, loaded(created=2398))
        recorded = await api.list_rates(quote_currency="GBP", end_date="2024-01-04")
        assert [(rate.effective_date, rate.rate, rate.source) for rate in recorded] == [
            ("2024-01-02", "0.80002", "ECB"),
            ("2024-01-03", "0.80003", "ECB"),
        ]
        file.write_text(file.read_text().replace(lines[5], f"{days[5]},9.5,N/A,0.80006,"))
        assert await run(url, token(), file) == (0, loaded(created=2, replaced=1, unchanged=2397))

    async def test_rate_far_off_the_last_one_must_be_confirmed(
        self, url: str, token: Callable[..., str], api: EntitiesApi, tmp_path: Path
    ) -> None:
        file = tmp_path / "eurofxref-hist.csv"
        file.write_text("Date,USD,JPY\n2026-03-03,1087.5,162.5\n2026-03-02,1.0912,162.1\n")
        code, output = await run(url, token(), file)
        assert code == 1
        assert "The rate EUR/USD 1087.5 of 2026-03-03 is more than 10 times the rate 1.0912 of 2026-03-02" in output
        assert await api.rates() == []
        assert await run(url, token(), file, "--confirm-large-change") == (0, loaded(created=4))
        assert await run(url, token(), file) == (0, loaded(unchanged=4))

    async def test_invalid_file_loads_nothing(
        self, url: str, token: Callable[..., str], api: EntitiesApi, tmp_path: Path
    ) -> None:
        file = tmp_path / "eurofxref-hist.csv"
        file.write_text("\n".join(["Date,USD", *(f"2026-03-{n:02},1.5" for n in range(1, 32)), "2026-04-01,?"]))
        code, output = await run(url, token(), file)
        assert (code, output) == (1, "line 33, USD: '?' is neither a rate nor N/A")
        assert await api.rates() == []
        assert (await run(url, token(), tmp_path / "nothing.csv"))[0] == 1

    async def test_zip_file_is_loaded_as_downloaded(
        self, url: str, token: Callable[..., str], api: EntitiesApi, tmp_path: Path
    ) -> None:
        file = tmp_path / "eurofxref-hist.zip"
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("eurofxref-hist.csv", FILE)
        assert await run(url, token(), file, "--since", "2026-01-01") == (0, loaded(created=3))
        assert len(await api.rates()) == 3

    async def test_error_of_the_service_is_shown(self, url: str, token: Callable[..., str], tmp_path: Path) -> None:
        file = tmp_path / "eurofxref-hist.csv"
        file.write_text(FILE)
        code, output = await run(url, token(role="viewer"), file)
        assert code == 1
        assert "rates.write" in output


def loaded(created: int = 0, replaced: int = 0, unchanged: int = 0) -> str:
    return f"exchange rates: {created} created, {replaced} replaced, {unchanged} unchanged"


async def run(url: str, token: str, *arguments: object) -> tuple[int, str]:
    """Exit code and output of `python -m deploy.rates`."""
    command = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "deploy.rates", *map(str, arguments), "--address", url,
        cwd=ROOT, env={**os.environ, "TOKEN": token}, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await command.communicate()
    assert command.returncode is not None
    return command.returncode, output.decode().strip()
