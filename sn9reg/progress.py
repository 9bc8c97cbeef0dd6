"""How far a long piece of work has come, for whoever wants to show it; nobody by default."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_listener: ContextVar[Callable[[float], None] | None] = ContextVar("listener", default=None)


@contextmanager
def listening(listener: Callable[[float], None]) -> Iterator[None]:
    """Inside, `listener` is called now and then with the fraction done, 0 to 1."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def report(fraction: float) -> None:
    """Tell whoever listens that this fraction of the work is done."""
    listener = _listener.get()
    if listener is not None:
        listener(min(1.0, max(0.0, fraction)))


@contextmanager
def part(start: float, end: float) -> Iterator[None]:
    """Inside, a whole is what lies between these two fractions of the work around."""
    outer = _listener.get()
    with listening(lambda fraction: outer(start + (end - start) * fraction) if outer else None):
        yield
