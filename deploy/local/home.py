"""The folder that holds everything of the local stack: `.local/`, or `BILLING_HOME`."""

import contextlib
import os
import secrets
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from deploy.local.places import ROOT

HOME: Final = Path(os.environ.get("BILLING_HOME") or ROOT / ".local").absolute()
LOGS: Final = HOME / "logs"
RUN: Final = HOME / "run"
KEYS: Final = HOME / "keys"
SECRETS: Final = HOME / "secrets"
POSTGRES: Final = HOME / "postgres"
NATS: Final = HOME / "nats"

CONTENTS: Final = (LOGS, RUN, KEYS, SECRETS, POSTGRES, NATS)
"""All that the stack keeps; `reset` deletes exactly these."""


def make() -> None:
    """Make the folders that are missing."""
    if not HOME.exists():
        HOME.mkdir(parents=True)
        HOME.chmod(0o755)  # whatever the umask: the account of PostgreSQL goes through it
    for folder in (LOGS, RUN, KEYS, SECRETS):
        folder.mkdir(mode=0o700, exist_ok=True)


def secret(name: str) -> str:
    """A random secret of this name, made when it is first asked for."""
    return write_once(SECRETS / name, lambda: secrets.token_hex(24).encode()).decode()


def passwords(roles: Iterable[str]) -> dict[str, str]:
    """The password of each role of the database."""
    return {role: secret(f"database-{role}") for role in roles}


def write_once(path: Path, content: Callable[[], bytes]) -> bytes:
    """What is in the file. If there is none, it is written first, readable by us alone; of two at once one wins."""
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = _draft(path, content())
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(draft)
        draft.unlink()
    return path.read_bytes()


def write(path: Path, content: bytes) -> None:
    """Replace the file at once and whole, readable by us alone."""
    _draft(path, content).rename(path)


def _draft(path: Path, content: bytes) -> Path:
    handle, name = tempfile.mkstemp(prefix=path.name, dir=path.parent)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
    return Path(name)
