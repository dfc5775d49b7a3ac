"""Layouts that test the limits of rendering workers; they run in the worker. `data["do"]` names the function."""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any


def render(data: Any) -> bytes:
    document: bytes = globals()[data["do"]](data)
    return document


def echo(data: Any) -> bytes:
    print("printed by a library")  # noqa: T201
    return str(data["text"]).encode()


def sleep(_: Any) -> bytes:
    time.sleep(60)
    return b""


def spin(_: Any) -> bytes:
    while True:
        pass


def fill_memory(_: Any) -> bytes:
    return b"".join([bytes(1 << 26) for _ in range(1 << 10)])


def fail(data: Any) -> bytes:
    raise ValueError(data["text"])


def crash(_: Any) -> bytes:
    os.kill(os.getpid(), signal.SIGSEGV)
    return b""


def end(_: Any) -> bytes:
    os.write(2, b"ended")
    os._exit(7)


def describe(data: Any) -> bytes:
    """The environment, the folder and the modules of the worker."""
    Path("left behind").write_text("x")
    modules = [name for name in ("grpc", "sqlalchemy", "google.protobuf") if name in sys.modules]
    return "\n".join([str(Path.cwd()), ",".join(modules), *sorted(os.environ)]).encode()
