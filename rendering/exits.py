"""Exit codes of the worker; a negative code is the signal that ended it."""

import signal
from typing import Final

MEMORY_ERROR: Final = 3
FAILED: Final = 4

OUT_OF_MEMORY: Final = frozenset({MEMORY_ERROR, -signal.SIGKILL})
"""SIGKILL comes from the kernel when the machine or the container has no memory left."""
OUT_OF_CPU_TIME: Final = frozenset({-signal.SIGXCPU})
