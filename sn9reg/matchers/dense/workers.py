"""Two threads for the tiles of a scene: one reads, copies or waits while the other computes."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch

from sn9reg.machine import enough_memory

Item = TypeVar("Item")
Asked = TypeVar("Asked")

_WORKERS = 2  # more would hold more in memory


@contextmanager
def workers() -> Iterator[Executor]:
    """Threads that share those of torch among themselves; a single one where torch may use one."""
    threads = torch.get_num_threads()
    count = min(_WORKERS, threads)
    pool = ThreadPoolExecutor(count, "tiles", torch.set_num_threads, (threads // count,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # what a worker says of itself holds for new threads and every FFT, too


def ahead(items: Iterable[Item], ask: Callable[[Item], Asked], count: int) -> Iterator[tuple[Item, Asked]]:
    """Each item with what `ask` returned for it, when it was called for `count` more items."""
    waiting = deque[tuple[Item, Asked]]()
    for item in items:
        waiting.append((item, ask(item)))
        if len(waiting) > count:
            yield waiting.popleft()
    yield from waiting


def in_halves(work: Callable[[npt.NDArray[np.intp]], None], part: npt.NDArray[np.intp]) -> None:
    """Do the work on a part at once, or on its halves where a GPU has no memory for that. Raises ConfigError where it
    has none for the least part."""
    try:
        with enough_memory() if len(part) == 1 else nullcontext():
            work(part)
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        for half in np.array_split(part, 2):
            in_halves(work, half)
