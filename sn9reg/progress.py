"""How far a long piece of work has come, and at what stage it is, for whoever wants to show it; nobody by default."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_listener: ContextVar[Callable[[float], None] | None] = ContextVar("listener", default=None)
_stages: ContextVar[Callable[[str], None] | None] = ContextVar("stages", default=None)


@contextmanager
def listening(listener: Callable[[float], None], stages: Callable[[str], None] | None = None) -> Iterator[None]:
    """Inside, `listener` is called now and then with the fraction done, 0 to 1, and `stages` with the name of each
    stage when it begins."""
    tokens = _listener.set(listener), _stages.set(stages)
    try:
        yield
    finally:
        _listener.reset(tokens[0])
        _stages.reset(tokens[1])


def report(fraction: float) -> None:
    """Tell whoever listens that this fraction of the work is done."""
    listener = _listener.get()
    if listener is not None:
        listener(min(1.0, max(0.0, fraction)))


@contextmanager
def part(start: float, end: float, stage: str = "") -> Iterator[None]:
    """Inside, a whole is what lies between these two fractions of the work around. stage: its name, if it has one."""
    outer, stages = _listener.get(), _stages.get()
    if stage and stages:
        stages(stage)
    with listening(lambda fraction: outer(start + (end - start) * fraction) if outer else None, stages):
        yield
