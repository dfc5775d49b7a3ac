"""Follow the log files of the processes."""

import sys
import time
from collections.abc import Collection
from pathlib import Path
from typing import Final

from deploy.local import home

_LAST_BYTES: Final = 4096
_POLL_S: Final = 0.2


class _Tail:
    """Reads the end of a log file and the lines appended to it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("rb")
        size = self._file.seek(0, 2)
        self._file.seek(max(0, size - _LAST_BYTES))
        if size > _LAST_BYTES:
            self._file.readline()
        self._rest = b""

    def lines(self) -> list[bytes]:
        """Return complete lines appended since the last call; continues in the new file after a rotation."""
        read = self._file.read()
        if not read and self._path.exists() and self._path.stat().st_size < self._file.tell():
            self._file = self._path.open("rb")
            read = self._file.read()
        *lines, self._rest = (self._rest + read).split(b"\n")
        return lines


def follow(names: Collection[str]) -> None:
    """Print new log lines of these processes, or of all, with the process name, until interrupted."""
    tails: dict[str, _Tail] = {}
    if not any(home.LOGS.glob("*.log")):
        print("no logs yet: waiting; `make up` starts the stack", file=sys.stderr)
    while True:
        for path in sorted(home.LOGS.glob("*.log")):
            if (not names or path.stem in names) and path.stem not in tails:
                tails[path.stem] = _Tail(path)
        for name, tail in tails.items():
            for line in tail.lines():
                print(f"{name:<11} {line.decode(errors='replace')}", flush=True)
        time.sleep(_POLL_S)
