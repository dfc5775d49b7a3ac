"""What the README says is done, as it stands there."""

import json
import re
import subprocess
from pathlib import Path

from tests.flows.conftest import ROOT, Stack


def _commands() -> str:
    """The shell blocks of the README's first call."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = readme.partition("## A first call")[2].partition("\n## ")[0]
    return "\n".join(re.findall(r"^```sh\n(.*?)^```$", section, re.MULTILINE | re.DOTALL))


def test_the_quickstart_works_as_written(stack: Stack, tmp_path: Path) -> None:
    script = tmp_path / "quickstart.sh"
    script.write_text("set -eu\n" + _commands(), encoding="utf-8")
    done = subprocess.run(
        ["bash", str(script)],
        cwd=ROOT,
        env=dict(stack.environment),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    decoder, text, answers = json.JSONDecoder(), done.stdout.strip(), []
    while text:
        answer, end = decoder.raw_decode(text)
        answers.append(answer)
        text = text[end:].lstrip()
    available, charge, alerts, refused, allocated, costs, rule, approved, history, over_grpc = answers
    assert available["verdict"] == "AVAILABLE"
    assert charge["chain"][0]["available_after"] == {"currency_code": "EUR", "amount": "1500.00"}
    assert [alert["threshold_bp"] for alert in alerts["alerts"]] == [8000, 5000]
    assert (refused["status"], refused["code"], refused["metadata"]["short"]) == (409, "BUDGET_EXCEEDED", "0.01")
    assert allocated["amount"] == {"currency_code": "EUR", "amount": "400.00"}
    assert costs["total"]["cost"] == {"currency_code": "EUR", "amount": "400.00"}
    assert (rule["rule_version"], approved["state"], approved["decided_by"]) == (1, "APPROVED", "erin")
    assert [one["action"] for one in history["actions"]] == ["REQUEST", "APPROVE"]
    # The allocation is charged a moment after it was answered.
    assert over_grpc["spent"]["amount"] in {"8500.00", "8900.00"}
