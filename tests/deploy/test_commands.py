"""Commands with invalid options, or without a running stack, end at once with a text that names what is allowed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jwt
import pytest

from kit.version import VERSION

ROOT = Path(__file__).parents[2]
LOCAL = "deploy.local"
USAGE = "deploy.simulators.usage"
DIRECTORY = "deploy.simulators.directory"
RATES = "deploy.rates"


@pytest.fixture
def run(tmp_path: Path) -> "Run":
    return Run(tmp_path)


class Run:
    """Runs commands on a local stack that was never started."""

    def __init__(self, home: Path) -> None:
        self._environment = {**os.environ, "BILLING_HOME": str(home / "local")}

    def __call__(self, module: str, *arguments: str, **variables: str) -> tuple[int, str]:
        """Return the exit code and output of `python -m module`; variables are passed as `make` does."""
        completed = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=ROOT, env={**self._environment, **variables}, capture_output=True, text=True, timeout=20, check=False,
        )  # fmt: skip
        output = completed.stdout + completed.stderr
        assert "Traceback" not in output, output
        return completed.returncode, output.strip()


class TestOptions:
    def test_token_of_an_unknown_role(self, run: Run) -> None:
        code, output = run(LOCAL, "token", ROLE="cfo")
        assert code == 1
        assert output == (
            "ROLE=cfo: cfo is unknown. Known: billing_admin, finance, procurement, department_manager, approver,"
            " auditor, viewer"
        )

    @pytest.mark.parametrize(
        ("variables", "text"),
        [
            ({"ROLE": "finanse"}, "ROLE=finanse: finanse is unknown; did you mean finance? Known: "),
            ({"ROLE": "viewer,service"}, "ROLE=viewer,service: service is unknown. Known: "),
            ({"ROLE": ","}, "ROLE is missing. Known: "),
            (
                {"ROLE": "department_manager"},
                "ROLE=department_manager grants nothing without a scope: set ENTITY_SCOPE",
            ),
            ({"ENTITY_SCOPE": "ACME"}, "ENTITY_SCOPE=ACME: ACME must be the id of an entity"),
            ({"DEPARTMENT_SCOPE": "ent_" + "0" * 32}, "this is the id of an entity"),
        ],
    )
    def test_useless_token_is_not_created(self, run: Run, variables: dict[str, str], text: str) -> None:
        code, output = run(LOCAL, "token", **variables)
        assert code == 1
        assert text in output

    def test_token_of_several_roles(self, run: Run) -> None:
        code, token = run(LOCAL, "token", ROLE="viewer, approver")
        assert code == 0
        assert jwt.decode(token, options={"verify_signature": False})["roles"] == ["viewer", "approver"]

    @pytest.mark.parametrize(
        ("module", "arguments", "variables", "text"),
        [
            (
                LOCAL,
                ["logs"],
                {"NAME": "foo"},
                "NAME=foo: foo is unknown. Known: supervisord, postgres, nats, entities",
            ),
            (LOCAL, ["logs"], {"NAME": "gatway"}, "did you mean gateway?"),
            (LOCAL, ["address"], {"SERVICE": "foo"}, "SERVICE=foo: foo is unknown. Known: entities"),
            (LOCAL, ["psql"], {"SERVICE": "foo"}, "SERVICE=foo: foo is unknown. Known: entities"),
            (LOCAL, ["events"], {"FROM": "yesterday"}, "FROM=yesterday: yesterday is unknown. Known: now, start"),
            (LOCAL, ["up"], {"GATEWAY_PORT": "http"}, "GATEWAY_PORT=http: must be a whole number from 1 to 65535"),
            (LOCAL, ["up"], {"GATEWAY_PORT": "80000"}, "GATEWAY_PORT=80000: must be a whole number from 1 to 65535"),
            (USAGE, [], {"COUNT": "many"}, "COUNT=many: must be a whole number of 0 or more"),
            (USAGE, [], {"RATE": "-1"}, "RATE=-1: must be a number of 0 or more"),
            (DIRECTORY, ["deactivate", ""], {}, "WHO is missing. Known: "),
            (DIRECTORY, ["deactivate", "nobody"], {}, "WHO=nobody: nobody is unknown. Known: "),
        ],
    )
    def test_invalid_option_is_named(
        self, run: Run, module: str, arguments: list[str], variables: dict[str, str], text: str
    ) -> None:
        code, output = run(module, *arguments, **variables)
        assert code == 1
        assert text in output

    @pytest.mark.parametrize(
        ("module", "arguments"),
        [
            (LOCAL, ["events"]), (LOCAL, ["seed"]), (LOCAL, ["psql"]), (LOCAL, ["migrate"]), (USAGE, []),
            (DIRECTORY, ["deactivate", "erin"]),
        ],
    )  # fmt: skip
    def test_command_that_needs_the_stack_says_that_it_is_not_running(
        self, run: Run, module: str, arguments: list[str]
    ) -> None:
        code, output = run(module, *arguments)
        assert code == 1
        assert output.endswith("is not running; `make up` starts it")


class TestRates:
    def test_missing_file_is_named(self, run: Run) -> None:
        assert run(RATES, "") == (1, "FILE is missing; for example: make rates FILE=eurofxref-hist.zip")

    def test_file_that_does_not_exist(self, run: Run) -> None:
        code, output = run(RATES, "nothing.csv")
        assert (code, output) == (1, "FILE=nothing.csv: No such file or directory")

    def test_other_file_is_rejected(self, run: Run, tmp_path: Path) -> None:
        file = tmp_path / "picture.png"
        file.write_bytes(b"\x89PNG\xff\xfe")
        code, output = run(RATES, str(file))
        assert (code, output) == (1, f"{file}: is neither eurofxref-hist.csv nor the zip file with it")

    def test_invalid_date_is_named(self, run: Run) -> None:
        assert run(RATES, "rates.csv", "--since", "foo") == (1, "SINCE=foo: is not a date (YYYY-MM-DD)")

    def test_stack_that_is_not_running_is_named(self, run: Run, tmp_path: Path) -> None:
        file = tmp_path / "eurofxref-hist.csv"
        file.write_text("Date,USD\n2026-03-02,1.5\n")
        code, output = run(RATES, str(file), "--address", "http://127.0.0.1:1")
        assert (code, output) == (1, "nothing listens at http://127.0.0.1:1; `make up` starts the local stack")


def test_version_is_the_same_everywhere() -> None:
    document = json.loads((ROOT / "docs" / "openapi.json").read_text())
    assert document["info"]["version"] == VERSION
    assert 'version = { attr = "kit.version.VERSION" }' in (ROOT / "pyproject.toml").read_text()
    assert VERSION not in (ROOT / "pyproject.toml").read_text()
