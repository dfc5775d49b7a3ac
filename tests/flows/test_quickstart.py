"""The commands of the README work as written."""

import json
import re
import subprocess
from pathlib import Path

from tests.flows.conftest import ROOT, Stack


def _commands() -> str:
    """Return the shell blocks of the section "A first call" in the README."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = readme.partition("## A first call")[2].partition("\n## ")[0]
    return "\n".join(re.findall(r"^```sh\n(.*?)^```$", section, re.MULTILINE | re.DOTALL))


def test_quickstart_of_the_readme_works(stack: Stack, tmp_path: Path) -> None:
    script = tmp_path / "quickstart.sh"
    script.write_text("set -eu\n" + _commands(), encoding="utf-8")
    completed = subprocess.run(
        ["bash", str(script)],
        cwd=ROOT,
        env=dict(stack.environment),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr
    decoder, text, responses = json.JSONDecoder(), completed.stdout.strip(), []
    while text:
        response, end = decoder.raw_decode(text)
        responses.append(response)
        text = text[end:].lstrip()
    available, charge, alerts, refused, allocated, costs, rule, approved, history, over_grpc = responses
    assert available["verdict"] == "AVAILABLE"
    assert charge["chain"][0]["available_after"] == {"currency_code": "EUR", "amount": "1500.00"}
    assert [alert["threshold_bp"] for alert in alerts["alerts"]] == [8000, 5000]
    assert (refused["status"], refused["code"], refused["metadata"]["short"]) == (409, "BUDGET_EXCEEDED", "0.01")
    assert allocated["amount"] == {"currency_code": "EUR", "amount": "400.00"}
    assert costs["total"]["cost"] == {"currency_code": "EUR", "amount": "400.00"}
    assert (rule["rule_version"], approved["state"], approved["decided_by"]) == (1, "APPROVED", "erin")
    assert [one["action"] for one in history["actions"]] == ["REQUEST", "APPROVE"]
    # The charge of the allocation may not have arrived yet.
    assert over_grpc["spent"]["amount"] in {"8500.00", "8900.00"}
