"""The lock files."""

from tests.contract.source import ROOT


class TestLock:
    LOCK = ROOT / "requirements.lock"

    def test_it_names_no_address(self) -> None:
        text = self.LOCK.read_text()
        assert not [
            word for word in ("://", "@", "--index-url", "--extra-index-url", "--find-links", "file:") if word in text
        ]

    def test_every_line_is_a_pinned_version_or_its_hash(self) -> None:
        for line in self.LOCK.read_text().splitlines():
            entry = line.strip().removesuffix("\\").strip()
            assert not entry or entry.startswith(("#", "--hash=sha256:")) or "==" in entry, line
