"""Completes the locks with the hashes of all files of each package, and lists the wheels: part of `make lock`.

uv keeps the hashes of a package whose version does not change, also those of the only file that one machine had.
`wheels.lock` names the wheels that the supported Pythons and platforms install, so that a test can tell whether a lock
covers them. No file contains an address.
"""

import re
import sys
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from deploy.local.paths import ROOT

LOCKS: Final = (ROOT / "requirements.lock", ROOT / "requirements-dev.lock")
WHEELS: Final = ROOT / "wheels.lock"
PLATFORMS: Final[Mapping[str, re.Pattern[str]]] = {
    "Linux x86_64": re.compile(r"(many)?linux\w*_x86_64"),
    "Linux aarch64": re.compile(r"(many)?linux\w*_aarch64"),
    "macOS arm64": re.compile(r"macosx_\w+_(arm64|universal2)"),
}
"""Supported platforms with the platform tags of their wheels."""
_ENTRY: Final = re.compile(r"(?m)^(([a-z0-9.-]+)==([^ ;\\]+)[^\\\n]*)((?: \\\n    --hash=sha256:[0-9a-f]{64})+)$")


class Wheel(NamedTuple):
    """A wheel of a locked package."""

    package: str
    file: str
    sha256: str

    def fits(self, minor: int, platform: re.Pattern[str]) -> bool:
        """True if CPython 3.<minor> installs it on the platform."""
        *_, pythons, abi, tags = self.file.removesuffix(".whl").split("-")
        by_python = any(_fits(python, abi, minor) for python in pythons.split("."))
        return by_python and (tags == "any" or any(platform.fullmatch(tag) for tag in tags.split(".")))


def _fits(python: str, abi: str, minor: int) -> bool:
    if python == f"cp3{minor}":
        return abi in {python, "abi3", "none"}
    if abi == "abi3":
        return python.startswith("cp3") and int(python[len("cp3") :]) <= minor
    return python == "py3" and abi == "none"


def supported_minors() -> list[int]:
    """Return the supported versions of Python, 3.<minor>, which the Makefile lists."""
    listed = re.search(r"(?m)^PYTHONS := (.*)$", (ROOT / "Makefile").read_text())
    return [int(version.partition(".")[2]) for version in listed[1].split()] if listed else []


def wheels() -> list[Wheel]:
    """Return the wheels in wheels.lock."""
    return [Wheel(*line.split()) for line in WHEELS.read_text().splitlines() if not line.startswith("#")]


def completed(lock: str, hashes: Mapping[str, Iterable[str]]) -> str:
    """Return the lock with all hashes of each `name==version`."""

    def entry(match: re.Match[str]) -> str:
        lines = [f" \\\n    --hash=sha256:{value}" for value in sorted(hashes[f"{match[2]}=={match[3]}"])]
        return match[1] + "".join(lines)

    return _ENTRY.sub(entry, lock)


def _files(package: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    sdist = [package["sdist"]] if "sdist" in package else []
    return [*sdist, *package.get("wheels", ())]


def main() -> int:
    """Complete the locks with the files listed in a pylock.toml."""
    packages = tomllib.loads(Path(sys.argv[1]).read_text())["packages"]
    hashes = {
        f"{one['name']}=={one['version']}": {file["hashes"]["sha256"] for file in _files(one)} for one in packages
    }
    for lock in LOCKS:
        lock.write_text(completed(lock.read_text(), hashes))
    all_wheels = [
        Wheel(package["name"], file.get("name") or file["url"].rpartition("/")[2], file["hashes"]["sha256"])
        for package in packages
        for file in package.get("wheels", ())
    ]
    used = [
        wheel
        for wheel in all_wheels
        if any(wheel.fits(minor, platform) for minor in supported_minors() for platform in PLATFORMS.values())
    ]
    head = "# Wheels of the locked packages for the supported Pythons and platforms; `make lock` writes this file."
    WHEELS.write_text("\n".join([head, *(" ".join(wheel) for wheel in sorted(used))]) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
