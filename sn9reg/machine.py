"""How a process uses the machine: its memory, its threads, and on what the dense path computes."""

from __future__ import annotations

import ctypes
import gc
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING

from sn9reg.errors import ConfigError

if TYPE_CHECKING:
    import torch

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
_KEPT = 1 << 30  # bytes
_chosen: ContextVar[str] = ContextVar("device", default="auto")


def be_quick_and_quiet() -> None:
    """To be said before NumPy and torch are loaded. Memory once asked for is kept for the next array: to give it back
    and ask again takes a fifth of the time (glibc alone). Threads that wait do not spin, and equations are solved by
    one: beside another busy process, threads that spin take ten times as long. What the environment says stays. Rubbish
    is looked for less often: while torch is loaded, there is none, and the search takes a third of a second."""
    gc.set_threshold(50_000, 20, 20)
    for name, value in (("OMP_WAIT_POLICY", "PASSIVE"), ("OPENBLAS_NUM_THREADS", "1")):
        os.environ.setdefault(name, value)
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            for parameter in (_TRIM_THRESHOLD, _MMAP_THRESHOLD):
                ctypes.CDLL(None).mallopt(parameter, _KEPT)


@contextmanager
def computing_on(name: str) -> Iterator[None]:
    """Inside, `device` is this one. Raises as `checked_device`."""
    token = _chosen.set(str(checked_device(name)))
    try:
        yield
    finally:
        _chosen.reset(token)


def device() -> torch.device:
    """On what the dense path is to compute; where nobody said, a GPU if there is one."""
    return checked_device(_chosen.get())


def checked_device(name: str) -> torch.device:
    """The device of a name: auto, cpu, cuda or cuda:N. Raises ConfigError for one that there is not."""
    import torch

    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise ConfigError(f"--device {name}: there is no such device; say auto, cpu, cuda or cuda:1")
    there = gpus()
    if name == "auto":
        name = "cuda" if there else "cpu"
    if name != "cpu" and int(name.partition(":")[2] or 0) >= there:
        have = f"{there} that torch can use, counted from 0" if there else "none that torch can use"
        raise ConfigError(f"--device {name}: of GPUs, this machine has {have}; --device cpu does without")
    return torch.device(name)


def gpus() -> int:
    """How many GPUs torch can use."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


@contextmanager
def enough_memory() -> Iterator[None]:
    """Raises ConfigError where what is inside does not fit into the memory of a GPU."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        message = "the GPU has too little free memory even for small parts; use --device cpu, or end what else uses it"
        raise ConfigError(message) from error
