"""The progress bar of long commands, on stderr, where that is a terminal."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

from sn9reg.progress import listening

_DELAY = 2.0  # seconds before a bar is shown at all
_FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {elapsed} gone, {remaining} left"


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[float], None]]:
    """A bar that shows what is reported inside, its stage and the time left, once two seconds have gone by; and what
    moves it by hand: a function of the fraction done. None is shown with -q."""
    hidden = None if logging.getLogger("sn9reg").isEnabledFor(logging.WARNING) else True  # None: but on a terminal
    with tqdm(total=100, desc=what, leave=False, disable=hidden, delay=_DELAY, bar_format=_FORMAT) as bar:

        def show(fraction: float) -> None:
            bar.update(max(0, int(fraction * 100) - bar.n))

        def name(stage: str) -> None:
            bar.set_description_str(f"{what}, {stage}", refresh=False)

        with listening(show, name):
            yield show
