"""Runs a command that ends when its parent ends, whatever ended the parent.

    python -S bound.py --parent PID [--signal NAME] [--user NAME] -- COMMAND …

The command takes this process over, so it has its id. It finds that id in `BOUND_PID`, to bind its own children to it.
Only the standard library is imported, so that this costs some 20 ms.
"""

import ctypes
import os
import pwd
import signal
import subprocess
import sys
from argparse import ArgumentParser
from pathlib import Path

_PR_SET_PDEATHSIG = 1


def command(*, parent: str, signal_name: str = "KILL", user: str | None = None) -> list[str]:
    """What to put before a command so that it gets the signal when its parent, a process id, ends."""
    shim = [sys.executable, "-S", __file__, "--parent", parent, "--signal", signal_name]
    return [*shim, *(["--user", user] if user else []), "--"]


def main() -> None:
    """The command line."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--parent", type=int, required=True, help="process whose end ends the command")
    parser.add_argument("--signal", default="KILL", help="signal that the command gets then")
    parser.add_argument("--user", help="account to run the command as")
    parser.add_argument("command", nargs="+")
    given = parser.parse_args()
    if given.user:
        become(given.user)
    end_with_parent(signal.Signals[f"SIG{given.signal}"])  # after the change of user, which would undo it
    if os.getppid() != given.parent:
        sys.exit(f"{given.command[0]}: its parent ended before it began")
    os.environ["BOUND_PID"] = str(os.getpid())
    os.execvp(given.command[0], given.command)  # noqa: S606


def become(user: str) -> None:
    """Give up root for an account, for good."""
    account = pwd.getpwnam(user)
    os.setgroups([])
    os.setgid(account.pw_gid)
    os.setuid(account.pw_uid)


def end_with_parent(number: int) -> None:
    """Get a signal when the parent ends; 0 ends the bond. Where the system has no such thing, nothing happens."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)


def command_line(pid: int) -> bytes:
    """The command that a process runs; empty if there is none with this id."""
    if sys.platform != "linux":
        return subprocess.run(["ps", "-o", "command=", "-p", str(pid)], capture_output=True, check=False).stdout
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
    except OSError:
        return b""


class Bond:
    """Lets supervisord be told, over its own XML-RPC, that it shall outlive the command that started it."""

    def unbind(self) -> bool:
        """Stay when the parent ends."""
        end_with_parent(0)
        return True


def bond(_supervisord: object, **_config: str) -> Bond:
    """What supervisord calls to load the interface."""
    return Bond()


if __name__ == "__main__":
    main()
