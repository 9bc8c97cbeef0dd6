"""The progress bar of long commands, on stderr, where that is a terminal."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[float], None]]:
    """A bar, and what moves it: a function of the fraction done. None is shown with -q."""
    quiet = not logging.getLogger("sn9reg").isEnabledFor(logging.WARNING)
    with tqdm(total=100, unit="%", desc=what, leave=False, disable=True if quiet else None) as bar:

        def show(fraction: float) -> None:
            bar.update(max(0, int(fraction * 100) - bar.n))

        yield show
