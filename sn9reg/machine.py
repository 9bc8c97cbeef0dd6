"""How this process uses the machine. To be said before NumPy and torch are loaded."""

import ctypes
import os
import sys
from contextlib import suppress

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
_KEPT = 1 << 30  # bytes


def be_quick_and_quiet() -> None:
    """Memory once asked for is kept for the next array: to give it back and ask again takes a fifth of the time (glibc
    alone). Threads that wait do not spin, and equations are solved by one: beside another busy process, threads that
    spin take ten times as long. What the environment says stays.
    """
    for name, value in (("OMP_WAIT_POLICY", "PASSIVE"), ("OPENBLAS_NUM_THREADS", "1")):
        os.environ.setdefault(name, value)
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            mallopt = ctypes.CDLL(None).mallopt
            for parameter in (_TRIM_THRESHOLD, _MMAP_THRESHOLD):
                mallopt(parameter, _KEPT)
