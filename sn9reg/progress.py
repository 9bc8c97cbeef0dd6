"""How far a long piece of work has come, and at what stage it is, for whoever wants to show it; nobody by default."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_Listeners = tuple[Callable[[float], None], Callable[[str], None]]
_listeners: ContextVar[_Listeners] = ContextVar("listeners", default=(lambda fraction: None, lambda stage: None))


@contextmanager
def listening(listener: Callable[[float], None], stages: Callable[[str], None] = lambda stage: None) -> Iterator[None]:
    """Inside, `listener` is called with the fraction done, 0 to 1, and `stages` with each stage's name as it begins."""
    token = _listeners.set((listener, stages))
    try:
        yield
    finally:
        _listeners.reset(token)


def report(fraction: float) -> None:
    """Tell whoever listens that this fraction of the work is done."""
    _listeners.get()[0](min(1.0, max(0.0, fraction)))


@contextmanager
def part(start: float, end: float, stage: str = "") -> Iterator[None]:
    """Inside, a whole is what lies between these two fractions of the work around. stage: its name, if it has one."""
    outer, stages = _listeners.get()
    if stage:
        stages(stage)
    with listening(lambda fraction: outer(start + (end - start) * fraction), stages):
        yield
