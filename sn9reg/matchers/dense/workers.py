"""Two threads for the tiles of a scene: one reads, copies or waits while the other computes."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

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
