"""docs/security.md names tests that exist."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_named_test_and_page_exists() -> None:
    page = (ROOT / "docs" / "security.md").read_text()
    tests = re.findall(r"`(tests/[\w/]+\.py)`", page)
    assert tests
    for name in tests:
        assert (ROOT / name).exists(), name
    for link in re.findall(r"\]\(([^)#]+)", page):
        assert (ROOT / "docs" / link).exists(), link
    for name, text in re.findall(r"`(tests/[\w/]+\.py)` \(`(\w+)`\)", page):
        assert text in (ROOT / name).read_text(), text
