"""The worker process: reads JSON from stdin, writes the document that a layout makes of it to stdout.

    python -m rendering.worker <module of the layout> <bytes of memory> <seconds of CPU time>

A failure is reported on stderr with its type and place, without values of the document.
"""

import contextlib
import importlib
import json
import os
import resource
import sys
import traceback
from pathlib import Path

from rendering import exits

_NICENESS = 5
"""Calls of the service go first."""
_FILE_BYTES_MAX = 1 << 30
"""Maximum size of a temporary file."""


def _limit(memory_bytes: int, cpu_s: int) -> None:
    with contextlib.suppress(ValueError):  # macOS has no such limit
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 1))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_FILE_BYTES_MAX, _FILE_BYTES_MAX))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(_NICENESS)


def _failure(error: BaseException) -> str:
    """Return the type of an error and where it was raised. Its message may have values of the document."""
    frames = traceback.extract_tb(error.__traceback__)
    places = (f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames)
    return " ".join([type(error).__name__, *places])


def main() -> int:
    """Render one document."""
    layout, memory_bytes, cpu_s = sys.argv[1:]
    stdout = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints is not part of the document
    _limit(int(memory_bytes), int(cpu_s))
    try:
        document: bytes = importlib.import_module(layout).render(json.loads(sys.stdin.buffer.read()))
    except MemoryError:
        return exits.MEMORY_ERROR
    except BaseException as error:  # noqa: BLE001 - the service logs it; panics of Rust are no Exceptions
        sys.stderr.write(_failure(error))
        return exits.FAILED
    with stdout:
        stdout.write(document)
    return 0


if __name__ == "__main__":
    sys.exit(main())
