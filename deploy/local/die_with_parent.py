"""Run a command that is killed when its parent process ends, for whatever reason (Linux: PR_SET_PDEATHSIG).

    python -S die_with_parent.py --parent PID [--signal NAME] [--user NAME] -- COMMAND …

The command replaces this process and keeps its id, which is in `PARENT_PID` for its own children. Only the
standard library is imported: the start takes some 20 ms.
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
    """Return the prefix of a command line; the command gets the signal when `parent`, a process id, ends."""
    shim = [sys.executable, "-S", __file__, "--parent", parent, "--signal", signal_name]
    return [*shim, *(["--user", user] if user else []), "--"]


def main() -> None:
    """Run the command line."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--parent", type=int, required=True, help="process id of the parent")
    parser.add_argument("--signal", default="KILL", help="signal that the command gets when the parent ends")
    parser.add_argument("--user", help="account to run the command as")
    parser.add_argument("command", nargs="+")
    arguments = parser.parse_args()
    if arguments.user:
        become(arguments.user)
    end_with_parent(signal.Signals[f"SIG{arguments.signal}"])  # after the change of user, which would undo it
    if os.getppid() != arguments.parent:
        sys.exit(f"{arguments.command[0]}: its parent process ended before it started")
    os.environ["PARENT_PID"] = str(os.getpid())
    os.execvp(arguments.command[0], arguments.command)  # noqa: S606


def become(user: str) -> None:
    """Drop root privileges and become this account."""
    account = pwd.getpwnam(user)
    os.setgroups([])
    os.setgid(account.pw_gid)
    os.setuid(account.pw_uid)


def end_with_parent(number: int) -> None:
    """Request a signal for this process when its parent ends; 0 cancels it. Does nothing outside of Linux."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)


def command_line(pid: int) -> bytes:
    """Return the command line of a process; empty if there is no process with this id."""
    if sys.platform != "linux":
        return subprocess.run(["ps", "-o", "command=", "-p", str(pid)], capture_output=True, check=False).stdout
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
    except OSError:
        return b""


class ParentLink:
    """XML-RPC interface of supervisord by which the command that started it lets it keep running."""

    def detach(self) -> bool:
        """Keep running when the parent ends."""
        end_with_parent(0)
        return True


def parent_link(_supervisord: object, **_config: str) -> ParentLink:
    """Create the interface; supervisord calls this when it loads its configuration."""
    return ParentLink()


if __name__ == "__main__":
    main()
