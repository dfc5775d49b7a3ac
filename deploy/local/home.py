"""The folder with all files of the local stack: `.local/`, or `BILLING_HOME`."""

import contextlib
import os
import secrets
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from deploy.local.paths import ROOT

HOME: Final = Path(os.environ.get("BILLING_HOME") or ROOT / ".local").absolute()
LOGS: Final = HOME / "logs"
RUN: Final = HOME / "run"
KEYS: Final = HOME / "keys"
SECRETS: Final = HOME / "secrets"
POSTGRES: Final = HOME / "postgres"
NATS: Final = HOME / "nats"

CONTENTS: Final = (LOGS, RUN, KEYS, SECRETS, POSTGRES, NATS)
"""All folders of the stack; `reset` deletes exactly these."""


def make() -> None:
    """Create missing folders."""
    if not HOME.exists():
        HOME.mkdir(parents=True)
        HOME.chmod(0o755)  # regardless of the umask: the account of PostgreSQL must enter it
    for folder in (LOGS, RUN, KEYS, SECRETS):
        folder.mkdir(mode=0o700, exist_ok=True)


def secret(name: str) -> str:
    """Return the secret of this name; created at random on first use."""
    return write_once(SECRETS / name, lambda: secrets.token_hex(24).encode()).decode()


def passwords(roles: Iterable[str]) -> dict[str, str]:
    """Return the password of each database role."""
    return {role: secret(f"database-{role}") for role in roles}


def write_once(path: Path, content: Callable[[], bytes]) -> bytes:
    """Return the content of the file, which is created first if missing (mode 0600, atomic between processes)."""
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = _draft(path, content())
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(draft)
        draft.unlink()
    return path.read_bytes()


def write(path: Path, content: bytes) -> None:
    """Replace the file atomically, mode 0600."""
    _draft(path, content).rename(path)


def _draft(path: Path, content: bytes) -> Path:
    handle, name = tempfile.mkstemp(prefix=path.name, dir=path.parent)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
    return Path(name)
