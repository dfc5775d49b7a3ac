"""docs/operations.md lists exactly the metrics that the processes export."""

import importlib
import re
from pathlib import Path

from prometheus_client import REGISTRY

from kit.auth import ROLES

ROOT = Path(__file__).parents[2]
_DOCUMENT = ROOT / "docs" / "operations.md"
_PREFIXES = ("billing", "rpc", "http", "db")
_ENTRY_POINTS = ("services.entities.main", "services.budgets.main", "services.approvals.main", "gateway.server")


def exported() -> set[str]:
    """Return the names of our metrics; a counter ends with _total."""
    for module in _ENTRY_POINTS:
        importlib.import_module(module)
    return {
        f"{metric.name}_total" if metric.type == "counter" else metric.name
        for metric in REGISTRY.collect()
        if metric.name.partition("_")[0] in _PREFIXES and not metric.name.startswith("billing_test")
    }


def test_every_metric_is_documented() -> None:
    table = [line for line in _DOCUMENT.read_text().splitlines() if line.startswith("| `")]
    listed = {name for line in table for name in re.findall(r"`(\w+)`", line.split("|")[1])}
    documented = {name for name in listed if name.partition("_")[0] in _PREFIXES}
    assert documented == exported()


def test_alerts_and_runbook_name_existing_metrics() -> None:
    text = re.sub(r"\{[^}]*\}|by \([^)]*\)", "", _DOCUMENT.read_text())  # without labels
    names = set(re.findall(r"\b(?:billing|rpc|http|db)_\w+", text)) - ROLES.keys()
    metrics = exported()
    samples = {f"{name}{suffix}" for name in metrics for suffix in ("", "_bucket", "_count", "_sum")}
    assert names <= samples
